"""What a schedule is created with: written once, compared when it is created again."""

from __future__ import annotations

import json
from collections.abc import Awaitable, Callable, Mapping
from datetime import datetime, timedelta
from typing import Any, Final, NamedTuple, TypeVar

from aiodurable.errors import InvalidArgumentError
from aiodurable.postgres.locked_rows import patiently
from aiodurable.postgres.own_thread import in_own_thread
from aiodurable.queue.new_run import check_seconds
from aiodurable.queue.schedule_records import SQL, Schedule, schedule_of, timetable_of
from aiodurable.queue.slots import Timetable, due_at
from aiodurable.runs.services import Services
from aiodurable.thread_id import is_storable

__all__ = [
    "Definition",
    "changing",
    "check_note",
    "duration",
    "first_after",
    "most_failures",
    "write",
]

T = TypeVar("T")

_MOST_FAILURES: Final = 100
_LONGEST_NOTE: Final = 2000
_NO_PART: Final = frozenset({"anchor_at", "next_slot_at", "next_at"})
"""Of a definition's row what two equal definitions may differ in."""
_VALUES: Final = ("input", "context", "config")
_JSON: Final = frozenset({"retry_policy", "metadata"})


class Definition(NamedTuple):
    """The parameters of `insert` and `replace`, in their order."""

    schedule_id: str
    graph: str
    thread_id: str | None
    cron: str | None
    time_zone: str
    every_s: float | None
    once_at: datetime | None
    anchor_at: datetime | None
    starts_at: datetime | None
    ends_at: datetime | None
    jitter_s: float
    catch_up_s: float
    catch_up_all: bool
    input_type: str | None
    input: bytes | None
    context_type: str | None
    context: bytes | None
    config_type: str | None
    config: bytes | None
    on_busy: str
    queue: str
    priority: int
    fairness_key: str
    concurrency_key: str | None
    max_attempts: int | None
    retry_policy: str | None
    timeout_s: float | None
    start_timeout_s: float | None
    metadata: str | None
    summary: str | None
    pause_on_failure: int | None
    next_slot_at: datetime | None = None
    next_at: datetime | None = None


async def write(services: Services, definition: Definition, *, replace: bool) -> Schedule:
    """Create a schedule, or find the one there is.

    Raises:
        InvalidArgumentError: it has another definition, and is not to be replaced; or no slot is
            left.
        LockTimeoutError: see `changing`.
    """
    while True:
        written = await changing(
            lambda: _write(services, definition, replace=replace), "create", definition.schedule_id
        )
        if written is not None:
            return written
        # Another process created it since: compare with that one.


async def _write(services: Services, definition: Definition, *, replace: bool) -> Schedule | None:
    """Do as `write`, in one transaction; None: another one created it since this one looked."""
    schedule_id = definition.schedule_id
    async with services.checkpoints.database.transaction() as fetch:
        rows = await fetch(SQL["lock"], schedule_id, None)
        if rows:
            differs = await _difference(services, rows[0], definition)
            if differs is None:
                return schedule_of(rows[0])
            if not replace:
                raise InvalidArgumentError(
                    f"cannot create schedule {schedule_id!r}: there is one of this id with"
                    f" another {differs}; pass replace=True to change it",
                    argument=differs,
                )
        now = (rows or await fetch(SQL["clock"], None))[0]["now"]
        fired = rows[0]["last_slot_at"] if rows else None
        anchored = definition._replace(anchor_at=definition.starts_at or now.replace(microsecond=0))
        timetable = timetable_of(anchored._asdict())
        slot, due = await first_after(
            schedule_id, timetable, max(now, fired or now), definition.jitter_s
        )
        if slot is None:
            raise InvalidArgumentError(
                f"cannot create schedule {schedule_id!r}: it has no slot after now; choose a"
                " later moment",
                argument="at" if definition.once_at is not None else "ends_at",
            )
        new = anchored._replace(next_slot_at=slot, next_at=due)
        written = await fetch(SQL["replace" if rows else "insert"], *new)
    return schedule_of(written[0]) if written else None


async def changing(write: Callable[[], Awaitable[T]], verb: str, schedule_id: str) -> T:
    """Send what changes the row of a schedule, which another transaction may have locked.

    Raises:
        LockTimeoutError: it stayed locked for 10 seconds; nothing was written.
    """
    return await patiently(
        write, f"{verb} schedule {schedule_id!r}", None, row="the schedule's row, or creates it"
    )


async def first_after(
    schedule_id: str, timetable: Timetable, after: datetime, jitter_s: float
) -> tuple[datetime | None, datetime | None]:
    """The first slot after a moment, and when it is due."""
    # as in `Scheduler.fire`: in a transaction
    slot = await in_own_thread(lambda: next(timetable.slots(after), None), name="aiodurable slots")
    jitter = timedelta(seconds=jitter_s)
    return slot, None if slot is None else due_at(schedule_id, slot, jitter)


async def _difference(
    services: Services, row: Mapping[str, Any], definition: Definition
) -> str | None:
    """The name of what differs from the stored definition; None: nothing does."""
    values = {f"{name}{end}" for name in _VALUES for end in ("", "_type")}
    for name, given in definition._asdict().items():
        if name in _NO_PART or name in values:
            continue
        stored = row[name]
        if name in _JSON and stored is not None and given is not None:
            stored, given = json.loads(stored), json.loads(given)  # noqa: PLW2901
        if stored != given:
            return _ARGUMENTS.get(name, name)
    for name in _VALUES:
        stored = (row[f"{name}_type"], row[name])
        given = (getattr(definition, f"{name}_type"), getattr(definition, name))
        if not await services.ledger.same_stored(stored, given):
            return name
    return None


_ARGUMENTS: Final = {
    "every_s": "every",
    "once_at": "at",
    "jitter_s": "jitter",
    "catch_up_s": "catch_up",
    "timeout_s": "timeout",
    "start_timeout_s": "start_timeout",
}
"""Arguments whose columns have other names."""


def duration(name: str, value: float | timedelta, *, least: float = 0) -> timedelta:
    """Seconds as a timedelta.

    Raises:
        InvalidArgumentError: less than `least`, or more than a thousand years.
    """
    seconds = value.total_seconds() if isinstance(value, timedelta) else value
    check_seconds(name, seconds, least=least)
    return timedelta(seconds=seconds)


def most_failures(pause_on_failure: bool | int) -> int | None:
    """After how many failures in a row a schedule pauses; None: it does not."""
    if not 0 <= pause_on_failure <= _MOST_FAILURES:
        raise InvalidArgumentError(
            f"cannot use pause_on_failure={pause_on_failure!r}: it must be True, False, or a number"
            f" up to {_MOST_FAILURES}",
            argument="pause_on_failure",
        )
    return int(pause_on_failure) or None


def check_note(note: str | None) -> None:
    """Refuse what cannot be stored as a note."""
    if note is not None and (len(note) > _LONGEST_NOTE or not is_storable(note)):
        raise InvalidArgumentError(
            f"cannot use the note: it must have at most {_LONGEST_NOTE} characters, and no NUL",
            argument="note",
        )
