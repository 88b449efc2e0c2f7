"""Whatever is sent and taken in whatever order: of each name first in, first out; each signal is
taken once, also by an attempt that dies with it; one of an id that came before is none; what a
sender rolls back was never sent.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections import defaultdict, deque
from typing import Any
from unittest.mock import patch

import asyncpg
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, rule, run_state_machine_as_test

from aiodurable import Durable, WaitTimeoutError, wait_for
from aiodurable.runs.durable_run import DurableRun
from tests.support import loops
from tests.support.scenario_graphs import chain
from tests.support.waiting import within

NAMES = st.sampled_from(["a", "b"])
IDS = st.sampled_from([None, None, "1", "2", "3"])


async def takes(state: Any) -> dict[str, Any]:
    try:
        return {"xs": [await wait_for(state["xs"][-1], timeout=0)]}
    except WaitTimeoutError:
        return {"xs": ["nothing"]}


class Mailbox(RuleBasedStateMachine):
    """Rules act on one thread, and on a model of its mailbox."""

    dsn = ""
    number = 0

    def __init__(self) -> None:
        super().__init__()
        Mailbox.number += 1
        self.thread = f"t{Mailbox.number}"
        self.runner = asyncio.Runner(loop_factory=loops.new_event_loop)
        self.waiting = defaultdict[str, deque[str]](deque)
        self.ids = set[str]()
        self.sent = 0
        self.durable = Durable(self.dsn, graphs={"takes": chain(takes=takes)})
        self.do(self.durable.__aenter__())

    def do(self, work: Any) -> Any:
        return self.runner.run(within(30, work))

    @rule(name=NAMES, signal_id=IDS, how=st.sampled_from(["alone", "commit", "rollback"]))
    def send(self, name: str, signal_id: str | None, how: str) -> None:
        self.sent += 1
        value = f"{name}{self.sent}"

        async def work() -> bool:
            signal = self.durable.threads.signal
            if how == "alone":
                return await signal(self.thread, name, value, signal_id=signal_id)
            connection: Any = await asyncpg.connect(self.dsn)
            try:
                transaction = connection.transaction()
                await transaction.start()
                new = await signal(self.thread, name, value, signal_id=signal_id, conn=connection)
                await (transaction.commit() if how == "commit" else transaction.rollback())
                return new
            finally:
                await connection.close()

        assert self.do(work()) is (signal_id not in self.ids)
        if how != "rollback" and signal_id not in self.ids:
            self.waiting[name].append(value)
            self.ids.update([signal_id] if signal_id is not None else [])

    @rule(name=NAMES, dies=st.booleans())
    def take(self, name: str, dies: bool) -> None:
        async def refuses(*_: Any) -> None:
            raise ConnectionError("the attempt dies with what it has taken")

        async def work() -> str:
            async with self.durable.run(self.thread, "takes") as run:
                await run.ainvoke({"xs": [name]})
            if dies:
                async with self.durable.run(self.thread, "takes") as run:
                    with (
                        patch.object(DurableRun, "_invoke", refuses),
                        contextlib.suppress(ConnectionError),
                    ):
                        await run.ainvoke()
            async with self.durable.run(self.thread, "takes") as run:
                return (await run.ainvoke())["xs"][-1]

        expected = self.waiting[name].popleft() if self.waiting[name] else "nothing"
        assert self.do(work()) == expected

    def teardown(self) -> None:
        self.do(self.durable.aclose())
        self.runner.close()


def test_a_mailbox_gives_each_signal_once_and_in_order(dsn: str) -> None:
    Mailbox.dsn = dsn
    run_state_machine_as_test(
        Mailbox,
        settings=settings(
            max_examples=8,
            stateful_step_count=12,
            deadline=None,
            database=None,
            suppress_health_check=list(HealthCheck),
        ),
    )
