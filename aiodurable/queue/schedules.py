"""`durable.schedules`: runs that are accepted at their times, by whichever worker is there."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping, Sequence
from datetime import UTC, datetime, timedelta
from itertools import islice
from typing import Any, Final, Unpack
from zoneinfo import ZoneInfo

from aiodurable.errors import InvalidArgumentError, RunInProgressError
from aiodurable.models import RunRecord
from aiodurable.postgres.fetch import Fetch
from aiodurable.queue.acceptance import Acceptance
from aiodurable.queue.new_run import (
    NewRun,
    QueueOptions,
    check_name,
    row_of,
)
from aiodurable.queue.records import SQL as RUNS
from aiodurable.queue.records import queued_record
from aiodurable.queue.schedule_definitions import (
    Definition,
    changing,
    check_note,
    duration,
    first_after,
    most_failures,
    write,
)
from aiodurable.queue.schedule_records import (
    SQL,
    Schedule,
    SchedulePage,
    SlotRun,
    no_schedule,
    row_of_run,
    schedule_of,
    slot_row,
    timetable_of,
)
from aiodurable.queue.slots import LEAST_CATCH_UP_S, Timetable, slot_run_id, slot_thread_id
from aiodurable.runs.graphs import Graph
from aiodurable.runs.run_config import new_run_id
from aiodurable.runs.services import Services
from aiodurable.thread_id import validate_run_id
from aiodurable.threads import check_positive

__all__ = ["Schedules"]

_BATCH: Final = 500
"""Runs in one transaction."""


class Schedules:
    """The schedules of a database. Workers fire them: at each slot one of them accepts a run.

    Every method raises `ClosedError` while the `Durable` is not open, `PostgresUnavailableError`
    where Postgres cannot be reached, and, but for `create` and `list`, `ScheduleNotFoundError`.

    Args:
        opened: gives the services of the `Durable`, or raises `ClosedError`.
        namespace: that of the locks.
    """

    def __init__(self, opened: Callable[[], Services], *, namespace: str) -> None:
        self._opened = opened
        self._namespace = namespace

    async def create(
        self,
        schedule_id: str,
        graph: Graph,
        input: Any,
        *,
        cron: str | None = None,
        time_zone: str = "UTC",
        every: float | timedelta | None = None,
        at: datetime | None = None,
        thread_id: str | None = None,
        jitter: float | timedelta = 0,
        catch_up: float | timedelta = 86_400.0,
        catch_up_all: bool = False,
        starts_at: datetime | None = None,
        ends_at: datetime | None = None,
        pause_on_failure: bool | int = False,
        context: Any = None,
        replace: bool = False,
        **options: Unpack[QueueOptions],
    ) -> Schedule:
        """Create a schedule. The same definition again is the same schedule, and changes nothing.

        Its first slot is after now: a slot that was before is not missed.

        Args:
            schedule_id: names it, at most 200 characters.
            graph, input: of its runs.
            cron: five fields ("30 7 * * 1-5"), or a shorthand such as "@daily". What comes of the
                nights in which the clocks change is in docs/howto/schedules.md.
            time_zone: whose wall clock `cron` is about, such as "Europe/Berlin".
            every: the interval instead, in seconds, from `starts_at` or else from now.
            at: the only slot instead.
            thread_id: the thread of all its runs; None: each slot has a thread of its own,
                `{schedule_id}/{slot}`.
            jitter: each slot fires up to so many seconds late, always by the same time.
            catch_up: seconds within which a slot that was missed still fires; 10 or more. A day.
            catch_up_all: of several missed slots, whether each of these fires, or only the last.
            starts_at, ends_at: no slot is earlier, or later.
            pause_on_failure: pause after so many failed or quarantined runs in a row; True: one.
            context: as for `Runs.create`.
            replace: give an existing schedule of another definition this one. Its counts stay, and
                so does that it is paused.
            options: on_busy, queue, priority, fairness_key, concurrency_key, max_attempts,
                retry_policy, timeout, start_timeout, config, metadata, summary: as for
                `Runs.create`; with on_busy="reject" the slot of a busy thread is skipped.

        Raises:
            TypeError: an option is none of these.
            InvalidArgumentError: an argument cannot be used, no slot is left, or there is a
                schedule of this id with another definition; nothing was written.
            LockTimeoutError: as `pause`; or another one created the schedule and stayed open.
            GraphNotRegisteredError: this `Durable` has graphs, and none of that name.
        """
        check_name("schedule_id", schedule_id)
        if unknown := sorted(options.keys() - QueueOptions.__annotations__.keys()):
            raise TypeError(f"create() got an unexpected keyword argument {unknown[0]!r}")
        timetable = Timetable(
            cron=cron,
            time_zone=time_zone,
            every=None if every is None else duration("every", every, least=1),
            at=at,
            starts_at=starts_at,
            ends_at=ends_at,
        )
        await asyncio.to_thread(timetable.check)
        some_slot = slot_thread_id(schedule_id, datetime(2000, 1, 1, 1, 1, 1, 1, tzinfo=UTC))
        acceptance = self._acceptance()
        row = await row_of(
            acceptance.services,
            self._namespace,
            NewRun(
                thread_id=some_slot if thread_id is None else thread_id,
                graph=graph,
                input=input,
                run_id=slot_run_id(schedule_id, datetime.now(UTC)),
                context=context,
                **options,
            ),
        )
        values: dict[str, Any] = {
            name: getattr(row, name) for name in Definition._fields if name in row._fields
        }
        values |= {
            "schedule_id": schedule_id,
            "thread_id": thread_id,
            "cron": cron,
            "time_zone": time_zone,
            "every_s": None if timetable.every is None else timetable.every.total_seconds(),
            "once_at": at,
            "anchor_at": None,
            "starts_at": starts_at,
            "ends_at": ends_at,
            "jitter_s": duration("jitter", jitter).total_seconds(),
            "catch_up_s": duration("catch_up", catch_up, least=LEAST_CATCH_UP_S).total_seconds(),
            "catch_up_all": catch_up_all,
            "pause_on_failure": most_failures(pause_on_failure),
        }
        definition = Definition(**values)
        return await write(acceptance.services, definition, replace=replace)

    async def get(self, schedule_id: str) -> Schedule:
        """The schedule of that id."""
        check_name("schedule_id", schedule_id)
        rows = await self._opened().checkpoints.database.fetch(SQL["get"], schedule_id)
        return _only(rows, schedule_id)

    async def list(
        self,
        *,
        after: str | None = None,
        limit: int = 100,
        graph: str | None = None,
        paused: bool | None = None,
    ) -> SchedulePage:
        """One page of the schedules, by schedule_id.

        Args:
            after: the page before's `after`; None: the first page.
            limit: schedules on the page, at most.
            graph: only those of this graph.
            paused: only those that are paused, or are not.
        """
        check_positive(limit=limit)
        for name, text in (("after", after), ("graph", graph)):
            if text is not None:
                check_name(name, text)
        rows = await self._opened().checkpoints.database.fetch(
            SQL["page"], after or "", limit + 1, graph, paused
        )
        some = tuple(map(schedule_of, rows[:limit]))
        return SchedulePage(some, some[-1].schedule_id if len(rows) > limit else None)

    async def pause(self, schedule_id: str, *, note: str | None = None) -> Schedule:
        """Fire no slot any more, until `resume`. Runs that were accepted go on.

        Args:
            schedule_id: the schedule.
            note: why, for those who read it.

        Raises:
            LockTimeoutError: another transaction kept the schedule's row locked for 10 seconds.
        """
        check_name("schedule_id", schedule_id)
        check_note(note)
        fetch = self._opened().checkpoints.database.fetch
        rows = await changing(lambda: fetch(SQL["pause"], schedule_id, note), "pause", schedule_id)
        return _only(rows, schedule_id)

    async def resume(self, schedule_id: str, *, note: str | None = None) -> Schedule:
        """Fire again, from the first slot after now: those of the pause are not made up for. Raises
        as `pause`.
        """
        check_name("schedule_id", schedule_id)
        check_note(note)
        return await changing(lambda: self._resume(schedule_id, note), "resume", schedule_id)

    async def _resume(self, schedule_id: str, note: str | None) -> Schedule:
        async with self._opened().checkpoints.database.transaction() as fetch:
            rows = await fetch(SQL["lock"], schedule_id, None)
            found = _only(rows, schedule_id)
            if not found.paused:
                return found
            after = max(filter(None, (rows[0]["now"], found.last_slot_at)))
            slot, due = await first_after(
                schedule_id, timetable_of(rows[0]), after, rows[0]["jitter_s"]
            )
            return _only(await fetch(SQL["resume"], schedule_id, note, slot, due), schedule_id)

    async def trigger(self, schedule_id: str, *, run_id: str | None = None) -> RunRecord:
        """Accept a run now, beside the slots; also of a schedule that is paused or has ended.

        Args:
            schedule_id: the schedule.
            run_id: names the run; the same one again returns the run there is.

        Raises:
            RunInProgressError: its thread has a run that is not over, and `on_busy` is "reject".
            InvalidArgumentError: the run_id is that of a run of something else.
            LockTimeoutError: as `Runs.create`.
        """
        check_name("schedule_id", schedule_id)
        run_id = new_run_id() if run_id is None else validate_run_id(run_id)
        acceptance = self._acceptance()
        fetch = acceptance.services.checkpoints.database.fetch
        row = await self._whole(fetch, schedule_id)
        thread_id = row["thread_id"] or f"{schedule_id}/{run_id}"
        new = row_of_run(row, run_id, thread_id, self._namespace)
        if (record := (await acceptance.apart([new])).get(run_id)) is not None:
            return record
        existing = await fetch(RUNS["get"], [run_id])
        if not existing:
            raise RunInProgressError(
                f"cannot trigger schedule {schedule_id!r}: its thread {thread_id!r} has a run that"
                ' is not over, and on_busy is "reject"; wait for that one',
                thread_id=thread_id,
            )
        record = queued_record(existing[0])
        if record.schedule_id != schedule_id:
            raise InvalidArgumentError(
                f"cannot trigger schedule {schedule_id!r} as run {run_id!r}: there is a run of that"
                " run_id that this schedule has not made; use another one",
                thread_id=thread_id,
                argument="run_id",
            )
        return record

    async def backfill(
        self,
        schedule_id: str,
        start: datetime,
        end: datetime,
        *,
        limit: int = 1000,
        dry_run: bool = False,
    ) -> tuple[SlotRun, ...]:
        """Accept the runs of past slots, those from `start` to `end`, both included.

        They have the run_ids that their slots would have given them: a slot that has fired has its
        run already, unless that was pruned, and does not get another one.

        Args:
            schedule_id: the schedule.
            start, end: moments with a time zone; `end` is not in the future.
            limit: at most so many slots; more are refused before anything is written.
            dry_run: say which slots these are, accept nothing.

        Raises:
            InvalidArgumentError: no such range, or more slots than `limit`.
            LockTimeoutError: as `Runs.create`; what was accepted before stays.
        """
        check_name("schedule_id", schedule_id)
        check_positive(limit=limit)
        Timetable(at=end, starts_at=start, ends_at=end).check()
        acceptance = self._acceptance()
        row = await self._whole(acceptance.services.checkpoints.database.fetch, schedule_id)
        if end > row["now"]:
            raise InvalidArgumentError(
                f"cannot backfill until {end.isoformat()}: the database's clock has not reached it;"
                " later slots fire by themselves",
                argument="end",
            )
        slots = await asyncio.to_thread(_between, timetable_of(row), start, end, limit + 1)
        if len(slots) > limit:
            raise InvalidArgumentError(
                f"cannot backfill schedule {schedule_id!r}: there are more than {limit} slots in"
                " this range; choose a shorter one, or a larger limit",
                argument="limit",
            )
        rows = [slot_row(row, slot, self._namespace) for slot in slots]
        accepted = set[str]()
        for first in range(0, 0 if dry_run else len(rows), _BATCH):
            accepted |= (await acceptance.apart(rows[first : first + _BATCH])).keys()
        return tuple(
            SlotRun(slot, new.run_id, new.thread_id, new.run_id in accepted)
            for slot, new in zip(slots, rows, strict=True)
        )

    async def next_times(self, schedule_id: str, n: int = 10) -> tuple[datetime, ...]:
        """Its next slots, at most `n`, in its time zone; without jitter."""
        check_name("schedule_id", schedule_id)
        check_positive(n=n)
        rows = await self._opened().checkpoints.database.fetch(SQL["get_whole"], schedule_id, None)
        found = _only(rows, schedule_id)
        after = rows[0]["now"] if found.paused else found.next_slot_at
        if after is None:
            return ()
        until = datetime.max.replace(tzinfo=UTC)
        return tuple(
            slot.astimezone(ZoneInfo(found.time_zone))
            for slot in await asyncio.to_thread(_between, timetable_of(rows[0]), after, until, n)
        )

    async def delete(self, schedule_id: str) -> None:
        """Remove the schedule. Its runs stay, and go on. Raises as `pause`."""
        check_name("schedule_id", schedule_id)
        fetch = self._opened().checkpoints.database.fetch
        rows = await changing(lambda: fetch(SQL["delete"], schedule_id), "delete", schedule_id)
        if not rows:
            raise no_schedule(schedule_id)

    async def _whole(self, fetch: Fetch, schedule_id: str) -> Mapping[str, Any]:
        rows = await fetch(SQL["get_whole"], schedule_id, None)
        if not rows:
            raise no_schedule(schedule_id)
        return rows[0]

    def _acceptance(self) -> Acceptance:
        return Acceptance(self._opened(), self._namespace)


def _only(rows: Sequence[Mapping[str, Any]], schedule_id: str) -> Schedule:
    if not rows:
        raise no_schedule(schedule_id)
    return schedule_of(rows[0])


def _between(timetable: Timetable, start: datetime, end: datetime, most: int) -> Sequence[datetime]:
    """The slots from `start` to `end`, both included; the first `most` of them."""
    found = list[datetime]()
    for slot in islice(timetable.slots(start - timedelta(microseconds=1)), most):
        if slot > end:
            break
        found.append(slot)
    return found
