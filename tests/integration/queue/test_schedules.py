"""`durable.schedules`: definitions, pauses, triggers and backfills."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from datetime import UTC, datetime, timedelta
from typing import Any

import asyncpg
import pytest

from aiodurable import Durable, RetryPolicy, Schedule, ScheduleNotFoundError
from aiodurable.errors import (
    GraphNotRegisteredError,
    InvalidArgumentError,
    LockTimeoutError,
    RunInProgressError,
)
from aiodurable.models import RunStatus
from aiodurable.postgres import locked_rows
from aiodurable.queue.slots import slot_run_id
from tests.support.scenario_graphs import chain, ok
from tests.support.waiting import wait_until, within

INPUT: dict[str, Any] = {"xs": []}
HOUR = timedelta(hours=1)


@pytest.fixture
async def durable(dsn: str) -> AsyncIterator[Durable]:
    async with Durable(dsn, graphs={"chain": chain(a=ok("a"))}) as opened:
        yield opened


async def created(durable: Durable, schedule_id: str = "s", **more: Any) -> Schedule:
    definition = {"cron": "@hourly"} if not more.keys() & {"cron", "every", "at"} else {}
    return await durable.schedules.create(schedule_id, "chain", INPUT, **definition, **more)


async def test_a_schedule_is_what_it_was_created_with(durable: Durable) -> None:
    given: dict[str, Any] = {
        "cron": "30 7 * * 1-5",
        "time_zone": "Europe/Berlin",
        "thread_id": "t",
        "jitter": 60,
        "catch_up": timedelta(hours=2),
        "catch_up_all": True,
        "starts_at": datetime(2040, 1, 1, tzinfo=UTC),
        "ends_at": datetime(2041, 1, 1, tzinfo=UTC),
        "on_busy": "reject",
        "queue": "q",
        "priority": 3,
        "fairness_key": "f",
        "concurrency_key": "c",
        "max_attempts": 2,
        "retry_policy": RetryPolicy(initial_s=7),
        "timeout": 5.0,
        "start_timeout": 6.0,
        "pause_on_failure": 3,
        "context": {"user": "u"},
        "config": {"tags": ["x"]},
        "metadata": {"tenant": "acme"},
        "summary": "reports",
    }
    new = await created(durable, **given)
    assert await durable.schedules.get("s") == new
    assert (new.graph, new.thread_id, new.cron, new.time_zone) == (
        "chain",
        "t",
        "30 7 * * 1-5",
        "Europe/Berlin",
    )
    assert (new.jitter, new.catch_up, new.catch_up_all) == (
        60 * timedelta(seconds=1),
        2 * HOUR,
        True,
    )
    assert new.next_slot_at == datetime(2040, 1, 2, 6, 30, tzinfo=UTC)
    assert new.next_at is not None
    assert (
        datetime(2040, 1, 2, 6, 30, tzinfo=UTC)
        < new.next_at
        < datetime(2040, 1, 2, 6, 31, tzinfo=UTC)
    )
    assert (new.metadata, new.summary, new.pause_on_failure) == ({"tenant": "acme"}, "reports", 3)
    assert (new.fired, new.skipped, new.failures, new.paused, new.ended) == (0, 0, 0, False, False)
    assert await created(durable, **given) == new, "the same definition is the same schedule"
    run = await durable.runs.get((await durable.schedules.trigger("s")).run_id)
    assert (run.schedule_id, run.thread_id, run.queue, run.priority) == ("s", "t", "q", 3)
    assert (run.metadata, run.summary, run.timeout_s) == ({"tenant": "acme"}, "reports", 5.0)


@pytest.mark.parametrize(
    ("change", "argument"),
    [
        ({"cron": "@daily"}, "cron"),
        ({"every": 60}, "cron"),
        ({"priority": 1}, "priority"),
        ({"thread_id": "t"}, "thread_id"),
        ({"metadata": {"a": 1}}, "metadata"),
        ({"context": {"a": 1}}, "context"),
        ({"retry_policy": RetryPolicy()}, "retry_policy"),
        ({"jitter": 5}, "jitter"),
        ({"pause_on_failure": True}, "pause_on_failure"),
    ],
)
async def test_another_definition_is_refused_unless_it_replaces(
    durable: Durable, change: dict[str, Any], argument: str
) -> None:
    old = await created(durable)
    with pytest.raises(InvalidArgumentError, match="replace=True") as refused:
        await created(durable, **change)
    assert refused.value.argument == argument
    assert await durable.schedules.get("s") == old
    await durable.schedules.pause("s", note="holidays")
    changed = await created(durable, **change, replace=True)
    assert changed != old
    assert (changed.paused, changed.note) == (True, "holidays")
    assert await created(durable, **change) == changed


async def test_another_input_is_another_definition(durable: Durable) -> None:
    await created(durable)
    with pytest.raises(InvalidArgumentError, match="another input"):
        await durable.schedules.create("s", "chain", {"xs": ["more"]}, cron="@hourly")


@pytest.mark.parametrize(
    ("wrong", "argument"),
    [
        ({"cron": "0 0 30 2 *"}, "cron"),
        ({"cron": "@hourly", "every": 60}, "cron"),
        ({"cron": "@hourly", "time_zone": "Mars/Olympus"}, "time_zone"),
        ({"every": 0.5}, "every"),
        ({"every": float("nan")}, "every"),
        ({"at": datetime(2020, 1, 1, tzinfo=UTC)}, "at"),
        ({"cron": "@hourly", "ends_at": datetime(2020, 1, 1, tzinfo=UTC)}, "ends_at"),
        ({"cron": "@hourly", "jitter": -1}, "jitter"),
        ({"cron": "@hourly", "catch_up": 1}, "catch_up"),
        ({"cron": "@hourly", "on_busy": "wait"}, "on_busy"),
        ({"cron": "@hourly", "pause_on_failure": -1}, "pause_on_failure"),
        ({"cron": "@hourly", "schedule_id": "x" * 201}, "schedule_id"),
        ({"cron": "@hourly", "schedule_id": "\N{GRINNING FACE}" * 150}, "thread_id"),
        ({"cron": "@hourly", "schedule_id": ""}, "schedule_id"),
        ({"cron": "@hourly", "input": None}, "input"),
        ({"cron": "@hourly", "config": {"metadata": {"run_id": "r"}}}, "run_id"),
    ],
)
async def test_what_cannot_be_meant_is_refused_and_nothing_is_written(
    durable: Durable, wrong: dict[str, Any], argument: str
) -> None:
    given = {"schedule_id": "s", "graph": "chain", "input": INPUT, **wrong}
    with pytest.raises(InvalidArgumentError) as refused:
        await durable.schedules.create(**given)
    assert refused.value.argument == argument
    assert await durable.schedules.list() == ((), None)


async def test_a_graph_that_nobody_has_is_refused(durable: Durable) -> None:
    with pytest.raises(GraphNotRegisteredError):
        await durable.schedules.create("s", "typo", INPUT, cron="@hourly")


async def test_what_there_is_not_is_not_found(durable: Durable) -> None:
    schedules = durable.schedules
    now = datetime.now(UTC)
    for call in (
        schedules.get("x"),
        schedules.pause("x"),
        schedules.resume("x"),
        schedules.trigger("x"),
        schedules.backfill("x", now - HOUR, now - HOUR),
        schedules.next_times("x"),
        schedules.delete("x"),
    ):
        with pytest.raises(ScheduleNotFoundError) as missing:
            await call
        assert missing.value.schedule_id == "x"


async def test_pages_of_a_list_have_each_schedule_once(durable: Durable) -> None:
    for n in range(7):
        await created(durable, f"s{n}")
    await durable.schedules.pause("s3")
    found, after = list[str](), None
    while True:
        page = await durable.schedules.list(after=after, limit=3)
        found += [one.schedule_id for one in page.schedules]
        if (after := page.after) is None:
            break
    assert found == [f"s{n}" for n in range(7)]
    [paused] = (await durable.schedules.list(paused=True)).schedules
    assert paused.schedule_id == "s3"
    assert len((await durable.schedules.list(paused=False, graph="chain")).schedules) == 6
    assert (await durable.schedules.list(graph="other")).schedules == ()


async def test_a_paused_schedule_goes_on_with_the_next_slot_after_now(durable: Durable) -> None:
    await created(durable)
    paused = await durable.schedules.pause("s", note="an incident")
    assert paused.paused
    assert paused.note == "an incident"
    again = await durable.schedules.pause("s")
    assert again.paused_at == paused.paused_at
    resumed = await durable.schedules.resume("s", note="over")
    assert (resumed.paused, resumed.note) == (False, "over")
    assert resumed.next_slot_at is not None
    assert resumed.next_slot_at > datetime.now(UTC) - HOUR
    assert await durable.schedules.resume("s") == resumed


async def test_the_next_times_are_those_of_the_schedules_zone(durable: Durable) -> None:
    await created(durable, cron="30 7 * * *", time_zone="America/New_York")
    times = await durable.schedules.next_times("s", 400)
    assert len(times) == 400
    assert {(at.hour, at.minute) for at in times} == {(7, 30)}
    assert times[0] == (await durable.schedules.get("s")).next_slot_at
    await created(durable, "once", at=datetime(2040, 1, 1, tzinfo=UTC))
    assert await durable.schedules.next_times("once") == (datetime(2040, 1, 1, tzinfo=UTC),)


async def test_a_trigger_is_a_run_beside_the_slots(durable: Durable) -> None:
    before = await created(durable)
    await durable.schedules.pause("s")
    run = await durable.schedules.trigger("s", run_id="now")
    assert (run.run_id, run.thread_id, run.status) == ("now", "s/now", RunStatus.QUEUED)
    assert await durable.schedules.trigger("s", run_id="now") == run
    assert (await durable.schedules.trigger("s")).run_id != "now"
    after = await durable.schedules.get("s")
    assert (after.fired, after.next_slot_at) == (0, before.next_slot_at)
    found = await durable.runs.list(schedule_id="s")
    assert len(found.runs) == 2
    await durable.runs.create("other", "chain", INPUT, run_id="theirs")
    with pytest.raises(InvalidArgumentError, match="not made"):
        await durable.schedules.trigger("s", run_id="theirs")


async def test_a_trigger_of_a_busy_thread_is_refused_if_the_schedule_rejects(
    durable: Durable,
) -> None:
    await created(durable, thread_id="t", on_busy="reject")
    await durable.schedules.trigger("s", run_id="first")
    with pytest.raises(RunInProgressError):
        await durable.schedules.trigger("s")
    assert (await durable.schedules.trigger("s", run_id="first")).run_id == "first"


async def test_a_backfill_accepts_each_past_slot_once(durable: Durable) -> None:
    await created(durable)
    end = datetime.now(UTC).replace(minute=0, second=0, microsecond=0)
    start = end - 24 * HOUR
    planned = await durable.schedules.backfill("s", start, end, dry_run=True)
    assert [one.slot for one in planned] == [start + n * HOUR for n in range(25)]
    assert not any(one.accepted for one in planned)
    assert (await durable.runs.list(schedule_id="s")).runs == ()
    written = await durable.schedules.backfill("s", start, end)
    assert [one._replace(accepted=False) for one in written] == list(planned)
    assert all(one.accepted for one in written)
    assert {one.run_id for one in written} == {slot_run_id("s", one.slot) for one in planned}
    again = await durable.schedules.backfill("s", start - HOUR, end)
    assert [one.accepted for one in again] == [True] + 25 * [False]
    runs = (await durable.runs.list(schedule_id="s")).runs
    assert [run.run_id for run in runs] == [one.run_id for one in again], "in order of their slots"


async def test_a_backfill_is_bounded_and_of_the_past(durable: Durable) -> None:
    await created(durable, cron="* * * * *")
    now = datetime.now(UTC)
    for start, end, argument in (
        (now - 20 * HOUR, now - HOUR, "limit"),
        (now, now + HOUR, "end"),
        (now - HOUR, now - 2 * HOUR, "ends_at"),
        ((now - HOUR).replace(tzinfo=None), now, "starts_at"),
    ):
        with pytest.raises(InvalidArgumentError) as refused:
            await durable.schedules.backfill("s", start, end)
        assert refused.value.argument == argument
    assert (await durable.runs.list(schedule_id="s")).runs == ()


async def test_deleting_a_schedule_leaves_its_runs(durable: Durable) -> None:
    await created(durable)
    run = await durable.schedules.trigger("s")
    await durable.schedules.delete("s")
    with pytest.raises(ScheduleNotFoundError):
        await durable.schedules.get("s")
    assert await durable.runs.get(run.run_id) == run


async def test_two_processes_that_create_the_same_schedule_have_one(
    dsn: str, durable: Durable
) -> None:
    import asyncio

    made = await asyncio.gather(*(created(durable, every=3600) for _ in range(8)))
    assert set(map(repr, made)) == {repr(made[0])}


@pytest.mark.parametrize("option", ["dedup_key", "run_at", "conn", "prio"])
async def test_an_option_that_only_a_single_run_has_or_none_is_refused(
    durable: Durable, option: str
) -> None:
    with pytest.raises(TypeError, match=f"unexpected keyword argument '{option}'"):
        await durable.schedules.create("s", "chain", INPUT, every=60, **{option: "x"})


CHANGES: dict[str, Callable[[Durable], Awaitable[Any]]] = {
    "create": lambda durable: created(durable, thread_id="another", replace=True),
    "pause": lambda durable: durable.schedules.pause("s"),
    "resume": lambda durable: durable.schedules.resume("s"),
    "delete": lambda durable: durable.schedules.delete("s"),
}


@pytest.mark.parametrize("change", CHANGES.values(), ids=list(CHANGES))
async def test_a_schedule_whose_row_stays_locked_is_left_as_it_is(
    durable: Durable,
    db: asyncpg.Connection,
    change: Callable[[Durable], Awaitable[Any]],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(locked_rows, "PATIENCE_S", 0.3)
    was = await created(durable)
    async with db.transaction():
        await db.execute("SELECT FROM aiodurable_schedules FOR UPDATE")
        with pytest.raises(LockTimeoutError, match="schedule's row.*idle in a transaction"):
            await within(15, change(durable), what="the error")
        assert await durable.schedules.get("s") == was


async def test_a_schedule_that_another_transaction_creates_is_not_waited_for_without_end(
    durable: Durable, db: asyncpg.Connection, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(locked_rows, "PATIENCE_S", 0.3)
    await created(durable)
    columns = str(
        await db.fetchval(
            "SELECT string_agg(attname, ', ') FROM pg_attribute"
            " WHERE attrelid = 'aiodurable_schedules'::regclass AND attnum > 0 AND NOT attisdropped"
        )
    )
    async with db.transaction():
        await db.execute(
            f"WITH moved AS (DELETE FROM aiodurable_schedules RETURNING {columns})"
            f" INSERT INTO aiodurable_schedules ({columns}) SELECT"
            f" {columns.replace('schedule_id', repr('new') + ' AS schedule_id')} FROM moved"
        )
        with pytest.raises(LockTimeoutError, match="create schedule 'new'"):
            await within(15, created(durable, "new"), what="the error")


async def test_a_change_comes_once_the_row_of_its_schedule_is_free(
    durable: Durable, db: asyncpg.Connection
) -> None:
    await created(durable)
    async with db.transaction():
        await db.execute("SELECT FROM aiodurable_schedules FOR UPDATE")
        pausing = asyncio.create_task(durable.schedules.pause("s"))
        await wait_until(
            lambda: db.fetchval("SELECT EXISTS (SELECT FROM pg_locks WHERE NOT granted)"),
            what="the wait for the row",
        )
    assert (await within(15, pausing, what="the pause")).paused
