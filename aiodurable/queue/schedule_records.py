"""Schedules as they are stored: how they stand, and the runs of their slots."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any, Final, NamedTuple

from aiodurable.errors import ScheduleNotFoundError
from aiodurable.lock_keys import lock_key
from aiodurable.postgres.sql import load
from aiodurable.queue.new_run import Row
from aiodurable.queue.slots import Timetable, slot_run_id, slot_thread_id

__all__ = [
    "SQL",
    "Schedule",
    "SchedulePage",
    "SlotRun",
    "no_schedule",
    "row_of_run",
    "schedule_of",
    "slot_row",
    "timetable_of",
]

SQL: Final = load("schedules")


@dataclass(frozen=True, slots=True)
class Schedule:
    """A schedule: its definition, and where it stands. What its runs get as input is not shown.

    Attributes:
        schedule_id: its name.
        graph: the name of the graph of its runs.
        thread_id: the thread of all its runs; None: each slot has one of its own.
        cron: the expression, if it has one.
        time_zone: the zone whose wall clock `cron` is about.
        every: the interval, if it has one.
        at: its only slot, if it has one.
        starts_at, ends_at: no slot is earlier, or later.
        jitter: a slot fires up to so much later than its time.
        catch_up: how old a missed slot may be and still fire.
        catch_up_all: whether each of several missed slots fires, not only the last.
        on_busy, queue, priority, fairness_key, concurrency_key, max_attempts, timeout_s,
            start_timeout_s, metadata, summary: what a run is accepted with.
        pause_on_failure: after so many failed runs in a row it pauses; None: never.
        paused_at: since when it is paused; None: it is not.
        note: why it was paused or resumed.
        next_slot_at: its next slot; None: it has ended. Of a paused one, what it was.
        next_at: when that fires: by its jitter later.
        last_slot_at: the last slot that fired.
        failures: failed runs in a row, counted when a slot is due, where it pauses on failure.
        fired: how many slots have accepted a run.
        skipped: how many slots did not: they were missed, or their thread was busy.
        created_at, updated_at: when it was created, and last changed or fired.
    """

    schedule_id: str
    graph: str
    thread_id: str | None
    cron: str | None
    time_zone: str
    every: timedelta | None
    at: datetime | None
    starts_at: datetime | None
    ends_at: datetime | None
    jitter: timedelta
    catch_up: timedelta
    catch_up_all: bool
    on_busy: str
    queue: str
    priority: int
    fairness_key: str | None
    concurrency_key: str | None
    max_attempts: int | None
    timeout_s: float | None
    start_timeout_s: float | None
    metadata: Mapping[str, Any] | None
    summary: str | None
    pause_on_failure: int | None
    paused_at: datetime | None
    note: str | None
    next_slot_at: datetime | None
    next_at: datetime | None
    last_slot_at: datetime | None
    failures: int
    fired: int
    skipped: int
    created_at: datetime
    updated_at: datetime

    @property
    def paused(self) -> bool:
        """Whether no slot fires until it is resumed."""
        return self.paused_at is not None

    @property
    def ended(self) -> bool:
        """Whether there is no slot left."""
        return self.next_slot_at is None


class SchedulePage(NamedTuple):
    """One page of a list.

    Attributes:
        schedules: by schedule_id.
        after: the `after` of the next page; None: there is none.
    """

    schedules: tuple[Schedule, ...]
    after: str | None


class SlotRun(NamedTuple):
    """A slot that `backfill` passed.

    Attributes:
        slot: its time.
        run_id: its run.
        thread_id: the run's thread.
        accepted: whether this call accepted the run; otherwise it was there, its thread was busy,
            or nothing was to be written.
    """

    slot: datetime
    run_id: str
    thread_id: str
    accepted: bool


_COMPUTED: Final = ("every", "at", "jitter", "catch_up", "fairness_key", "metadata")
_COPIED: Final = tuple(name for name in Schedule.__dataclass_fields__ if name not in _COMPUTED)


def schedule_of(row: Mapping[str, Any]) -> Schedule:
    """The record of a row."""
    return Schedule(
        every=None if row["every_s"] is None else timedelta(seconds=row["every_s"]),
        at=row["once_at"],
        jitter=timedelta(seconds=row["jitter_s"]),
        catch_up=timedelta(seconds=row["catch_up_s"]),
        fairness_key=row["fairness_key"] or None,
        metadata=None if row["metadata"] is None else json.loads(row["metadata"]),
        **{name: row[name] for name in _COPIED},
    )


def timetable_of(row: Mapping[str, Any]) -> Timetable:
    """The timetable of a row."""
    return Timetable(
        cron=row["cron"],
        time_zone=row["time_zone"],
        every=None if row["every_s"] is None else timedelta(seconds=row["every_s"]),
        at=row["once_at"],
        anchor=row["anchor_at"],
        starts_at=row["starts_at"],
        ends_at=row["ends_at"],
    )


def slot_row(row: Mapping[str, Any], slot: datetime, namespace: str) -> Row:
    """The run of a slot, for the statement that accepts runs."""
    schedule_id = row["schedule_id"]
    thread_id = row["thread_id"] or slot_thread_id(schedule_id, slot)
    return row_of_run(row, slot_run_id(schedule_id, slot), thread_id, namespace)


def row_of_run(row: Mapping[str, Any], run_id: str, thread_id: str, namespace: str) -> Row:
    """A run of a schedule, for the statement that accepts runs."""
    same = (*_VALUES, "queue", "priority", "fairness_key", "concurrency_key", "max_attempts")
    same = (*same, "retry_policy", "timeout_s", "start_timeout_s", "on_busy", "metadata", "summary")
    return Row(
        run_id=run_id,
        thread_id=thread_id,
        lock_key=lock_key(thread_id, namespace),
        graph=row["graph"],
        run_at=None,
        after_s=None,
        dedup_key=None,
        schedule_id=row["schedule_id"],
        **{name: row[name] for name in same},
    )


_VALUES: Final = ("input_type", "input", "context_type", "context", "config_type", "config")


def no_schedule(schedule_id: str) -> ScheduleNotFoundError:
    """The error for a schedule that there is not."""
    return ScheduleNotFoundError(
        f"cannot find schedule {schedule_id!r}: it was never created, or was deleted; check the id",
        schedule_id=schedule_id,
    )
