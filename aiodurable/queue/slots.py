"""When a schedule fires: its slots, computed from its definition alone, without a clock or a
database.

A cron expression is one of wall clock times, so daylight saving time matters. The rules are those
of Debian's cron, which cronsim follows:

- An expression with a fixed minute and hour ("30 2 * * *") fires once a day that it matches. In
  the night in which its time does not exist it fires at the first minute after the gap; in the
  night in which its time comes twice it fires the first time.
- One whose minute or hour begins with a star ("*/10 * * * *") fires by elapsed time: never in
  the gap, and in both of the repeated hours.

cronsim gives the wall clock times, and this module finds their moments: cronsim's own steps of an
hour miss times where the clock moves by half an hour (Australia/Lord_Howe).
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from functools import lru_cache
from typing import Final
from uuid import UUID
from zoneinfo import ZoneInfo, ZoneInfoNotFoundError

from aiodurable.errors import InvalidArgumentError

__all__ = [
    "LEAST_CATCH_UP_S",
    "MOST_FIRED",
    "Firing",
    "Timetable",
    "due_at",
    "explained",
    "firing",
    "slot_run_id",
    "slot_thread_id",
]

LEAST_CATCH_UP_S: Final = 10.0
"""A slot fires within a second or two; a shorter window would skip slots that nobody missed."""
MOST_FIRED: Final = 100
"""Slots of one schedule that fire in one transaction."""
_MOST_COUNTED: Final = 1000
"""Missed slots of one gap that are looked at one by one; what is beyond is passed in one step."""
_LONGEST_CRON: Final = 200
_LONGEST_ZONE: Final = 100
_LONGEST: Final = timedelta(days=366 * 1000)
_MINUTE: Final = timedelta(minutes=1)
_MICROSECOND: Final = timedelta(microseconds=1)
_GREGORIAN: Final = datetime(1582, 10, 15, tzinfo=UTC)
_SOME_DAY: Final = datetime(2000, 1, 1)  # noqa: DTZ001 - of a wall clock
_YEARS: Final = range(1970, 9000)
_SHORTHANDS: Final = {
    "@hourly": "0 * * * *",
    "@daily": "0 0 * * *",
    "@midnight": "0 0 * * *",
    "@weekly": "0 0 * * 0",
    "@monthly": "0 0 1 * *",
    "@yearly": "0 0 1 1 *",
    "@annually": "0 0 1 1 *",
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Timetable:
    """The slots of one schedule: exactly one of `cron`, `every` and `at` says when.

    Attributes:
        cron: five fields, or a shorthand such as "@daily".
        time_zone: the IANA name of the zone whose wall clock `cron` is about.
        every: from slot to slot.
        at: the only slot.
        anchor: where intervals are aligned to.
        starts_at: no slot is earlier.
        ends_at: no slot is later.
    """

    cron: str | None = None
    time_zone: str = "UTC"
    every: timedelta | None = None
    at: datetime | None = None
    anchor: datetime = datetime(1970, 1, 1, tzinfo=UTC)
    starts_at: datetime | None = None
    ends_at: datetime | None = None

    def check(self) -> None:
        """Refuse what is no timetable, or what no moment ever fulfils.

        Raises:
            InvalidArgumentError: with the name of the argument.
        """
        given = [name for name in ("cron", "every", "at") if getattr(self, name) is not None]
        if len(given) != 1:
            raise InvalidArgumentError(
                f"cannot tell when the schedule fires: {len(given)} of cron, every and at are"
                " given; give one of them",
                argument="cron",
            )
        for name in ("at", "starts_at", "ends_at"):
            _check_moment(name, getattr(self, name))
        if self.starts_at and self.ends_at and self.ends_at < self.starts_at:
            raise _refused("ends_at", "it is before starts_at", self.ends_at)
        if self.every is not None and not timedelta(seconds=1) <= self.every <= _LONGEST:
            raise _refused("every", "it must be a second or more", self.every)
        _check_zone(self.time_zone)
        if self.cron is not None:
            _check_cron(self.cron)
            if next(_walls(_expression(self.cron), _SOME_DAY), None) is None:
                raise _refused("cron", "no day of fifty years matches it", self.cron)

    def slots(self, after: datetime) -> Iterator[datetime]:
        """The slots after a moment, in order, in UTC. May never end."""
        if self.starts_at is not None and self.starts_at > after:
            after = self.starts_at - _MICROSECOND
        for slot in self._unbounded(after):
            if self.ends_at is not None and slot > self.ends_at:
                return
            yield slot

    def last(self, until: datetime, *, since: datetime) -> datetime | None:
        """The last slot of these moments, both included; None: there is none."""
        found, span = None, timedelta(hours=2)
        while found is None:
            begin = max(until - span, since)
            for slot in self.slots(begin - _MICROSECOND):
                if slot > until:
                    break
                found = slot
            if begin <= since:
                break
            span *= 24
        return found

    def _unbounded(self, after: datetime) -> Iterator[datetime]:
        if self.at is not None:
            if self.at > after:
                yield self.at.astimezone(UTC)
        elif self.every is not None:
            yield from _intervals(self.anchor, self.every, after)
        elif self.cron is not None:
            yield from _cron_slots(_expression(self.cron), ZoneInfo(self.time_zone), after)


def _intervals(anchor: datetime, every: timedelta, after: datetime) -> Iterator[datetime]:
    n = (after - anchor) // every + 1
    try:
        slot = anchor.astimezone(UTC) + n * every
        while True:
            yield slot
            slot += every
    except OverflowError:  # the year 10,000
        return


def _cron_slots(cron: str, zone: ZoneInfo, after: datetime) -> Iterator[datetime]:
    local = after.astimezone(zone)
    minute, hour, *_ = cron.split()
    if minute.startswith("*") or hour.startswith("*"):
        yield from _by_elapsed_time(cron, zone, after, local)
        return
    for wall in _walls(cron, local.replace(tzinfo=None)):
        first, second = _offsets(wall, zone)
        while first < second:  # in the gap: the first minute after it
            wall += _MINUTE  # noqa: PLW2901
            first, second = _offsets(wall, zone)
        slot = (wall - first).replace(tzinfo=UTC)
        if slot > after:
            yield slot
            after = slot


def _by_elapsed_time(
    cron: str, zone: ZoneInfo, after: datetime, local: datetime
) -> Iterator[datetime]:
    start = local.replace(tzinfo=None)
    first, second = _offsets(start, zone)
    again = list[datetime]()
    """The second moments of wall clock times that come twice, until the first ones are over."""
    for wall in _walls(cron, start - max(first - second, timedelta())):
        first, second = _offsets(wall, zone)
        if first < second:
            continue
        if first == second:
            yield from again
            again.clear()
        elif (slot := (wall - second).replace(tzinfo=UTC)) > after:
            again.append(slot)
        if (slot := (wall - first).replace(tzinfo=UTC)) > after:
            yield slot


def _offsets(wall: datetime, zone: ZoneInfo) -> tuple[timedelta, timedelta]:
    """The offset of a wall clock time the first time and the second time: equal but where it does
    not exist (the second is larger) or comes twice (the first is).
    """
    first = wall.replace(tzinfo=zone).utcoffset()
    second = wall.replace(tzinfo=zone, fold=1).utcoffset()
    assert first is not None
    assert second is not None
    return first, second


def _walls(cron: str, after: datetime) -> Iterator[datetime]:
    """The wall clock times after one that match; none where there are none for fifty years."""
    from cronsim import CronSim  # noqa: PLC0415 - only where there are schedules

    try:
        yield from CronSim(cron, after)
    except (OverflowError, ValueError):  # the year 10,000
        return


def explained(cron: str) -> str:
    """The expression in words."""
    from cronsim import CronSim  # noqa: PLC0415 - as above

    return CronSim(_expression(cron), _SOME_DAY).explain()


def _expression(cron: str) -> str:
    return _SHORTHANDS.get(cron, cron)


@dataclass(frozen=True, slots=True)
class Firing:
    """What a schedule does at a moment.

    Attributes:
        slots: those that fire now, in order.
        skipped: how many were missed and do not.
        next_slot: the slot after them; None: there is none.
    """

    slots: tuple[datetime, ...]
    skipped: int
    next_slot: datetime | None


def firing(
    schedule_id: str,
    timetable: Timetable,
    slot: datetime,
    now: datetime,
    *,
    jitter: timedelta = timedelta(),
    catch_up: timedelta,
    catch_up_all: bool = False,
) -> Firing:
    """What a schedule whose next slot is `slot` does at `now`.

    Of several slots that are due, those older than the window are skipped; of the others the last
    one fires, or with `catch_up_all` each, a hundred at a time. The next slot is always later than
    all of them, so a clock that is set back fires none of them again.

    Args:
        schedule_id: the schedule.
        timetable: the schedule's.
        slot: its next slot.
        now: the moment.
        jitter: see `due_at`.
        catch_up: how long a slot may have been due and still fire.
        catch_up_all: whether each of several missed slots fires.
    """
    fired, skipped = list[datetime](), 0
    later = timetable.slots(slot)
    current: datetime | None = slot
    while current is not None and (due := due_at(schedule_id, current, jitter)) <= now:
        if due < now - catch_up:
            skipped += 1
        elif catch_up_all or not fired:
            fired.append(current)
        else:
            skipped += 1
            fired[-1] = current
        current = next(later, None)
        if len(fired) == MOST_FIRED:
            break
        if skipped == _MOST_COUNTED and current is not None:  # pass the others in one step
            past = now - jitter
            oldest = max(current, now - catch_up - jitter)
            if catch_up_all:
                past = min(past, oldest - _MICROSECOND)
            elif (last := timetable.last(past, since=oldest)) is not None:
                fired = [last]
            current = next(timetable.slots(max(past, current - _MICROSECOND)), None)
            break
    return Firing(tuple(fired), skipped, current)


def due_at(schedule_id: str, slot: datetime, jitter: timedelta) -> datetime:
    """When a slot fires: at its time, or later by less than `jitter`; always the same moment."""
    if not jitter:
        return slot
    part = int.from_bytes(_digest(slot_thread_id(schedule_id, slot))[:4], "big") / 2**32
    return slot + jitter * part


def slot_run_id(schedule_id: str, slot: datetime) -> str:
    """The run_id of a slot: always the same, and in order of time among those that are made here.

    A UUID of version 6: the time, and in place of the machine a digest of the schedule_id.
    """
    ticks = (slot - _GREGORIAN) // _MICROSECOND * 10
    digest = int.from_bytes(_digest(schedule_id)[:8], "big")
    high, low = ticks >> 12, ticks & 0xFFF
    return str(UUID(int=high << 80 | 6 << 76 | low << 64 | 0b10 << 62 | digest >> 2))


def slot_thread_id(schedule_id: str, slot: datetime) -> str:
    """The thread of a slot, where each has one of its own."""
    return f"{schedule_id}/{slot.astimezone(UTC).isoformat().replace('+00:00', 'Z')}"


def _digest(text: str) -> bytes:
    return hashlib.sha256(text.encode()).digest()


def _check_cron(cron: str) -> None:
    from cronsim import CronSim, CronSimError  # noqa: PLC0415 - as above

    if not isinstance(cron, str) or len(cron) > _LONGEST_CRON:  # pyright: ignore[reportUnnecessaryIsInstance]
        raise _refused("cron", f"it must be a text of at most {_LONGEST_CRON} characters", cron)
    expression = _expression(cron)
    if len(expression.split()) != 5:
        raise _refused(
            "cron", "it must have five fields: minute, hour, day, month, day of the week", cron
        )
    try:
        CronSim(expression, _SOME_DAY)
    except (CronSimError, AssertionError, ValueError) as error:
        raise _refused(
            "cron", f"{error or 'no such expression'}; try '0 7 * * 1-5'", cron
        ) from error


@lru_cache(maxsize=1000)
def _check_zone(name: str) -> None:
    if not isinstance(name, str) or len(name) > _LONGEST_ZONE:  # pyright: ignore[reportUnnecessaryIsInstance]
        raise _refused("time_zone", "it must be the name of a time zone", name)
    try:
        ZoneInfo(name)
    except (ZoneInfoNotFoundError, ValueError, OSError) as error:
        raise _refused(
            "time_zone",
            "there is no zone of that name here; try 'Europe/Berlin', or install tzdata",
            name,
        ) from error


def _check_moment(name: str, moment: datetime | None) -> None:
    if moment is None:
        return
    if not isinstance(moment, datetime) or moment.utcoffset() is None:  # pyright: ignore[reportUnnecessaryIsInstance]
        raise _refused(
            name, "it must be a datetime with a time zone; try datetime.now(UTC)", moment
        )
    if moment.year not in _YEARS:
        raise _refused(name, "its year must be 1970 to 8999", moment)


def _refused(argument: str, why: str, given: object) -> InvalidArgumentError:
    return InvalidArgumentError(f"cannot use {argument}={given!r:.210}: {why}", argument=argument)
