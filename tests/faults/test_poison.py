"""A run that kills its workers is set aside; who is at work beside it does not pay for it."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest

from aiodurable.durable import Durable
from aiodurable.models import RunStatus
from tests.programs.worker_process import graphs
from tests.support.waiting import wait_until
from tests.support.workers import Workers, is_alive, workers


async def keep_up(started: Workers, count: int) -> None:
    """Have so many workers, as a supervisor of processes does."""
    while True:
        for pid in started.pids:
            if not is_alive(pid):
                started.pids.remove(pid)
        while len(started.pids) < count:
            await started.start()
        await wait_until(lambda: not all(map(is_alive, started.pids)), 600)


@pytest.mark.timeout(300)
@pytest.mark.parametrize("count", [1, 2])
async def test_a_run_that_kills_its_workers_is_set_aside_and_its_neighbours_finish(
    dsn: str, log: Path, count: int
) -> None:
    """Also where they make no progress meanwhile, and one worker has all of them each time."""
    async with Durable(dsn, graphs=graphs(str(log))) as durable, workers(dsn, log) as started:
        others = [
            await durable.runs.create(f"t{n}", "one", {"words": [], "pause": 2}) for n in range(4)
        ]
        poison = await durable.runs.create("p", "poison", {"words": [], "pause": 0})
        supervising = asyncio.create_task(keep_up(started, count))
        try:
            record = await durable.runs.wait_first([poison.run_id], timeout=200)
            assert (record.status, record.reason) == (RunStatus.QUARANTINED, "crashed")
            assert record.attempts == 3
            for other in others:
                record = await durable.runs.wait_first([other.run_id], timeout=200)
                assert record.status is RunStatus.COMPLETE, record
        finally:
            supervising.cancel()
            await asyncio.wait({supervising})
