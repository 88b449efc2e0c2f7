"""Workers are killed, drained and frozen: what was accepted is finished, once, and soon."""

from __future__ import annotations

import os
import signal
import time
from pathlib import Path

import pytest

from aiodurable.durable import Durable
from aiodurable.models import ClaimState, RunStatus
from tests.programs.worker_campaign import campaign
from tests.programs.worker_process import STEPS, graphs
from tests.support.fault_times import Timetable
from tests.support.waiting import wait_until
from tests.support.workers import Line, Workers, workers


async def first_line(started: Workers, thread_id: str, *, not_of: int | None = None) -> Line:
    """The thread's first line of another process than `not_of`, once there is one."""

    def of_others() -> list[Line]:
        return [a for a in started.lines() if a.thread_id == thread_id and a.pid != not_of]

    return (await wait_until(of_others, 120, what=f"a line of {thread_id}"))[0]


async def words_of(durable: Durable, thread_id: str) -> list[str]:
    async with durable.run(thread_id, "steps", on_busy="wait", timeout=30) as run:
        return (await run.aget_state()).values["words"]


@pytest.mark.timeout(300)
async def test_the_run_of_a_killed_worker_goes_on_elsewhere_from_its_last_checkpoint(
    dsn: str, log: Path, timetable: Timetable
) -> None:
    async with Durable(dsn, graphs=graphs(str(log))) as durable, workers(dsn, log) as started:
        await started.start()
        await started.start()
        for thread in (f"t{n}" for n in range(5)):
            created = await durable.runs.create(thread, "steps", {"words": [], "pause": 0.4})
            begun = await first_line(started, thread)
            started.end(begun.pid)
            killed_at = time.time()
            after = await first_line(started, thread, not_of=begun.pid)
            timetable.trial(kill_to_next_step=after.at - killed_at)
            await started.start()
            record = await durable.runs.wait_first([created.run_id], timeout=60)
            assert (record.status, record.attempts) == (RunStatus.COMPLETE, 2)
            assert await words_of(durable, thread) == list(STEPS)


@pytest.mark.timeout(300)
async def test_a_run_that_kills_its_workers_is_set_aside_and_its_neighbours_finish(
    dsn: str, log: Path
) -> None:
    async with Durable(dsn, graphs=graphs(str(log))) as durable, workers(dsn, log) as started:
        poison = await durable.runs.create("p", "poison", {"words": [], "pause": 0}, max_attempts=2)
        others = [
            await durable.runs.create(f"t{n}", "steps", {"words": [], "pause": 0.05})
            for n in range(5)
        ]
        for _ in range(4):
            await started.start()
        record = await durable.runs.wait_first([poison.run_id], timeout=120)
        assert (record.status, record.reason) == (RunStatus.QUARANTINED, "crashed")
        for other in others:
            record = await durable.runs.wait_first([other.run_id], timeout=60)
            assert record.status is RunStatus.COMPLETE


@pytest.mark.timeout(200)
async def test_sigterm_drains_a_worker_and_hands_its_runs_back(dsn: str, log: Path) -> None:
    async with Durable(dsn, graphs=graphs(str(log))) as durable, workers(dsn, log) as started:
        pid = await started.start()
        created = await durable.runs.create("t", "steps", {"words": [], "pause": 0.5})
        await first_line(started, "t")
        started.end(pid, signal.SIGTERM)

        async def handed_back() -> bool:
            record = await durable.runs.get(created.run_id)
            return record.claim_state is ClaimState.READY

        await wait_until(handed_back, 30)
        await started.start()
        record = await durable.runs.wait_first([created.run_id], timeout=60)
        assert (record.status, record.attempts) == (RunStatus.COMPLETE, 1)
        steps = [line.step for line in started.lines()]
        assert sorted(steps) == sorted(STEPS), "a step ran twice"


@pytest.mark.timeout(300)
async def test_a_frozen_worker_loses_its_run_and_changes_nothing_when_it_wakes(
    dsn: str, log: Path, timetable: Timetable
) -> None:
    async with Durable(dsn, graphs=graphs(str(log))) as durable, workers(dsn, log) as started:
        await started.start()
        created = await durable.runs.create("t", "steps", {"words": [], "pause": 1.0})
        begun = await first_line(started, "t")
        started.end(begun.pid, signal.SIGSTOP)
        frozen_at = time.time()
        await started.start()
        after = await first_line(started, "t", not_of=begun.pid)
        timetable.trial(freeze_to_next_step=after.at - frozen_at)
        os.kill(begun.pid, signal.SIGCONT)
        record = await durable.runs.wait_first([created.run_id], timeout=60)
        assert record.status is RunStatus.COMPLETE
        assert await words_of(durable, "t") == list(STEPS)


@pytest.mark.timeout(300)
async def test_under_kills_and_cancellations_every_run_is_settled_none_lost_or_doubled(
    dsn: str, log: Path
) -> None:
    report = await campaign(dsn, log, seed=1, runs=120)
    print(report)
    assert report.wrong == []
    assert report.statuses[RunStatus.COMPLETE] > 0
