"""The process that fires the schedules may die or freeze at any moment: each slot has one run."""

from __future__ import annotations

import signal
from asyncio.subprocess import PIPE
from datetime import datetime, timedelta
from itertools import count
from pathlib import Path
from typing import Any

import pytest

from aiodurable import Durable
from aiodurable.models import RunRecord
from aiodurable.queue.slots import slot_run_id
from aiodurable.worker.scheduler import Scheduler
from tests.programs import PROGRAMS
from tests.support.forked import python
from tests.support.internals import services_of
from tests.support.waiting import wait_until
from tests.support.workers import workers

INPUT: dict[str, Any] = {"xs": []}
HOUR = timedelta(hours=1)
STATEMENTS = 5
"""What is due, the lock of a thread, the runs, what makes way for them, and the next slots."""


async def runs_of(durable: Durable, schedule_id: str) -> list[RunRecord]:
    return list((await durable.runs.list(schedule_id=schedule_id, limit=1000)).runs)


async def fired(durable: Durable, looking: Scheduler) -> bool:
    """Whether nothing is due any more; the server frees a dead process's rows within moments."""
    assert looking.now is not None
    await looking.fire()
    page = await durable.schedules.list()
    return all(
        schedule.next_slot_at is not None and schedule.next_slot_at > looking.now
        for schedule in page.schedules
    )


@pytest.mark.parametrize("when", ["before", "after"])
async def test_a_process_that_is_killed_at_any_statement_leaves_each_slot_one_run(
    dsn: str, when: str
) -> None:
    parent = await python(PROGRAMS / "scheduler_process.py", dsn, stdin=PIPE, stdout=PIPE)
    assert parent.stdin is not None
    assert parent.stdout is not None
    async with Durable(dsn) as durable:
        each = await durable.schedules.create("each", "chain", INPUT, cron="@hourly")
        await durable.schedules.create(
            "one", "chain", INPUT, cron="@hourly", thread_id="t", on_busy="interrupt"
        )
        first = each.next_slot_at
        assert first is not None
        looking = Scheduler(services_of(durable), durable.settings.namespace)
        nth = 0
        for nth in count(1):
            slot: datetime = first + (nth - 1) * HOUR
            parent.stdin.write(f"{slot.isoformat()} {when} {nth}\n".encode())
            code = int(await parent.stdout.readline())
            if nth <= STATEMENTS:
                assert await runs_of(durable, "each") == [], "nothing is visible that may vanish"
            looking.now = slot
            await wait_until(lambda: fired(durable, looking))
            for name in ("each", "one"):
                [run] = (
                    await runs_of(durable, name)
                    if name == "each"
                    else (await runs_of(durable, name))[-1:]
                )
                assert run.run_id == slot_run_id(name, slot), f"killed {when} statement {nth}"
                schedule = await durable.schedules.get(name)
                assert (schedule.fired, schedule.skipped) == (nth, 0)
                assert schedule.next_slot_at == slot + HOUR
            for run in await runs_of(durable, "each"):
                await durable.threads.delete(run.thread_id)
            if code == 0:
                break
            assert code == -signal.SIGKILL
        assert nth > STATEMENTS + 1, "it is killed after the commit, too"
        assert len(await runs_of(durable, "one")) == nth
    parent.stdin.close()
    await parent.wait()


async def test_while_workers_are_killed_and_frozen_no_slot_is_lost_or_doubled(
    dsn: str, tmp_path: Path
) -> None:
    async with Durable(dsn) as durable, workers(dsn, tmp_path / "log") as started:
        one, two, _ = [await started.start() for _ in range(3)]
        await durable.schedules.create("s", "steps", {"xs": []}, every=1, catch_up_all=True)

        async def slots(at_least: int) -> list[RunRecord]:
            found = await runs_of(durable, "s")
            return found if len(found) >= at_least else []

        await wait_until(lambda: slots(2))
        started.end(one)
        await wait_until(lambda: slots(4))
        started.end(two, signal.SIGSTOP)
        await wait_until(lambda: slots(7))
        started.end(two, signal.SIGCONT)
        await wait_until(lambda: slots(9))
        await durable.schedules.pause("s")
        schedule = await durable.schedules.get("s")
        made = await runs_of(durable, "s")
        assert schedule.last_slot_at is not None
        times = [schedule.last_slot_at - n * timedelta(seconds=1) for n in range(len(made))]
        assert [run.run_id for run in made] == [slot_run_id("s", at) for at in reversed(times)]
        assert (schedule.fired, schedule.skipped) == (len(made), 0)
