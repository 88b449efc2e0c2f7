"""A worker stops: it hands its runs back in bounded time, and nothing of this is an attempt."""

from __future__ import annotations

import asyncio
import os
import signal
import sys
import time
from asyncio.subprocess import PIPE, Process
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from aiodurable.durable import Durable
from aiodurable.models import ClaimState, RunRecord, RunStatus
from tests.programs.worker_process import STEPS, graphs
from tests.support.example_programs import REPOSITORY
from tests.support.waiting import wait_until, within
from tests.support.workers import Workers, is_alive, workers


@pytest.fixture
async def durable(dsn: str, log: Path) -> AsyncIterator[Durable]:
    async with Durable(dsn, graphs=graphs(str(log))) as opened:
        yield opened


async def at_work(durable: Durable, started: Workers, graph: str, pause: float) -> RunRecord:
    """A run that is in its first node."""
    run = await durable.runs.create("t", graph, {"words": [], "pause": pause}, run_id="r")
    await started.first_line("t")
    return run


async def handed_back(durable: Durable) -> None:
    """Wait until any worker may go on with the run."""

    async def ready() -> bool:
        return (await durable.runs.get("r")).claim_state is ClaimState.READY

    await wait_until(ready, 30)


async def test_sigterm_ends_a_worker_at_its_graphs_next_superstep_and_no_step_runs_twice(
    durable: Durable, dsn: str, log: Path
) -> None:
    async with workers(dsn, log, drain_timeout_s=60) as started:
        pid = await started.start()
        await at_work(durable, started, "steps", 0.5)
        started.end(pid, signal.SIGTERM)
        await handed_back(durable)
        await wait_until(lambda: not is_alive(pid), 30)
        await started.start()
        record = await durable.runs.wait_first(["r"], timeout=60)
        steps = [line.step for line in started.lines()]
    assert (record.status, record.attempts) == (RunStatus.COMPLETE, 1)
    assert sorted(steps) == sorted(STEPS)


async def test_a_worker_that_drains_claims_nothing_more(
    durable: Durable, dsn: str, log: Path
) -> None:
    async with workers(dsn, log, drain_timeout_s=60) as started:
        pid = await started.start()
        await at_work(durable, started, "one", 2)
        started.end(pid, signal.SIGTERM)
        late = await durable.runs.create("late", "one", {"words": [], "pause": 0})
        await wait_until(lambda: not is_alive(pid), 30)
        assert (await durable.runs.get("r")).status is RunStatus.COMPLETE
        assert (await durable.runs.get(late.run_id)).claim_state is ClaimState.READY


async def test_a_node_that_takes_longer_than_the_drain_may_is_cancelled(
    durable: Durable, dsn: str, log: Path
) -> None:
    async with workers(dsn, log, drain_timeout_s=0.5) as started:
        pid = await started.start()
        await at_work(durable, started, "one", 600)
        started.end(pid, signal.SIGTERM)
        began = time.monotonic()
        await wait_until(lambda: not is_alive(pid), 30)
        assert time.monotonic() - began < 15
    record = await durable.runs.get("r")
    assert (record.status, record.claim_state, record.attempts) == (
        RunStatus.PAUSED,
        ClaimState.READY,
        1,
    )


async def command(dsn: str, log: Path, *options: str) -> Process:
    """`aiodurable worker`, as it is deployed."""
    program = ("-m", "aiodurable", "worker", "tests.programs.worker_process:graphs_of_environment")
    return await asyncio.create_subprocess_exec(
        *(sys.executable, *program, "--dsn", dsn, *options),
        env={**os.environ, "WORKER_LOG": str(log)},
        cwd=REPOSITORY,
        stderr=PIPE,
    )


async def test_a_second_signal_cancels_what_is_at_work_and_counts_no_attempt(
    durable: Durable, dsn: str, log: Path
) -> None:
    async with workers(dsn, log) as started:
        process = await command(dsn, log, "--drain", "600")
        assert process.stderr is not None
        await at_work(durable, started, "steps", 600)
        process.send_signal(signal.SIGTERM)
        while b"draining" not in await within(30, process.stderr.readline()):
            pass
        process.send_signal(signal.SIGTERM)
        await within(30, process.communicate())
    assert process.returncode == 0
    record = await durable.runs.get("r")
    assert (record.status, record.reason, record.attempts) == (RunStatus.PAUSED, "drained", 1)
    assert record.claim_state is ClaimState.READY


async def test_a_node_that_swallows_its_cancellation_does_not_keep_the_command_from_ending(
    durable: Durable, dsn: str, log: Path
) -> None:
    async with workers(dsn, log) as started:
        process = await command(dsn, log, "--drain", "0.5")
        await at_work(durable, started, "stubborn", 600)
        process.send_signal(signal.SIGTERM)
        _, said = await within(30, process.communicate())
    assert process.returncode == 1
    assert b"nodes of 1 handed-back runs go on" in said
    record = await durable.runs.get("r")
    assert (record.status, record.claim_state, record.attempts) == (
        RunStatus.PAUSED,
        ClaimState.READY,
        1,
    )


async def test_a_signal_is_seen_when_a_node_no_longer_blocks_the_event_loop(
    durable: Durable, dsn: str, log: Path
) -> None:
    async with workers(dsn, log) as started:
        process = await command(dsn, log)
        await at_work(durable, started, "blocking", 2)
        process.send_signal(signal.SIGTERM)
        await within(30, process.communicate())
    assert process.returncode == 0
    assert (await durable.runs.get("r")).status is RunStatus.COMPLETE
