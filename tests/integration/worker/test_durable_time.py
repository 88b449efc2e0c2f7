"""A node sleeps, or waits for a signal, and its run holds nothing until a worker goes on with it."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from datetime import UTC, datetime, timedelta, timezone
from typing import Any

import pytest
from langgraph.types import interrupt

from aiodurable import sleep, sleep_sync, sleep_until, wait_for, wait_for_sync
from aiodurable.durable import Durable
from aiodurable.errors import (
    ConfigurationError,
    InvalidArgumentError,
    NothingToAnswerError,
    RunCancelledError,
    ThreadPausedError,
    WaitTimeoutError,
)
from aiodurable.models import ClaimState, PauseReason, RunRecord, RunStatus, ThreadStatus
from tests.support.scenario_graphs import chain, ok
from tests.support.waiting import is_held, wait_until

INPUT: dict[str, Any] = {"xs": ["in"]}
NAP_S = 0.4
"""Of tests that wait for its end."""
LONG_NAP_S = 2.0
"""Of those that look at the run before its end, on a machine that may stand still for a second."""


class Nodes:
    """Nodes that sleep and wait; `seen` has what each one noted."""

    def __init__(self) -> None:
        self.seen: list[str] = []
        self.nap_s = NAP_S
        self.timeout: float | None = None
        self.question: Any = None
        self.at_work, self.released = asyncio.Event(), asyncio.Event()

    async def naps(self, state: Any) -> dict[str, Any]:
        self.seen.append("naps")
        await sleep(self.nap_s)
        return {"xs": ["slept"]}

    async def naps_long(self, state: Any) -> dict[str, Any]:
        self.seen.append("long")
        await sleep(self.nap_s * 3)
        return {"xs": ["slept long"]}

    async def naps_twice(self, state: Any) -> dict[str, Any]:
        self.seen.append("first")
        await sleep(self.nap_s)
        self.seen.append("second")
        await sleep_until(datetime.now(UTC))
        return {"xs": ["slept twice"]}

    async def naps_twice_long(self, state: Any) -> dict[str, Any]:
        await sleep(self.nap_s)
        self.seen.append("second")
        await sleep(3600)
        return {"xs": ["slept twice"]}

    def naps_in_a_thread(self, state: Any) -> dict[str, Any]:
        sleep_sync(self.nap_s)
        return {"xs": [f"slept, {wait_for_sync('coin')}"]}

    async def waits(self, state: Any) -> dict[str, Any]:
        try:
            value = await wait_for("payment", timeout=self.timeout)
        except WaitTimeoutError:
            value = "nothing"
        return {"xs": [f"got {value}"]}

    async def works(self, state: Any) -> dict[str, Any]:
        self.at_work.set()
        await self.released.wait()
        return {"xs": ["worked"]}

    async def naps_then_asks(self, state: Any) -> dict[str, Any]:
        await sleep(self.nap_s)
        return {"xs": [f"answered {interrupt('which?')}"]}

    async def asks_then_naps(self, state: Any) -> dict[str, Any]:
        answer = interrupt("which?")
        await sleep(self.nap_s)
        return {"xs": [f"slept on {answer}"]}

    async def naps_until_ever(self, state: Any) -> dict[str, Any]:
        await sleep_until(datetime.max.replace(tzinfo=timezone(-timedelta(hours=1))))
        return {"xs": []}

    async def asks_anything(self, state: Any) -> dict[str, Any]:
        return {"xs": [interrupt(self.question)]}

    async def asks(self, state: Any) -> dict[str, Any]:
        return {"xs": [f"answered {interrupt('which?')}"]}


@pytest.fixture
def nodes() -> Nodes:
    return Nodes()


@pytest.fixture
async def durable(dsn: str, nodes: Nodes) -> AsyncIterator[Durable]:
    from langgraph.graph import START, StateGraph

    from tests.support.scenario_graphs import State

    parallel = StateGraph(State)
    for name in ("naps", "naps_long", "asks"):
        parallel.add_node(name, getattr(nodes, name))
        parallel.add_edge(START, name)
    graphs: dict[str, Any] = {
        "naps": chain(a=ok("a"), naps=nodes.naps, b=ok("b")),
        "twice": chain(twice=nodes.naps_twice),
        "twice long": chain(twice=nodes.naps_twice_long),
        "sync": chain(naps=nodes.naps_in_a_thread),
        "waits": chain(a=ok("a"), waits=nodes.waits),
        "parallel": parallel,
        "works": chain(works=nodes.works),
        "naps then asks": chain(one=nodes.naps_then_asks),
        "asks then naps": chain(one=nodes.asks_then_naps),
        "until": chain(one=nodes.naps_until_ever),
        "asks anything": chain(one=nodes.asks_anything),
        "subgraph": chain(inner=chain(naps=nodes.naps, waits=nodes.waits).compile()),
    }
    async with Durable(dsn, graphs=graphs) as opened:
        yield opened


async def asleep(durable: Durable, run_id: str) -> RunRecord:
    """The run, once it sleeps and its worker has let its thread go."""

    async def found() -> RunRecord | None:
        record = await durable.runs.get(run_id)
        sleeps = record.claim_state is ClaimState.SCHEDULED
        return record if sleeps and not await is_held(durable, record.thread_id) else None

    return await wait_until(found, 20, what=f"{run_id} asleep")  # type: ignore[arg-type,return-value]


async def test_a_run_that_sleeps_holds_nothing_and_goes_on_when_it_is_due(
    durable: Durable, nodes: Nodes
) -> None:
    nodes.nap_s = LONG_NAP_S
    async with durable.work():
        created = await durable.runs.create("t", "naps", INPUT)
        slept = await asleep(durable, created.run_id)
        assert (slept.status, slept.reason) == (RunStatus.PAUSED, PauseReason.SLEEPING)
        thread = await durable.threads.status("t")
        assert (thread.status, thread.reason) == (ThreadStatus.PAUSED, PauseReason.SLEEPING)
        assert (thread.holder, thread.interrupts, thread.resumable) == (None, (), False)
        assert slept.scheduled_at == thread.waits[0].until
        result = await durable.runs.wait(created.run_id, timeout=20)
        assert result["xs"] == ["in", "a", "slept", "b"]
        over = await durable.runs.get(created.run_id)
    assert (over.attempts, over.claim_state) == (1, None)
    assert over.finished_at is not None
    assert slept.scheduled_at is not None
    assert over.finished_at >= slept.scheduled_at
    assert nodes.seen == ["naps", "naps"]


async def test_a_node_sleeps_twice_and_each_sleep_ends_once(durable: Durable, nodes: Nodes) -> None:
    async with durable.work():
        created = await durable.runs.create("t", "twice", INPUT)
        result = await durable.runs.wait(created.run_id, timeout=20)
    assert result["xs"] == ["in", "slept twice"]
    assert nodes.seen == ["first", "first", "second", "first", "second"]


async def test_a_def_node_sleeps_and_waits(durable: Durable) -> None:
    await durable.threads.signal("t", "coin", "heads")
    async with durable.work():
        created = await durable.runs.create("t", "sync", INPUT)
        result = await durable.runs.wait(created.run_id, timeout=20)
    assert result["xs"] == ["in", "slept, heads"]


async def test_a_signal_that_came_before_is_taken_at_once_and_one_that_comes_later_wakes(
    durable: Durable,
) -> None:
    assert await durable.threads.signal("early", "payment", {"amount": 7})
    async with durable.work():
        created = await durable.runs.create("early", "waits", INPUT)
        result = await durable.runs.wait(created.run_id, timeout=20)
        assert result["xs"][-1] == "got {'amount': 7}"
        created = await durable.runs.create("late", "waits", INPUT)
        waiting = await asleep(durable, created.run_id)
        assert (waiting.reason, waiting.scheduled_at) == (PauseReason.WAITING, None)
        assert await durable.threads.signal("late", "refund", 1)
        assert await durable.threads.signal("late", "payment", None)
        result = await durable.runs.wait(created.run_id, timeout=20)
        assert result["xs"][-1] == "got None"


async def test_each_signal_is_taken_by_one_wait_in_the_order_in_which_they_came(
    durable: Durable,
) -> None:
    for n in range(3):
        assert await durable.threads.signal("t", "payment", n, signal_id=f"p{n}")
        assert not await durable.threads.signal("t", "payment", n, signal_id=f"p{n}")
    async with durable.work():
        for n in range(3):
            created = await durable.runs.create("t", "waits", INPUT)
            result = await durable.runs.wait(created.run_id, timeout=20)
            assert result["xs"][-1] == f"got {n}"
            assert not await durable.threads.signal("t", "payment", n, signal_id=f"p{n}")
        created = await durable.runs.create("t", "waits", INPUT)
        await asleep(durable, created.run_id)


async def test_a_wait_times_out(durable: Durable, nodes: Nodes) -> None:
    nodes.timeout = NAP_S
    async with durable.work():
        created = await durable.runs.create("t", "waits", INPUT)
        result = await durable.runs.wait(created.run_id, timeout=20)
    assert result["xs"][-1] == "got nothing"


async def test_of_parallel_sleeps_each_is_due_at_its_own_time_beside_a_question(
    durable: Durable, nodes: Nodes
) -> None:
    nodes.nap_s = LONG_NAP_S
    async with durable.work():
        created = await durable.runs.create("t", "parallel", INPUT)
        first = await asleep(durable, created.run_id)
        thread = await durable.threads.status("t")
        assert thread.status is ThreadStatus.INTERRUPTED
        assert [question.value for question in thread.interrupts] == ["which?"]
        dues = {wait.id: wait.until for wait in thread.waits}
        assert len(dues) == 2
        assert first.scheduled_at == min(dues.values())  # type: ignore[type-var]

        async def one_left() -> bool:
            return len((await durable.threads.status("t")).waits) == 1

        await wait_until(one_left, 20)
        await asleep(durable, created.run_id)
        (left,) = (await durable.threads.status("t")).waits
        assert left.until == dues[left.id], "a sleep that goes on is not moved"
        async with durable.run("t", "parallel", on_busy="wait") as run:
            await run.answer("that")
        result = await durable.runs.wait(created.run_id, timeout=20)
    assert sorted(result["xs"]) == ["answered that", "in", "slept", "slept long"]


async def test_a_direct_run_that_sleeps_goes_on_with_a_worker(
    durable: Durable, nodes: Nodes
) -> None:
    nodes.nap_s = LONG_NAP_S
    async with durable.run("t", "naps") as run:
        result = await run.ainvoke(INPUT)
        assert result["xs"] == ["in", "a"]
        assert len(result["__interrupt__"]) == 1
        with pytest.raises(ThreadPausedError, match="sleeps until"):
            await run.ainvoke()
        with pytest.raises(ThreadPausedError, match="sleeps until"):
            await run.ainvoke({"xs": ["another"]})
        with pytest.raises(NothingToAnswerError):
            await run.answer("wake up")
    async with durable.work():
        result = await durable.runs.wait(run.run_id, timeout=20)
    assert result["xs"] == ["in", "a", "slept", "b"]


async def test_a_direct_call_goes_on_itself_once_it_is_due(durable: Durable) -> None:
    async with durable.run("t", "naps") as run:
        await run.ainvoke(INPUT)
    (wait,) = (await durable.threads.status("t")).waits

    async def due() -> bool:
        assert wait.until is not None
        return datetime.now(UTC) > wait.until + timedelta(milliseconds=50)

    await wait_until(due, 20)
    async with durable.run("t", "naps") as run:
        result = await run.ainvoke()
    assert result["xs"] == ["in", "a", "slept", "b"]


async def test_a_sleeping_run_is_cancelled_at_once_and_given_up_by_a_restart(
    durable: Durable, nodes: Nodes
) -> None:
    nodes.nap_s = 3600
    async with durable.work():
        first = await durable.runs.create("t", "naps", INPUT)
        await asleep(durable, first.run_id)
        assert await durable.threads.cancel("t")
        with pytest.raises(RunCancelledError):
            await durable.runs.wait(first.run_id, timeout=20)
        assert (await durable.threads.status("t")).reason == PauseReason.CANCELLED
        second = await durable.runs.create("u", "naps", INPUT)
        await asleep(durable, second.run_id)
        await durable.runs.cancel(second.run_id)
        with pytest.raises(RunCancelledError):
            await durable.runs.wait(second.run_id, timeout=20)
    async with durable.run("t", "naps") as run:
        nodes.nap_s = 0
        await run.ainvoke({"xs": ["anew"]}, on_unfinished="restart")
    assert (await durable.runs.get(first.run_id)).status is RunStatus.SUPERSEDED


async def test_a_sleep_is_not_moved_by_a_retry_after_a_cancellation(
    durable: Durable, nodes: Nodes
) -> None:
    nodes.nap_s = 3600
    async with durable.work():
        created = await durable.runs.create("t", "naps", INPUT)
        slept = await asleep(durable, created.run_id)
        await durable.runs.cancel(created.run_id)
        await durable.runs.retry(created.run_id)
        again = await asleep(durable, created.run_id)
    assert again.scheduled_at == slept.scheduled_at


async def test_a_signal_goes_with_the_transaction_of_its_sender(durable: Durable, dsn: str) -> None:
    import asyncpg

    conn = await asyncpg.connect(dsn)
    try:
        async with durable.work():
            created = await durable.runs.create("t", "waits", INPUT)
            await asleep(durable, created.run_id)
            transaction = conn.transaction()
            await transaction.start()
            assert await durable.threads.signal("t", "payment", "lost", conn=conn)
            await transaction.rollback()
            async with conn.transaction():
                assert await durable.threads.signal("t", "payment", "kept", conn=conn)
            result = await durable.runs.wait(created.run_id, timeout=20)
    finally:
        await conn.close()
    assert result["xs"][-1] == "got kept"


async def test_a_signal_whose_transaction_was_open_while_its_run_came_to_wait_is_heard(
    durable: Durable, dsn: str
) -> None:
    import asyncpg

    conn = await asyncpg.connect(dsn)
    try:
        async with durable.work():
            async with conn.transaction():
                assert await durable.threads.signal("t", "payment", "early", conn=conn)
                created = await durable.runs.create("t", "waits", INPUT)
                await asleep(durable, created.run_id)
            result = await durable.runs.wait(created.run_id, timeout=20)
    finally:
        await conn.close()
    assert result["xs"][-1] == "got early"


async def test_what_cannot_be_slept_is_refused(durable: Durable, nodes: Nodes) -> None:
    with pytest.raises(ConfigurationError):
        await sleep(1)
    for seconds in (-1, float("nan"), float("inf"), True, "1"):
        nodes.nap_s = seconds  # type: ignore[assignment]
        async with durable.run(f"t{seconds}", "naps") as run:
            with pytest.raises(InvalidArgumentError):
                await run.ainvoke(INPUT)
    for name in ("", "a\nb", "x" * 201, 7):
        with pytest.raises(InvalidArgumentError):
            await durable.threads.signal("t", name, 1)  # type: ignore[arg-type]


async def test_a_senders_open_transaction_keeps_no_run_from_its_end(
    durable: Durable, nodes: Nodes, dsn: str
) -> None:
    import asyncpg

    conn = await asyncpg.connect(dsn)
    try:
        async with durable.run("t", "works") as run:
            call = asyncio.create_task(run.ainvoke(INPUT))
            await nodes.at_work.wait()
            async with conn.transaction():
                assert await durable.threads.signal("t", "payment", 1, conn=conn)
                nodes.released.set()
                async with asyncio.timeout(30):
                    assert await call == {"xs": ["in", "worked"]}
    finally:
        await conn.close()


async def test_a_signal_is_sent_once_though_the_answer_to_its_statement_was_lost(
    durable: Durable, monkeypatch: pytest.MonkeyPatch
) -> None:
    from aiodurable.postgres.direct import DirectConnection
    from aiodurable.runs.signals import _OWN_SEND  # type: ignore[attr-defined]

    fetch, lost = DirectConnection.fetch, 0

    async def loses(connection: DirectConnection, query: str, *args: Any) -> Any:
        nonlocal lost
        rows = await fetch(connection, query, *args)
        if query == _OWN_SEND and not lost:
            lost += 1
            connection.drop()
            raise ConnectionResetError
        return rows

    monkeypatch.setattr(DirectConnection, "fetch", loses)
    assert await durable.threads.signal("t", "payment", "heads")
    assert lost
    async with durable.run("t", "waits") as run:
        assert (await run.ainvoke(INPUT))["xs"][-1] == "a"
        assert (await run.ainvoke())["xs"][-1] == "got heads"
    async with durable.run("t", "waits") as run:
        await run.ainvoke(INPUT)
        with pytest.raises(ThreadPausedError, match="waits for signal 'payment'"):
            await run.ainvoke()


async def test_a_node_that_sleeps_and_then_asks_takes_the_answer_for_its_question(
    durable: Durable,
) -> None:
    async with durable.work():
        created = await durable.runs.create("t", "naps then asks", INPUT)

        async def asked() -> bool:
            return (await durable.threads.status("t")).status is ThreadStatus.INTERRUPTED

        await wait_until(asked, 20)
        async with durable.run("t", "naps then asks", on_busy="wait") as run:
            assert (await run.answer("this"))["xs"] == ["in", "answered this"]
        assert (await durable.runs.get(created.run_id)).status is RunStatus.COMPLETE


async def test_an_answer_that_comes_again_while_the_node_sleeps_has_its_result_so_far(
    durable: Durable, nodes: Nodes
) -> None:
    nodes.nap_s = LONG_NAP_S
    async with durable.run("t", "asks then naps") as run:
        await run.ainvoke(INPUT)
        first = await run.answer("that")
    async with durable.run("t", "asks then naps") as run:
        again = await run.answer("that")
    assert first["xs"] == again["xs"] == ["in"]
    async with durable.work():
        result = await durable.runs.wait(run.run_id, timeout=20)
    assert result["xs"] == ["in", "slept on that"]


async def test_nodes_of_a_subgraph_sleep_and_wait(durable: Durable) -> None:
    async with durable.work():
        created = await durable.runs.create("t", "subgraph", INPUT)

        async def waits() -> bool:
            return (await durable.threads.status("t")).reason == PauseReason.WAITING

        await wait_until(waits, 20)
        assert await durable.threads.signal("t", "payment", 7)
        result = await durable.runs.wait(created.run_id, timeout=20)
    assert result["xs"][-2:] == ["slept", "got 7"]


async def test_a_second_sleep_is_not_cut_short_by_a_retry_after_a_cancellation(
    durable: Durable, nodes: Nodes
) -> None:
    async with durable.work():
        created = await durable.runs.create("t", "twice long", INPUT)

        async def second() -> bool:
            record = await durable.runs.get(created.run_id)
            return "second" in nodes.seen and record.claim_state is ClaimState.SCHEDULED

        await wait_until(second, 20)
        slept = await asleep(durable, created.run_id)
        await durable.runs.cancel(created.run_id)
        await durable.runs.retry(created.run_id)
        again = await asleep(durable, created.run_id)
    assert again.scheduled_at == slept.scheduled_at


async def test_a_crash_in_the_second_sleep_neither_ends_nor_moves_it(
    durable: Durable, nodes: Nodes, monkeypatch: pytest.MonkeyPatch
) -> None:
    from aiodurable.runs.attempt import Attempt

    close, dies = Attempt.close, False

    async def dying(attempt: Attempt, error: BaseException | None) -> Any:
        return None if dies else await close(attempt, error)

    monkeypatch.setattr(Attempt, "close", dying)
    async with durable.run("t", "twice long") as run:
        await run.ainvoke(INPUT)
    (wait,) = (await durable.threads.status("t")).waits

    async def due() -> bool:
        assert wait.until is not None
        return datetime.now(UTC) > wait.until + timedelta(milliseconds=50)

    await wait_until(due, 20)
    dies = True
    async with durable.run("t", "twice long") as run:
        await run.ainvoke()
    dies = False
    (second,) = (await durable.threads.status("t")).waits
    async with durable.work():
        slept = await asleep(durable, run.run_id)
    assert slept.scheduled_at == second.until
    assert second.until is not None
    assert second.until > datetime.now(UTC) + timedelta(minutes=30)


@pytest.mark.parametrize(
    "question",
    [
        {"aiodurable": "wait", "name": "a\0b", "until": None},
        {"aiodurable": "sleep", "until": "9999-12-31T23:59:59-14:00"},
    ],
)
async def test_a_question_that_cannot_be_a_wait_is_a_persons(
    durable: Durable, nodes: Nodes, question: Any
) -> None:
    nodes.question = question
    async with durable.run("t", "asks anything") as run:
        await run.ainvoke(INPUT)
    assert (await durable.runs.get(run.run_id)).status is RunStatus.INTERRUPTED
    with pytest.raises(InvalidArgumentError):
        nodes.question = None
        async with durable.run("u", "until") as run:
            await run.ainvoke(INPUT)
