"""A transaction of somebody's that has locked the rows of runs keeps a worker from no other run."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Sequence
from datetime import UTC, datetime, timedelta
from typing import Any

import asyncpg
import pytest

from aiodurable.durable import Durable
from aiodurable.models import RunStatus
from aiodurable.queue.new_run import NewRun
from aiodurable.runs.busy import interrupt
from aiodurable.settings import Settings
from aiodurable.worker import claims
from aiodurable.worker import scheduler as scheduler_module
from aiodurable.worker.claims import Claimed, Claims
from aiodurable.worker.scheduler import Scheduler
from tests.support.internals import services_of
from tests.support.scenario_graphs import chain, ok
from tests.support.waiting import within

INPUT: dict[str, Any] = {"xs": ["in"]}
SECOND = timedelta(seconds=1)
LOCKED = [f"locked-{n}" for n in range(2)]
"""Runs, and their threads: as many as statements of every run have connections."""
LOCK = "SELECT FROM aiodurable_runs WHERE thread_id LIKE 'locked-%' FOR UPDATE"
HELD_S = 8
"""Seconds within which the others end: fewer than what waits for a locked row is given."""


@pytest.fixture
async def durable(dsn: str) -> AsyncIterator[Durable]:
    settings = Settings(pool_max_size=2, recovery_grace_s=1)
    async with Durable(dsn, graphs={"g": chain(a=ok("a"))}, settings=settings) as opened:
        yield opened


async def accept(durable: Durable, *run_ids: str, **options: Any) -> None:
    for run_id in run_ids:
        await durable.runs.create(run_id, "g", INPUT, run_id=run_id, **options)


async def ended(durable: Durable, run_ids: Sequence[str], seconds: float) -> None:
    waits = (durable.runs.wait(run_id) for run_id in run_ids)
    await within(seconds, asyncio.gather(*waits), what=f"the end of {', '.join(run_ids)}")


LEFT = {
    "claimed by a process that is gone": "claim_state = 'claimed', claimed_by = 'gone:1#1'",
    "at work in a process that is gone": (
        "status = 'running', claim_state = NULL, attempted_by = 'gone:1', fencing_token = 0, seq = 0"
    ),
    "behind a run that has ended": "claim_state = 'blocked'",
}


@pytest.mark.parametrize("left", LEFT.values(), ids=list(LEFT))
async def test_a_locked_row_that_is_to_be_claimed_again_holds_up_no_other(
    durable: Durable, db: asyncpg.Connection, left: str
) -> None:
    await accept(durable, *LOCKED, "other")
    await db.execute(f"UPDATE aiodurable_runs SET {left}")
    async with durable.work():
        async with db.transaction():
            await db.execute(LOCK)
            await accept(durable, "new")
            await ended(durable, ["new", "other"], HELD_S)
        await ended(durable, LOCKED, 20)


async def test_a_locked_row_that_is_to_make_way_holds_up_no_other(
    durable: Durable, db: asyncpg.Connection
) -> None:
    await accept(durable, *LOCKED)
    async with db.transaction():
        await db.execute(LOCK)
        for thread_id in (*LOCKED, "other"):
            await durable.runs.create(
                thread_id, "g", INPUT, run_id=f"due-{thread_id}", on_busy="interrupt", after=0.1
            )
        async with durable.work():
            await accept(durable, "new")
            await ended(durable, ["new", "due-other"], HELD_S)
    async with durable.work():
        await ended(durable, [f"due-{thread_id}" for thread_id in LOCKED], 20)
    for run_id in LOCKED:
        assert (await durable.runs.get(run_id)).status is RunStatus.SUPERSEDED


async def test_many_runs_that_are_due_make_way_at_once_and_those_of_locked_threads_hide_none(
    durable: Durable, db: asyncpg.Connection, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A wait for each would take a worker twenty seconds, in which it claims nothing."""
    together: list[int] = []

    async def counted(fetch: Any, newcomers: Any) -> Any:
        newcomers = list(newcomers)
        together.append(len(newcomers))
        return await interrupt(fetch, newcomers)

    monkeypatch.setattr(claims, "interrupt", counted)
    monkeypatch.setattr(claims, "_MOST_DUE", 100)
    threads = [f"locked-{n}" for n in range(250)]
    others = [f"other-{n}" for n in range(60)]
    await durable.runs.create_many(
        NewRun(thread_id=one, graph="g", input=INPUT) for one in [*threads, *others]
    )
    await durable.runs.create_many(
        NewRun(
            thread_id=one, graph="g", input=INPUT, run_id=f"due-{one}", on_busy="interrupt", after=0
        )
        for one in [*threads, *others]
    )
    await accept(durable, "plain")
    await db.execute(
        "UPDATE aiodurable_runs SET claim_state = 'scheduled', scheduled_at = now() - CASE"
        " WHEN thread_id LIKE 'locked-%' THEN interval '2 min' ELSE interval '1 min' END"
        " WHERE run_id LIKE 'due-%' OR run_id = 'plain'"
    )
    worker = Claims(services_of(durable), ["default"])
    async with db.transaction():
        await db.execute(LOCK)
        await within(HELD_S, worker.tidy([]), what="a look at what is due")
        for run_id in ("due-other-59", "plain"):
            assert (await durable.runs.get(run_id)).claim_state == "ready"
    assert sum(together) == 60
    assert len(together) <= 2, "one statement a look"
    await worker.tidy([])
    assert (await durable.runs.get("due-locked-7")).claim_state == "ready"
    assert together[-1] == 100


async def test_of_runs_of_a_thread_that_are_due_together_the_last_one_takes_the_place(
    durable: Durable, db: asyncpg.Connection
) -> None:
    await accept(durable, "t")
    for run_id, on_busy in (("first", "rollback"), ("second", "interrupt")):
        await durable.runs.create("t", "g", INPUT, run_id=run_id, on_busy=on_busy, after=60)
    await db.execute(
        "UPDATE aiodurable_runs SET scheduled_at = now() - interval '1 s' * position"
        " WHERE claim_state = 'scheduled'"
    )
    await Claims(services_of(durable), ["default"]).tidy([])
    rows = await db.fetch("SELECT run_id, status, interrupted_by, claim_state FROM aiodurable_runs")
    assert {tuple(row) for row in rows} == {
        ("t", "superseded", "first", None),
        ("second", "superseded", "first", None),
        ("first", "queued", None, "ready"),
    }, "first was due after second"


async def test_a_schedule_whose_thread_is_locked_holds_up_no_other(
    durable: Durable, db: asyncpg.Connection
) -> None:
    await accept(durable, LOCKED[0])
    async with db.transaction():
        await db.execute(LOCK)
        for schedule_id, thread_id in (("stays", LOCKED[0]), ("fires", "free")):
            await durable.schedules.create(
                schedule_id, "g", INPUT, every=1, thread_id=thread_id, on_busy="interrupt"
            )
        scheduler = Scheduler(
            services_of(durable), durable.settings.namespace, now=datetime.now(UTC) + 3 * SECOND
        )
        assert await within(HELD_S, scheduler.fire(), what="the schedules that fire") == 1
        assert await scheduler.fire() == 0
    assert await scheduler.fire() == 1
    assert (await durable.runs.get(LOCKED[0])).status is RunStatus.SUPERSEDED


async def test_schedules_whose_threads_are_locked_hide_none_behind_them(
    durable: Durable, db: asyncpg.Connection, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(scheduler_module, "_MOST", 2)
    for n in range(5):
        await accept(durable, f"locked-{n}")
    now = datetime.now(UTC)
    async with db.transaction():
        await db.execute(LOCK)
        for n in range(5):
            await durable.schedules.create(
                f"stays-{n}", "g", INPUT, every=1, thread_id=f"locked-{n}", on_busy="interrupt"
            )
        await durable.schedules.create("fires", "g", INPUT, every=1, starts_at=now + 40 * SECOND)
        scheduler = Scheduler(
            services_of(durable), durable.settings.namespace, now=now + 50 * SECOND
        )
        assert await within(HELD_S, scheduler.fire(), what="the schedules that fire") == 1
        assert (await durable.schedules.get("fires")).fired == 1
    while await scheduler.fire():
        pass
    assert (await durable.schedules.get("stays-4")).fired == 1


@pytest.mark.parametrize("on_busy", ["reject", "interrupt"])
async def test_a_run_that_is_being_accepted_holds_up_no_schedule_of_another_thread(
    durable: Durable, db: asyncpg.Connection, on_busy: Any
) -> None:
    async with db.transaction():
        await durable.runs.create("t", "g", INPUT, on_busy=on_busy, conn=db)
        for schedule_id, thread_id in (("stays", "t"), ("fires", "free")):
            await durable.schedules.create(
                schedule_id, "g", INPUT, every=1, thread_id=thread_id, on_busy=on_busy
            )
        scheduler = Scheduler(
            services_of(durable), durable.settings.namespace, now=datetime.now(UTC) + 3 * SECOND
        )
        assert await within(HELD_S, scheduler.fire(), what="the schedules that fire") == 1
        assert (await durable.schedules.get("fires")).fired == 1
    assert await scheduler.fire() == 1


async def test_a_locked_row_of_a_queue_with_limits_holds_up_no_other_queue(
    durable: Durable, db: asyncpg.Connection
) -> None:
    await durable.queues.scale("limited", max_running=1)
    await accept(durable, "limited", queue="limited")
    async with durable.work(queues=["limited", "default"]):
        async with db.transaction():
            await db.execute("SELECT FROM aiodurable_queues FOR UPDATE")
            await accept(durable, "new")
            await ended(durable, ["new"], HELD_S)
            assert (await durable.runs.get("limited")).status is RunStatus.QUEUED
        await ended(durable, ["limited"], HELD_S)


@pytest.fixture
def locked(monkeypatch: pytest.MonkeyPatch, db: asyncpg.Connection) -> asyncio.Event:
    """Set when a worker has claimed the rows, and the test's transaction has locked them."""
    claim, locked = Claims.claim, asyncio.Event()

    async def claim_then_lock(self: Claims, most: int) -> list[Claimed]:
        claimed = await claim(self, most)
        if {one.run_id for one in claimed} == set(LOCKED) and db.is_in_transaction():
            await db.execute(LOCK)
            locked.set()
        return claimed

    monkeypatch.setattr(Claims, "claim", claim_then_lock)
    return locked


async def test_a_locked_row_that_a_worker_puts_back_holds_up_no_other(
    dsn: str, durable: Durable, db: asyncpg.Connection, locked: asyncio.Event
) -> None:
    await accept(durable, *LOCKED)
    async with Durable(dsn, settings=Settings()) as another, db.transaction():
        async with another.hold(LOCKED[0]), another.hold(LOCKED[1]), durable.work():
            await within(20, locked.wait(), what="the locked rows")
            await accept(durable, "new")
            await ended(durable, ["new"], HELD_S)
    async with durable.work():
        await ended(durable, LOCKED, 20)


async def test_a_locked_row_that_a_worker_sets_aside_holds_up_no_other(
    durable: Durable, db: asyncpg.Connection, locked: asyncio.Event
) -> None:
    await accept(durable, *LOCKED, start_timeout=0.01)
    async with db.transaction():
        async with durable.work():
            await within(20, locked.wait(), what="the locked rows")
            await accept(durable, "new")
            await ended(durable, ["new"], HELD_S)
    async with durable.work():
        for run_id in LOCKED:
            record = await durable.runs.wait_first([run_id], timeout=20)
            assert (record.status, record.reason) == (RunStatus.QUARANTINED, "waited too long")
