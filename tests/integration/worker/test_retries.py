"""A run that a person has tried again is executed by workers with all its attempts."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from typing import Any

import pytest

from aiodurable.durable import Durable
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
