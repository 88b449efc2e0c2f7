"""Workers fire schedules: each slot once, in any process, and whatever the clock says."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import AsyncIterator
from datetime import UTC, datetime, timedelta
from typing import Any

import psycopg
import pytest

from aiodurable import Durable, RetryPolicy, Schedule
from aiodurable.errors import RunNotFoundError
from aiodurable.models import ClaimState, RunRecord, RunStatus
from aiodurable.queue.slots import slot_run_id
from aiodurable.worker.scheduler import Scheduler
from tests.support.internals import services_of
from tests.support.scenario_graphs import boom, chain, ok
from tests.support.waiting import wait_until, within

INPUT: dict[str, Any] = {"xs": []}
MINUTE, HOUR = timedelta(minutes=1), timedelta(hours=1)


@pytest.fixture
async def durable(dsn: str) -> AsyncIterator[Durable]:
    graphs = {"chain": chain(a=ok("a")), "breaks": chain(a=boom)}
    async with Durable(dsn, graphs=graphs) as opened:
        yield opened


def scheduler(durable: Durable) -> Scheduler:
    return Scheduler(services_of(durable), durable.settings.namespace)


async def hourly(durable: Durable, **more: Any) -> datetime:
    """A schedule "s", and its first slot."""
    found = await durable.schedules.create("s", "chain", INPUT, cron="@hourly", **more)
    assert found.next_slot_at is not None
    return found.next_slot_at


async def fire_at(durable: Durable, now: datetime) -> int:
    """Look until nothing is due at that moment."""
    looking = scheduler(durable)
    looking.now = now
    total = 0
    while fired := await looking.fire():
        total += fired
    return total


async def runs(durable: Durable, schedule_id: str = "s") -> list[RunRecord]:
    return list((await durable.runs.list(schedule_id=schedule_id, limit=1000)).runs)


async def schedule(durable: Durable, schedule_id: str = "s") -> Schedule:
    return await durable.schedules.get(schedule_id)


async def settled(durable: Durable, run_id: str, status: str) -> None:
    """Write how a run ended, as if a worker had done it."""
    async with await psycopg.AsyncConnection.connect(durable.dsn.conninfo) as connection:
        await connection.execute(
            "UPDATE aiodurable_runs SET status = %s, claim_state = NULL WHERE run_id = %s",
            (status, run_id),
        )


async def test_a_worker_runs_what_is_due(durable: Durable) -> None:
    at = datetime.now(UTC) + timedelta(seconds=2)
    await durable.schedules.create("once", "chain", INPUT, at=at)
    await durable.schedules.create("often", "chain", INPUT, every=1)
    async with durable.work():
        once = await wait_until(lambda: runs(durable, "once"))
        assert await durable.runs.wait(once[0].run_id, timeout=20) == {"xs": ["a"]}
        often = await wait_until(lambda: enough(durable, "often", 3))
        for run in often[:3]:
            await durable.runs.wait(run.run_id, timeout=20)
    assert once[0].created_at >= at
    ended = await schedule(durable, "once")
    assert (ended.ended, ended.fired, ended.last_slot_at) == (True, 1, at)
    assert [run.thread_id for run in often] == sorted({run.thread_id for run in often})


async def enough(durable: Durable, schedule_id: str, count: int) -> list[RunRecord]:
    found = await runs(durable, schedule_id)
    return found if len(found) >= count else []


async def test_a_slot_fires_when_it_is_due_and_once(durable: Durable) -> None:
    slot = await hourly(durable)
    assert await fire_at(durable, slot - timedelta(microseconds=1)) == 0
    assert await fire_at(durable, slot) == 1
    assert await fire_at(durable, slot) == 0
    [run] = await runs(durable)
    assert run.run_id == slot_run_id("s", slot)
    assert run.thread_id == f"s/{slot.astimezone(UTC).isoformat().replace('+00:00', 'Z')}"
    assert (run.status, run.claim_state) == (RunStatus.QUEUED, ClaimState.READY)
    found = await schedule(durable)
    assert (found.fired, found.skipped, found.last_slot_at) == (1, 0, slot)
    assert found.next_slot_at == slot + HOUR


async def test_plain_nodes_that_fill_the_executor_keep_no_schedule_from_firing(
    durable: Durable,
) -> None:
    """The server would end its transaction, which rests meanwhile, and so each further one."""
    slot = await hourly(durable)
    await durable.schedules.pause("s")
    free, loop = threading.Event(), asyncio.get_running_loop()
    nodes = [loop.run_in_executor(None, free.wait) for _ in range(100)]
    try:
        await within(30, durable.schedules.resume("s"), what="the schedule to go on")
        assert await within(30, fire_at(durable, slot), what="its slot to fire") == 1
    finally:
        free.set()
        await asyncio.gather(*nodes)


async def test_a_clock_that_steps_back_fires_nothing_twice(durable: Durable) -> None:
    slot = await hourly(durable)
    for hours in (0, 1, -5, 1, 2, -100, 0, 2, 3):
        await fire_at(durable, slot + hours * HOUR)
    assert [run.run_id for run in await runs(durable)] == [
        slot_run_id("s", slot + n * HOUR) for n in range(4)
    ]
    await durable.schedules.pause("s")
    resumed = await durable.schedules.resume("s")  # by today's clock, which is hours behind
    assert resumed.next_slot_at == slot + 4 * HOUR


async def test_a_slot_whose_run_was_pruned_does_not_fire_again(durable: Durable) -> None:
    slot = await hourly(durable)
    await fire_at(durable, slot)
    [run] = await runs(durable)
    async with durable.work():
        await durable.runs.wait(run.run_id, timeout=20)
    await durable.threads.delete(run.thread_id)
    with pytest.raises(RunNotFoundError):
        await durable.runs.get(run.run_id)
    await fire_at(durable, slot)
    await fire_at(durable, slot + HOUR / 2)
    assert await runs(durable) == []


async def test_of_missed_slots_the_last_fires_within_the_window(durable: Durable) -> None:
    slot = await hourly(durable, catch_up=3 * HOUR)
    await fire_at(durable, slot + 5 * HOUR)
    assert [run.run_id for run in await runs(durable)] == [slot_run_id("s", slot + 5 * HOUR)]
    found = await schedule(durable)
    assert (found.fired, found.skipped) == (1, 5)


async def test_each_missed_slot_within_the_window_fires_if_it_is_to(durable: Durable) -> None:
    slot = await hourly(durable, catch_up=3 * HOUR, catch_up_all=True)
    await fire_at(durable, slot + 5 * HOUR)
    assert [run.run_id for run in await runs(durable)] == [
        slot_run_id("s", slot + n * HOUR) for n in (2, 3, 4, 5)
    ]
    found = await schedule(durable)
    assert (found.fired, found.skipped) == (4, 2)


async def test_more_missed_slots_than_a_transaction_takes_all_fire(durable: Durable) -> None:
    slot = await hourly(durable, catch_up=300 * HOUR, catch_up_all=True)
    await fire_at(durable, slot + 249 * HOUR)
    assert len(await runs(durable)) == 250
    assert (await schedule(durable)).fired == 250


async def test_jitter_delays_a_slot_always_by_the_same_time(durable: Durable) -> None:
    slot = await hourly(durable, jitter=1800)
    due = (await schedule(durable)).next_at
    assert due is not None
    assert slot < due < slot + HOUR / 2
    await fire_at(durable, due - timedelta(microseconds=1))
    assert await runs(durable) == []
    await fire_at(durable, due)
    assert [run.run_id for run in await runs(durable)] == [slot_run_id("s", slot)]


async def test_a_paused_schedule_fires_nothing(durable: Durable) -> None:
    slot = await hourly(durable)
    await durable.schedules.pause("s")
    await fire_at(durable, slot + HOUR)
    assert await runs(durable) == []


async def test_a_schedule_fires_nothing_after_its_end(durable: Durable) -> None:
    ends_at = datetime.now(UTC) + 3 * HOUR
    slot = await hourly(durable, catch_up_all=True, ends_at=ends_at)
    await fire_at(durable, slot + 10 * HOUR)
    before_the_end = 1 + (ends_at - slot) // HOUR  # 3, or 2 where an hour began meanwhile
    assert len(await runs(durable)) == before_the_end
    assert (await schedule(durable)).ended


async def test_a_schedule_pauses_after_failures_in_a_row(durable: Durable) -> None:
    slot = await hourly(durable, pause_on_failure=2)
    outcomes = ("failed", "complete", "failed", "quarantined")
    for n, status in enumerate(outcomes):
        await fire_at(durable, slot + n * HOUR)
        await settled(durable, slot_run_id("s", slot + n * HOUR), status)
        assert not (await schedule(durable)).paused
    await fire_at(durable, slot + 4 * HOUR)
    assert len(await runs(durable)) == 4
    found = await schedule(durable)
    assert (found.paused, found.failures, found.note) == (True, 2, "its last 2 runs have failed")
    resumed = await durable.schedules.resume("s")
    assert (resumed.failures, resumed.note) == (0, None)
    await fire_at(durable, slot + 4 * HOUR)
    assert len(await runs(durable)) == 5, "what failed before it was resumed counts no more"


async def test_a_run_that_fails_in_a_worker_pauses_its_schedule(durable: Durable) -> None:
    await durable.schedules.create("s", "breaks", INPUT, every=1, pause_on_failure=True)
    async with durable.work(retry_policy=RetryPolicy(max_attempts=1)):
        await wait_until(lambda: paused(durable))
    assert (await schedule(durable)).note == "its last run has failed"


async def paused(durable: Durable) -> bool:
    return (await schedule(durable)).paused


@pytest.mark.parametrize(
    ("on_busy", "statuses", "counted"),
    [
        ("enqueue", ["queued", "queued"], (2, 0)),
        ("reject", ["queued"], (1, 1)),
        ("interrupt", ["superseded", "queued"], (2, 0)),
    ],
)
async def test_a_slot_whose_thread_is_busy_does_what_on_busy_says(
    durable: Durable, on_busy: Any, statuses: list[str], counted: tuple[int, int]
) -> None:
    slot = await hourly(durable, thread_id="t", on_busy=on_busy)
    await fire_at(durable, slot)
    await fire_at(durable, slot + HOUR)
    found = await runs(durable)
    assert [run.status for run in found] == statuses
    assert {run.thread_id for run in found} == {"t"}
    after = await schedule(durable)
    assert (after.fired, after.skipped) == counted


async def test_a_schedule_that_cannot_be_computed_pauses_and_the_others_fire(
    durable: Durable,
) -> None:
    slot = await hourly(durable)
    await durable.schedules.create("other", "chain", INPUT, cron="@hourly")
    async with await psycopg.AsyncConnection.connect(durable.dsn.conninfo) as connection:
        await connection.execute(
            "UPDATE aiodurable_schedules SET time_zone = 'Mars/Olympus' WHERE schedule_id = 's'"
        )
    await fire_at(durable, slot)
    found = await schedule(durable)
    assert found.paused
    assert "there is no zone of that name here" in (found.note or "")
    assert await runs(durable) == []
    assert len(await runs(durable, "other")) == 1


async def test_thousands_are_due_at_once_and_several_workers_fire_each_once(
    dsn: str, durable: Durable
) -> None:
    async with await psycopg.AsyncConnection.connect(dsn) as connection:
        slot = await hourly(durable)
        copied = "graph, time_zone, cron, anchor_at, jitter_s, catch_up_s, catch_up_all, on_busy"
        copied += ", queue, priority, fairness_key, input_type, input, next_slot_at, next_at"
        await connection.execute(
            f"INSERT INTO aiodurable_schedules (schedule_id, {copied})"
            f" SELECT 'x' || n, {copied} FROM aiodurable_schedules, generate_series(1, 1999) n".encode()
        )
    async with Durable(dsn) as second, Durable(dsn) as third:
        fired = await asyncio.gather(*(fire_at(each, slot) for each in (durable, second, third)))
    await fire_at(durable, slot)
    assert sum(fired) <= 2000
    async with await psycopg.AsyncConnection.connect(dsn) as connection:
        found = await connection.execute(
            "SELECT count(*), count(DISTINCT schedule_id) FROM aiodurable_runs"
        )
        assert await found.fetchone() == (2000, 2000)
        found = await connection.execute(
            "SELECT count(*) FROM aiodurable_schedules WHERE fired = 1 AND next_slot_at > %s",
            [slot],
        )
        assert await found.fetchone() == (2000,)


async def test_slots_are_the_same_where_the_database_has_daylight_saving_time(dsn: str) -> None:
    async with await psycopg.AsyncConnection.connect(dsn, autocommit=True) as admin:
        await admin.execute(
            f"ALTER DATABASE \"{admin.info.dbname}\" SET timezone TO 'Europe/Berlin'".encode()
        )
    async with Durable(dsn, graphs={"chain": chain(a=ok("a"))}) as durable:
        winter, summer = datetime(2040, 1, 1, tzinfo=UTC), datetime(2040, 7, 1, tzinfo=UTC)
        await durable.schedules.create("s", "chain", INPUT, every=60, starts_at=winter)
        await fire_at(durable, summer)
        assert (await schedule(durable)).next_slot_at == summer + MINUTE
        [run] = await runs(durable)
        assert run.run_id == slot_run_id("s", summer)
        # the hour that comes twice: its second half is later than its first
        first = datetime(2040, 10, 28, 0, 30, tzinfo=UTC)
        await durable.schedules.create("twice", "chain", INPUT, at=first)
        await fire_at(durable, first + timedelta(minutes=40))
        assert len(await runs(durable, "twice")) == 1
