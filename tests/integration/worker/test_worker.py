"""A worker executes what was accepted, once, in order, and stops in bounded time."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import AsyncIterator
from contextlib import suppress
from typing import Any

import pytest
from langchain_core.runnables import RunnableConfig

from aiodurable import sleep
from aiodurable.durable import Durable
from aiodurable.models import ClaimState, RunRecord, RunStatus, ThreadStatus
from aiodurable.postgres.queue_bell import QueueBell
from aiodurable.queue import RetryPolicy, Snooze
from aiodurable.settings import Settings
from aiodurable.worker.claims import Claims
from tests.support.internals import services_of
from tests.support.scenario_graphs import BREAKS, asks, chain, ok
from tests.support.waiting import wait_until

INPUT: dict[str, Any] = {"xs": ["in"]}
RETRY_SOON = RetryPolicy(max_attempts=3, initial_s=0.05, max_s=0.2)


class Gates:
    """Nodes that wait until the test opens them, and note what is at work."""

    def __init__(self) -> None:
        self.open = asyncio.Event()
        self.at_work: set[str] = set()
        self.most = 0
        self.order: list[str] = []
        self.snoozes = 1
        self.breaks = 1

    async def held(self, state: Any, config: RunnableConfig) -> dict[str, Any]:
        thread = str(config.get("configurable", {})["thread_id"])
        self.order.append(thread)
        self.at_work.add(thread)
        self.most = max(self.most, len(self.at_work))
        try:
            await self.open.wait()
        finally:
            self.at_work.discard(thread)
        return {"xs": ["held"]}

    async def breaks_once(self, state: Any) -> dict[str, Any]:
        if self.breaks:
            self.breaks -= 1
            raise ValueError("broken once")
        return {"xs": ["mended"]}

    async def snoozes_once(self, state: Any) -> dict[str, Any]:
        if self.snoozes:
            self.snoozes -= 1
            raise Snooze(0.05)
        return {"xs": ["awake"]}


@pytest.fixture
def gates() -> Gates:
    return Gates()


@pytest.fixture
async def durable(dsn: str, gates: Gates) -> AsyncIterator[Durable]:
    graphs = {
        "chain": chain(a=ok("a"), b=ok("b")),
        "asking": chain(a=ok("a"), b=asks("which?")),
        "held": chain(a=ok("a"), held=gates.held, b=ok("b")),
        "mended": chain(a=gates.breaks_once, b=ok("b")),
        "snoozing": chain(a=ok("a"), b=gates.snoozes_once),
    }
    async with Durable(dsn, graphs=graphs, settings=Settings()) as opened:
        yield opened


async def until(
    durable: Durable, created: RunRecord, *statuses: RunStatus, timeout: float = 20
) -> RunRecord:
    async def found() -> RunRecord | None:
        record = await durable.runs.get(created.run_id)
        return record if record.status in statuses else None

    return await wait_until(found, timeout, what=f"{created.run_id} {statuses}")  # type: ignore[arg-type,return-value]


async def test_a_worker_executes_what_was_accepted_before_and_while_it_works(
    durable: Durable,
) -> None:
    before = [await durable.runs.create(f"t{n}", "chain", INPUT) for n in range(5)]
    async with durable.work(concurrency=3):
        after = [await durable.runs.create(f"u{n}", "chain", INPUT) for n in range(5)]
        for created in before + after:
            record = await until(durable, created, RunStatus.COMPLETE)
            assert (record.attempts, record.claim_state) == (1, None)
    for created in before + after:
        assert (await durable.threads.status(created.thread_id)).status is ThreadStatus.COMPLETE


async def test_runs_of_one_thread_go_in_order_of_acceptance_one_at_a_time(
    durable: Durable, gates: Gates
) -> None:
    created = [await durable.runs.create("t", "chain", {"xs": [str(n)]}) for n in range(4)]
    async with durable.work(concurrency=4):
        for one in created:
            await until(durable, one, RunStatus.COMPLETE)
    async with durable.run("t", "chain") as run:
        state = await run.aget_state()
    assert [x for x in state.values["xs"] if x.isdigit()] == ["0", "1", "2", "3"]


async def test_a_worker_has_no_more_at_work_than_its_concurrency(
    durable: Durable, gates: Gates
) -> None:
    created = [await durable.runs.create(f"t{n}", "held", INPUT) for n in range(5)]
    async with durable.work(concurrency=2) as worker:
        await wait_until(lambda: len(gates.at_work) == 2)
        assert worker.health().capacity == 0
        gates.open.set()
        for one in created:
            await until(durable, one, RunStatus.COMPLETE)
    assert gates.most == 2


async def test_what_fails_is_tried_again_after_a_wait_and_then_set_aside(
    durable: Durable,
) -> None:
    BREAKS.add("b")
    created = await durable.runs.create("t", "chain", INPUT)
    async with durable.work(retry_policy=RETRY_SOON):
        record = await until(durable, created, RunStatus.QUARANTINED)
        assert (record.attempts, len(record.earlier_attempts)) == (3, 2)
        assert "b is broken" in (record.error or "")
        assert "Traceback" in (record.traceback or "")
        assert record.claim_state is None
    assert (await durable.threads.status("t")).status is ThreadStatus.QUARANTINED


async def test_a_failing_run_that_is_mended_completes(durable: Durable) -> None:
    created = await durable.runs.create(
        "t", "mended", INPUT, retry_policy=RetryPolicy(max_attempts=9, initial_s=0.05)
    )
    async with durable.work():
        assert (await until(durable, created, RunStatus.COMPLETE)).attempts == 2


async def test_a_run_that_failed_is_scheduled_for_its_next_attempt(durable: Durable) -> None:
    BREAKS.add("b")
    policy = RetryPolicy(max_attempts=2, initial_s=600)
    created = await durable.runs.create("t", "chain", INPUT, retry_policy=policy)
    async with durable.work():
        record = await until(durable, created, RunStatus.FAILED)
    assert (record.claim_state, record.attempts) == (ClaimState.SCHEDULED, 1)


async def test_an_exception_that_is_not_retryable_sets_the_run_aside_at_once(
    durable: Durable,
) -> None:
    BREAKS.add("b")
    created = await durable.runs.create(
        "t", "chain", INPUT, retry_policy=RetryPolicy(non_retryable=(ValueError,))
    )
    async with durable.work():
        assert (await until(durable, created, RunStatus.QUARANTINED)).attempts == 1


async def test_progress_begins_the_count_of_failures_again(durable: Durable) -> None:
    BREAKS.add("b")  # the second attempt fails there, which is progress, and a third one follows
    created = await durable.runs.create("t", "mended", INPUT)
    async with durable.work(retry_policy=RetryPolicy(max_attempts=2, initial_s=0.05)):
        assert (await until(durable, created, RunStatus.QUARANTINED)).attempts == 3


async def test_a_snooze_is_no_attempt(durable: Durable, gates: Gates) -> None:
    gates.snoozes = 4
    created = await durable.runs.create("t", "snoozing", INPUT)
    async with durable.work(retry_policy=RetryPolicy(max_attempts=2)):
        record = await until(durable, created, RunStatus.COMPLETE)
    assert record.attempts == 1


async def test_a_question_waits_for_a_person_and_keeps_its_queue_waiting(
    durable: Durable,
) -> None:
    first = await durable.runs.create("t", "asking", INPUT)
    second = await durable.runs.create("t", "chain", INPUT)
    async with durable.work():
        await until(durable, first, RunStatus.INTERRUPTED)
        async with durable.run("t", "asking", on_busy="wait") as run:
            assert (await durable.runs.get(second.run_id)).claim_state is ClaimState.BLOCKED
            await run.answer("this")
        await until(durable, first, RunStatus.COMPLETE)
        await until(durable, second, RunStatus.COMPLETE)


async def test_a_drain_hands_back_what_is_at_work_as_no_attempt(
    durable: Durable, gates: Gates
) -> None:
    created = await durable.runs.create("t", "held", INPUT)
    async with durable.work() as worker:
        await wait_until(lambda: "t" in gates.at_work)
        draining = asyncio.create_task(worker.drain())
        gates.open.set()
        await draining
        assert not worker.health().running
    record = await durable.runs.get(created.run_id)
    assert (record.status, record.claim_state) == (RunStatus.PAUSED, ClaimState.READY)
    async with durable.work():
        assert (await until(durable, created, RunStatus.COMPLETE)).attempts == 1
    assert gates.order == ["t"], "the node that had ended ran again"


async def test_a_drain_stops_graphs_at_once_while_its_worker_connects(
    durable: Durable, gates: Gates, monkeypatch: pytest.MonkeyPatch
) -> None:
    connecting = asyncio.Event()

    async def hangs(_: QueueBell) -> None:
        connecting.set()
        await asyncio.Event().wait()

    monkeypatch.setattr(QueueBell, "put_up", hangs)
    monkeypatch.setattr("aiodurable.worker.worker.STOP_S", 1.0)
    created = await durable.runs.create("t", "held", INPUT)
    async with durable.work() as worker:
        await wait_until(lambda: "t" in gates.at_work and connecting.is_set())
        draining = asyncio.create_task(worker.drain())
        gates.open.set()
        await until(durable, created, RunStatus.PAUSED, RunStatus.COMPLETE)
        await draining
    record = await durable.runs.get(created.run_id)
    assert (record.status, record.claim_state) == (RunStatus.PAUSED, ClaimState.READY)


async def test_a_drain_cancels_what_does_not_reach_its_next_superstep(
    durable: Durable, gates: Gates
) -> None:
    created = await durable.runs.create("t", "held", INPUT)
    async with durable.work(drain_timeout_s=0.1):
        await wait_until(lambda: "t" in gates.at_work)
    record = await durable.runs.get(created.run_id)
    assert (record.status, record.claim_state) == (RunStatus.PAUSED, ClaimState.READY)
    gates.open.set()
    async with durable.work():
        assert (await until(durable, created, RunStatus.COMPLETE)).attempts == 1


async def test_a_cancelled_run_stays_cancelled(durable: Durable, gates: Gates) -> None:
    created = await durable.runs.create("t", "held", INPUT)
    async with durable.work():
        await wait_until(lambda: "t" in gates.at_work)
        await durable.threads.cancel("t", wait=True, timeout=10)
        record = await durable.runs.get(created.run_id)
        assert (record.status, record.reason) == (RunStatus.PAUSED, "cancelled")
        assert record.claim_state is None


async def test_an_attempt_that_takes_longer_than_it_may_is_failed(
    durable: Durable, gates: Gates
) -> None:
    created = await durable.runs.create("t", "held", INPUT, timeout=0.3, max_attempts=1)
    async with durable.work():
        record = await until(durable, created, RunStatus.QUARANTINED)
    assert "TimeoutError" in (record.error or "")


async def test_an_attempt_that_takes_too_long_ends_although_its_node_swallows_that(
    dsn: str,
) -> None:
    calls, let_go = list[int](), asyncio.Event()

    async def stubborn(state: Any) -> dict[str, Any]:
        calls.append(call := len(calls) + 1)
        while call == 1 and not let_go.is_set():
            with suppress(asyncio.CancelledError):
                await let_go.wait()
        return {"xs": [f"call {call}"]}

    async with Durable(dsn, graphs={"stubborn": chain(a=stubborn)}) as durable:
        await durable.runs.create(
            "t", "stubborn", INPUT, run_id="r", timeout=1.5, retry_policy=RETRY_SOON
        )
        try:
            async with durable.work():
                result = await durable.runs.wait("r", timeout=20)
                let_go.set()
        finally:
            let_go.set()
        record = await durable.runs.get("r")
        assert result == await durable.runs.wait("r") == {"xs": ["in", "call 2"]}
    assert record.attempts == 2
    assert "RunTimeoutError" in (record.earlier_attempts[0].error or "")


@pytest.mark.parametrize("how", ["snoozes", "sleeps"])
async def test_failures_before_progress_count_no_more_after_the_run_has_waited(
    dsn: str, how: str
) -> None:
    calls = Counter[str]()

    async def once_broken(state: Any) -> dict[str, Any]:
        calls["a"] += 1
        if calls["a"] == 1:
            raise ValueError("a is broken")
        return {"xs": ["a"]}

    async def waits_and_breaks(state: Any) -> dict[str, Any]:
        calls["b"] += 1
        if how == "sleeps":
            await sleep(0.01)
        elif calls["b"] == 1:
            raise Snooze(0.01)
        if calls["b"] == 2:
            raise ValueError("b is broken")
        return {"xs": ["b"]}

    policy = RetryPolicy(max_attempts=2, initial_s=0.05)
    async with Durable(dsn, graphs={"g": chain(a=once_broken, b=waits_and_breaks)}) as durable:
        await durable.runs.create("t", "g", INPUT, run_id="r", retry_policy=policy)
        async with durable.work():
            assert await durable.runs.wait("r", timeout=20) == {"xs": ["in", "a", "b"]}


async def test_a_run_that_waited_too_long_is_not_begun(durable: Durable, gates: Gates) -> None:
    created = await durable.runs.create("t", "held", INPUT, start_timeout=0.001)
    async with durable.work():
        record = await until(durable, created, RunStatus.QUARANTINED)
    assert (record.reason, record.attempts, gates.order) == ("waited too long", 0, [])


async def test_higher_priorities_go_first_and_the_keys_of_a_queue_in_rotation(
    durable: Durable, gates: Gates
) -> None:
    for n in range(4):
        await durable.runs.create(f"a{n}", "held", INPUT, fairness_key="a")
    await durable.runs.create("b0", "held", INPUT, fairness_key="b")
    await durable.runs.create("urgent", "held", INPUT, priority=1)
    gates.open.set()
    async with durable.work(concurrency=1):
        await wait_until(lambda: len(gates.order) == 6, 20)
    assert gates.order[0] == "urgent"
    assert gates.order.index("b0") <= 2


async def test_a_worker_leaves_other_queues_and_graphs_alone(durable: Durable, dsn: str) -> None:
    other = await durable.runs.create("t", "chain", INPUT, queue="other")
    mine = await durable.runs.create("u", "chain", INPUT)
    async with durable.work():
        await until(durable, mine, RunStatus.COMPLETE)
    assert (await durable.runs.get(other.run_id)).claim_state is ClaimState.READY


async def test_a_worker_leaves_the_claims_of_another_one_in_its_process_alone(
    durable: Durable,
) -> None:
    await durable.runs.create("t", "chain", INPUT, run_id="r")
    first, second = (Claims(services_of(durable), ["default"]) for _ in range(2))
    assert [claimed.run_id for claimed in await first.claim(1)] == ["r"]
    await second.tidy([])
    assert (await durable.runs.get("r")).claim_state is ClaimState.CLAIMED
    first.close()
    await second.tidy([])
    assert (await durable.runs.get("r")).claim_state is ClaimState.READY


async def test_a_worker_whose_task_fails_drains_and_says_why(
    durable: Durable, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def fails(*_: object, **__: Any) -> None:
        raise AssertionError("a defect")

    monkeypatch.setattr(Claims, "tidy", fails)
    async with durable.work() as worker:
        with pytest.raises(AssertionError, match="a defect"):
            await worker.run_forever()
    assert worker.health().draining
