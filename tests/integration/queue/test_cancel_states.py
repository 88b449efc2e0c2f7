"""A run is cancelled in each state that it may have: nobody but a person goes on with it."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import AsyncIterator
from typing import Any

import pytest

from aiodurable import sleep, wait_for
from aiodurable.durable import Durable
from aiodurable.errors import RunCancelledError
from aiodurable.models import ClaimState, RunStatus, ThreadStatus
from aiodurable.queue import RetryPolicy
from aiodurable.settings import Settings
from aiodurable.worker.claims import Claims
from tests.support.internals import services_of
from tests.support.scenario_graphs import BREAKS, chain, ok
from tests.support.waiting import wait_until

INPUT: dict[str, Any] = {"xs": ["in"]}
STATES: dict[str, tuple[str, RunStatus, ClaimState | None, dict[str, Any]]] = {
    "ready": ("chain", RunStatus.QUEUED, ClaimState.READY, {}),
    "delayed": ("chain", RunStatus.QUEUED, ClaimState.SCHEDULED, {"after": 3600}),
    "claimed": ("chain", RunStatus.QUEUED, ClaimState.CLAIMED, {}),
    "in a thread": ("blocks", RunStatus.RUNNING, None, {}),
    "asleep": ("naps", RunStatus.PAUSED, ClaimState.SCHEDULED, {}),
    "waits for a signal": ("waits", RunStatus.PAUSED, ClaimState.SCHEDULED, {}),
    "waits for its retry": (
        "chain",
        RunStatus.FAILED,
        ClaimState.SCHEDULED,
        {"retry_policy": RetryPolicy(initial_s=3600)},
    ),
}


class Gate:
    """What lets the nodes of a test pass."""

    def __init__(self) -> None:
        self.entered, self.open = threading.Event(), threading.Event()

    def blocks(self, state: Any) -> dict[str, Any]:
        self.entered.set()
        assert self.open.wait(60)
        return {"xs": ["b"]}

    async def naps(self, state: Any) -> dict[str, Any]:
        if not self.open.is_set():
            await sleep(3600)
        return {"xs": ["b"]}


async def waits(state: Any) -> dict[str, Any]:
    return {"xs": [str(await wait_for("signal"))]}


@pytest.fixture
async def gate() -> AsyncIterator[Gate]:
    made = Gate()
    yield made
    made.open.set()


@pytest.fixture
async def durable(dsn: str, gate: Gate) -> AsyncIterator[Durable]:
    graphs: dict[str, Any] = {
        "chain": chain(a=ok("a"), b=ok("b")),
        "blocks": chain(a=ok("a"), b=gate.blocks),
        "naps": chain(a=ok("a"), b=gate.naps),
        "waits": chain(a=ok("a"), b=waits),
    }
    async with Durable(dsn, graphs=graphs, settings=Settings()) as opened:
        yield opened


async def test_a_threads_cancellation_meets_a_run_that_waits_for_its_retry(
    durable: Durable,
) -> None:
    BREAKS.add("b")
    policy = RetryPolicy(initial_s=3600)
    await durable.runs.create("t", "chain", INPUT, run_id="r", retry_policy=policy)

    async def failed() -> bool:
        return (await durable.runs.get("r")).status is RunStatus.FAILED

    async with durable.work():
        await wait_until(failed, 20)
    assert await durable.threads.cancel("t", wait=True)
    assert not await durable.threads.cancel("t")
    record = await durable.runs.get("r")
    assert (record.status, record.reason) == (RunStatus.PAUSED, "cancelled")
    assert record.claim_state is None


@pytest.mark.parametrize("state", STATES)
async def test_only_a_person_goes_on_with_a_run_that_was_cancelled(
    durable: Durable, gate: Gate, state: str
) -> None:
    graph, status, claim_state, options = STATES[state]
    BREAKS.update({"b"} if status is RunStatus.FAILED else ())
    await durable.runs.create("t", graph, INPUT, run_id="r", **options)

    async def reached() -> bool:
        record = await durable.runs.get("r")
        entered = state != "in a thread" or gate.entered.is_set()
        return entered and (record.status, record.claim_state) == (status, claim_state)

    claims = Claims(services_of(durable), ["default"])
    if state == "claimed":
        await claims.claim(1)
    if status is not RunStatus.QUEUED:
        async with durable.work(drain_timeout_s=0):
            await wait_until(reached, 20)
            waiting = asyncio.create_task(durable.runs.wait("r", timeout=20))
            cancelled = await durable.runs.cancel("r", wait=True, timeout=20)
    else:
        assert await reached()
        waiting = asyncio.create_task(durable.runs.wait("r", timeout=20))
        cancelled = await durable.runs.cancel("r", wait=True, timeout=20)
    claims.close()

    assert (cancelled.reason, cancelled.claim_state) == ("cancelled", None)
    with pytest.raises(RunCancelledError):
        await waiting
    thread = await durable.threads.status("t")
    began = status is not RunStatus.QUEUED
    assert thread.status is (ThreadStatus.PAUSED if began else ThreadStatus.NEW)
    assert (thread.reason, thread.resumable) == ("cancelled" if began else None, False)
    assert [one.thread_id async for one in durable.threads.resumable()] == []
    assert (await durable.runs.resume_many()).resumed == ()

    BREAKS.clear()
    gate.open.set()
    await durable.runs.retry("r")
    await durable.threads.signal("t", "signal", "b")
    async with durable.work():
        assert await durable.runs.wait("r", timeout=20) == {"xs": ["in", "a", "b"]}
