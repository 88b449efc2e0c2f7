"""A queue is paused, resumed and scaled while workers execute its runs: none is lost or doubled."""

from __future__ import annotations

import asyncio
from collections import Counter
from typing import Any

from langchain_core.runnables import RunnableConfig

from aiodurable.durable import Durable
from aiodurable.models import RunStatus
from aiodurable.queue import NewRun
from aiodurable.settings import Settings
from tests.support.scenario_graphs import chain, ok
from tests.support.waiting import wait_until

INPUT: dict[str, Any] = {"xs": ["in"]}
RUNS = 60


class AtWork:
    """Attributes: `begun` counts calls by thread; `most` is how many were at work at once, since it
    was last set to 0."""

    def __init__(self) -> None:
        self.begun = Counter[str]()
        self.now = self.most = 0

    async def node(self, state: Any, config: RunnableConfig) -> dict[str, Any]:
        self.begun[str(config.get("configurable", {})["thread_id"])] += 1
        self.now += 1
        self.most = max(self.most, self.now)
        for _ in range(3):  # others come in between
            await asyncio.sleep(0)
        self.now -= 1
        return {"xs": ["worked"]}


async def test_a_queue_that_is_paused_resumed_and_scaled_under_load_finishes_each_run_once(
    dsn: str,
) -> None:
    seen = AtWork()
    graphs = {"busy": chain(a=seen.node), "other": chain(a=ok("a"))}
    settings = Settings()
    async with (
        Durable(dsn, graphs=graphs, settings=settings) as durable,
        durable.work(["busy", "other"], concurrency=4),
        durable.work(["busy", "other"], concurrency=4),
    ):

        async def accept(batch: int) -> list[str]:
            accepted = await durable.runs.create_many(
                NewRun(thread_id=f"{batch}-{n}", graph="busy", input=INPUT, queue="busy")
                for n in range(RUNS)
            )
            return [run.run_id for run in accepted]

        async def looked_again() -> None:
            """Both workers have looked at their queues since: more than one can execute."""
            some = await durable.runs.create_many(
                NewRun(thread_id=f"other-{n}", graph="other", input=INPUT, queue="other")
                for n in range(9)
            )
            for run in some:
                await durable.runs.wait_first([run.run_id], timeout=60)

        ids = await accept(1)
        await wait_until(lambda: seen.begun, 60)

        await durable.queues.pause("busy")
        ids += await accept(2)

        async def at_rest() -> bool:
            [busy] = [queue for queue in await durable.queues.list() if queue.name == "busy"]
            return busy.paused and busy.running == 0

        await looked_again()  # a claim that was under way at the pause may take what was ready
        await wait_until(at_rest, 60)
        begun = seen.begun.total()
        await looked_again()
        assert seen.begun.total() == begun
        assert seen.begun.total() < len(ids)

        await durable.queues.scale("busy", max_running=1)
        assert await at_rest(), "it stays paused"
        seen.most = 0
        await durable.queues.resume("busy")
        await wait_until(lambda: seen.begun.total() >= begun + 10, 60)
        assert seen.most == 1

        await durable.queues.scale("busy", max_running=3)
        ids += await accept(3)
        await wait_until(lambda: seen.most > 1, 60)
        assert seen.most <= 3
        await durable.queues.scale("busy")
        for run_id in ids:
            record = await durable.runs.wait_first([run_id], timeout=60)
            assert (record.status, record.attempts) == (RunStatus.COMPLETE, 1)
    assert set(seen.begun.values()) == {1}
    assert len(seen.begun) == 3 * RUNS
