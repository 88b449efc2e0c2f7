"""A run that a person has tried again is executed by workers with all its attempts."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from datetime import UTC, datetime
from typing import Any

import pytest

from aiodurable.durable import Durable
from aiodurable.errors import ConfigurationError
from aiodurable.models import ClaimState, RunStatus
from aiodurable.queue import RetryPolicy
from aiodurable.runs.cancellation import Cancellations
from aiodurable.settings import Settings
from tests.support.scenario_graphs import BREAKS, chain, ok
from tests.support.waiting import wait_until

INPUT: dict[str, Any] = {"xs": ["in"]}


@pytest.fixture
async def durable(dsn: str) -> AsyncIterator[Durable]:
    async with Durable(dsn, graphs={"chain": chain(a=ok("a"))}, settings=Settings()) as opened:
        yield opened


async def test_a_run_that_failed_too_often_has_all_its_attempts_again(durable: Durable) -> None:
    BREAKS.add("a")
    policy = RetryPolicy(max_attempts=2, initial_s=0.05)
    await durable.runs.create("t", "chain", INPUT, run_id="r", retry_policy=policy)
    async with durable.work():
        for _ in range(2):
            record = await durable.runs.wait_first(["r"], timeout=20)
            assert (record.status, record.attempts) == (RunStatus.QUARANTINED, 2)
            again = await durable.runs.retry("r")
            assert again.claim_state is not None
        BREAKS.clear()
        assert (await durable.runs.wait_first(["r"], timeout=20)).status is RunStatus.COMPLETE


async def test_the_log_names_each_quarantined_run_and_why_but_no_text_of_a_node(
    dsn: str, caplog: pytest.LogCaptureFixture
) -> None:
    async def slow(state: Any) -> dict[str, Any]:
        await asyncio.Event().wait()
        return {"xs": []}

    BREAKS.add("a")
    graphs = {"chain": chain(a=ok("a")), "slow": chain(a=slow)}
    async with Durable(dsn, graphs=graphs, settings=Settings()) as durable:
        policy = RetryPolicy(max_attempts=2, initial_s=0.05)
        await durable.runs.create("t", "chain", INPUT, run_id="r", retry_policy=policy)
        await durable.runs.create("u", "slow", INPUT, run_id="s", timeout=0.05, max_attempts=1)
        await durable.runs.create("v", "chain", INPUT, run_id="w", start_timeout=0.001)
        async with durable.work():
            for run_id in "rsw":
                await durable.runs.wait_first([run_id], timeout=20)
    BREAKS.clear()
    assert sorted(text for text in caplog.messages if "quarantined" in text) == [
        "run r of thread 't' is quarantined: failed too often, ValueError",
        "run s of thread 'u' is quarantined: timeout, RunTimeoutError",
        "run w of thread 'v' is quarantined: waited too long",
    ]
    assert "is broken" not in caplog.text


async def test_a_run_that_waited_too_long_can_be_tried_again(durable: Durable) -> None:
    await durable.runs.create("t", "chain", INPUT, run_id="r", start_timeout=0.001)
    async with durable.work():
        assert (await durable.runs.wait_first(["r"], timeout=20)).reason == "waited too long"
        again = await durable.runs.retry("r")
        assert (again.status, again.claim_state) == (RunStatus.QUEUED, ClaimState.READY)
        assert await durable.runs.wait("r", timeout=20) == {"xs": ["in", "a"]}


async def test_a_run_that_is_cancelled_while_its_worker_stops_is_cancelled(
    dsn: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    entered, leave = asyncio.Event(), asyncio.Event()

    async def held(state: Any) -> dict[str, Any]:
        entered.set()
        await leave.wait()
        return {"xs": ["held"]}

    async def deaf(_: object) -> None:
        """The request has not come yet."""

    monkeypatch.setattr(Cancellations, "_poll", deaf)
    graphs = {"held": chain(held=held, b=ok("b"))}
    async with Durable(dsn, graphs=graphs, settings=Settings()) as durable:
        await durable.runs.create("t", "held", INPUT, run_id="r")
        async with durable.work() as worker:
            await asyncio.wait_for(entered.wait(), 20)
            await durable.runs.cancel("r")
            draining = asyncio.create_task(worker.drain())
            await asyncio.sleep(0)
            leave.set()
            await draining
        record = await durable.runs.get("r")
    assert (record.status, record.reason) == (RunStatus.PAUSED, "cancelled")
    assert record.claim_state is None


async def test_a_run_whose_task_is_cancelled_by_no_request_goes_back_to_the_queue(
    dsn: str,
) -> None:
    entered = asyncio.Event()
    calls = 0

    async def held(state: Any) -> dict[str, Any]:
        nonlocal calls
        calls += 1
        entered.set()
        if calls == 1:
            await asyncio.Event().wait()
        return {"xs": ["held"]}

    graphs = {"held": chain(held=held)}
    async with Durable(dsn, graphs=graphs, settings=Settings()) as durable:
        await durable.runs.create("t", "held", INPUT, run_id="r")
        async with durable.work():
            await asyncio.wait_for(entered.wait(), 20)
            for task in asyncio.all_tasks():  # as asyncio.run does at its end
                if task.get_name() == "aiodurable run r":
                    task.cancel()
            record = await durable.runs.wait_first(["r"], timeout=20)
    assert (record.status, record.reason, record.attempts) == (RunStatus.COMPLETE, None, 1)


async def test_a_run_that_waits_for_another_attempt_makes_way_for_one_that_interrupts(
    durable: Durable,
) -> None:
    BREAKS.add("a")
    policy = RetryPolicy(initial_s=600, max_s=600)
    await durable.runs.create("t", "chain", INPUT, run_id="r", retry_policy=policy)
    async with durable.work():

        async def waits() -> bool:
            return (await durable.runs.get("r")).claim_state is ClaimState.SCHEDULED

        await wait_until(waits, 20)
        BREAKS.clear()
        await durable.runs.create("t", "chain", {"xs": ["new"]}, run_id="s", on_busy="interrupt")
        record = await durable.runs.wait_first(["s"], timeout=10)
    assert record.status is RunStatus.COMPLETE
    assert (await durable.runs.get("r")).claim_state is None


async def test_a_queued_run_that_fails_where_it_is_called_is_tried_again_by_its_policy(
    durable: Durable,
) -> None:
    BREAKS.add("a")
    policy = RetryPolicy(max_attempts=3, initial_s=0.01)
    await durable.runs.create("t", "chain", INPUT, run_id="r", retry_policy=policy)
    async with durable.run("t", "chain", run_id="r") as run:
        with pytest.raises(ValueError, match="a is broken"):
            await run.ainvoke()
    record = await durable.runs.get("r")
    assert (record.status, record.claim_state) == (RunStatus.FAILED, ClaimState.SCHEDULED)
    BREAKS.clear()
    async with durable.work():
        assert await durable.runs.wait("r", timeout=20) == {"xs": ["in", "a"]}


async def test_a_queued_run_that_fails_where_it_is_called_has_no_more_attempts_than_it_may(
    durable: Durable,
) -> None:
    BREAKS.add("a")
    await durable.runs.create("t", "chain", INPUT, run_id="r", max_attempts=1)
    async with durable.run("t", "chain", run_id="r") as run:
        with pytest.raises(ValueError, match="a is broken"):
            await run.ainvoke()
    BREAKS.clear()
    record = await durable.runs.get("r")
    assert (record.status, record.reason) == (RunStatus.QUARANTINED, "failed too often")


async def test_an_exception_may_say_when_its_run_is_tried_again(durable: Durable) -> None:
    BREAKS.add("a")
    policy = RetryPolicy(delay=lambda error: 3600.0 if isinstance(error, ValueError) else None)
    await durable.runs.create("t", "chain", INPUT, run_id="r")
    async with durable.work(retry_policy=policy):
        record = await wait_until(lambda: _scheduled(durable), 20)
    BREAKS.clear()
    assert record
    at = (await durable.runs.get("r")).scheduled_at
    assert at is not None
    assert (at - datetime.now(UTC)).total_seconds() > 3000


async def _scheduled(durable: Durable) -> bool:
    return (await durable.runs.get("r")).claim_state is ClaimState.SCHEDULED


async def test_an_attempt_that_took_too_long_is_recorded_as_such(
    durable: Durable, dsn: str
) -> None:
    async def slow(state: Any) -> dict[str, Any]:
        await asyncio.Event().wait()
        return {"xs": []}

    async with Durable(dsn, graphs={"slow": chain(a=slow)}, settings=Settings()) as opened:
        await opened.runs.create("t", "slow", INPUT, run_id="r", timeout=0.05, max_attempts=1)
        async with opened.work():
            record = await opened.runs.wait_first(["r"], timeout=20)
    assert (record.status, record.reason) == (RunStatus.QUARANTINED, "timeout")
    assert (record.error or "").startswith("RunTimeoutError(")


async def test_the_policy_of_a_graph_holds_where_its_runs_are_called_and_where_a_worker_has_them(
    dsn: str,
) -> None:
    BREAKS.add("a")
    graphs = {"chain": chain(a=ok("a"))}
    once = {"chain": RetryPolicy(max_attempts=1)}
    async with Durable(dsn, graphs=graphs, settings=Settings(), retry_policies=once) as durable:
        await durable.runs.create("t", "chain", INPUT, run_id="called")
        async with durable.run("t", "chain", run_id="called") as run:
            with pytest.raises(ValueError, match="a is broken"):
                await run.ainvoke()
        called = await durable.runs.get("called")
        await durable.runs.create("u", "chain", INPUT, run_id="worked")
        async with durable.work():
            worked = await durable.runs.wait_first(["worked"], timeout=20)
    BREAKS.clear()
    for record in (called, worked):
        assert (record.status, record.attempts) == (RunStatus.QUARANTINED, 1)


@pytest.mark.parametrize("policies", [{"gone": RetryPolicy()}, {"chain": "twice"}])
def test_a_policy_of_no_graph_or_of_another_kind_is_refused(policies: Any) -> None:
    with pytest.raises(ConfigurationError, match="cannot retry runs of graph"):
        Durable("postgresql://x", graphs={"chain": chain(a=ok("a"))}, retry_policies=policies)
