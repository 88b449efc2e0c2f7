"""The slots of a schedule: none lost and none twice, whatever the clocks do."""

from __future__ import annotations

import time
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from itertools import islice
from typing import Any
from zoneinfo import ZoneInfo

import pytest
from cronsim import CronSim
from hypothesis import given, settings
from hypothesis import strategies as st

from aiodurable.errors import InvalidArgumentError
from aiodurable.queue.slots import (
    MOST_FIRED,
    Timetable,
    due_at,
    explained,
    firing,
    slot_run_id,
    slot_thread_id,
)

MINUTE, HOUR, DAY = timedelta(minutes=1), timedelta(hours=1), timedelta(days=1)
TRANSITIONS = {
    "Europe/Berlin": (datetime(2026, 3, 29, tzinfo=UTC), datetime(2026, 10, 25, tzinfo=UTC)),
    "America/New_York": (datetime(2026, 3, 8, 6, tzinfo=UTC), datetime(2026, 11, 1, 5, tzinfo=UTC)),
    "Australia/Lord_Howe": (datetime(2026, 4, 4, tzinfo=UTC), datetime(2026, 10, 3, tzinfo=UTC)),
}
"""Half a day around them the clocks are changed, those of Lord Howe by half an hour."""
MINUTES = ("*", "*/7", "*/30", "0", "5,35", "10-20", "59")
HOURS = ("*", "*/2", "1-3", "2", "2,3", "0", "23")


def expressions() -> st.SearchStrategy[str]:
    return st.builds(
        lambda minute, hour: f"{minute} {hour} * * *",
        st.sampled_from(MINUTES),
        st.sampled_from(HOURS),
    )


@st.composite
def moments(draw: Any) -> tuple[str, datetime]:
    """A zone, and a moment near one of its transitions."""
    zone = draw(st.sampled_from(sorted(TRANSITIONS)))
    around = draw(st.sampled_from(TRANSITIONS[zone]))
    return zone, around + timedelta(seconds=draw(st.integers(-86_400, 86_400)))


def minute_by_minute(cron: str, zone: str, after: datetime, until: datetime) -> Iterator[datetime]:
    """The slots by the rules alone: each minute is compared with the expression."""
    info = ZoneInfo(zone)
    minute, hour, *_ = cron.split()
    matching = CronSim(cron, datetime(2026, 1, 1, tzinfo=UTC))
    starred = minute.startswith("*") or hour.startswith("*")

    def matches(wall: datetime) -> bool:
        return wall.minute in matching.minutes and wall.hour in matching.hours

    moment = after.replace(second=0, microsecond=0)
    while (moment := moment + MINUTE) <= until:
        local = moment.astimezone(info)
        wall = local.replace(tzinfo=None)
        before = (moment - MINUTE).astimezone(info).replace(tzinfo=None)
        gap = [before + n * MINUTE for n in range(1, (wall - before) // MINUTE)]
        if starred:
            if matches(wall):
                yield moment
        elif (matches(wall) and not local.fold) or any(map(matches, gap)):
            yield moment


@settings(deadline=None, max_examples=60)
@given(expressions(), moments())
def test_the_slots_of_a_cron_expression_are_those_of_its_rules(
    cron: str, zone_and_after: tuple[str, datetime]
) -> None:
    zone, after = zone_and_after
    until = after + 30 * HOUR
    found = []
    for slot in Timetable(cron=cron, time_zone=zone).slots(after):
        if slot > until:
            break
        found.append(slot)
    assert found == list(minute_by_minute(cron, zone, after, until))


@settings(deadline=None, max_examples=60)
@given(expressions(), moments(), st.integers(1, 30))
def test_slots_do_not_depend_on_where_one_begins_to_look(
    cron: str, zone_and_after: tuple[str, datetime], count: int
) -> None:
    zone, after = zone_and_after
    timetable = Timetable(cron=cron, time_zone=zone)
    in_one_go = list(islice(timetable.slots(after), count))
    one_by_one = []
    for _ in range(count):
        after = next(timetable.slots(after))
        one_by_one.append(after)
    assert one_by_one == in_one_go == sorted(set(in_one_go))


@pytest.mark.parametrize(
    ("cron", "zone", "after", "local"),
    [
        # 02:00 to 03:00 does not exist
        ("30 2 * * *", "Europe/Berlin", "2026-03-28T12:00Z", "2026-03-29T03:00:00+02:00"),
        ("30 2 * * *", "America/New_York", "2026-03-07T12:00Z", "2026-03-08T03:00:00-04:00"),
        ("15 2 * * *", "Australia/Lord_Howe", "2026-10-03T00:00Z", "2026-10-04T02:30:00+11:00"),
        ("*/20 2 * * *", "Europe/Berlin", "2026-03-28T12:00Z", "2026-03-30T02:00:00+02:00"),
        # 02:00 to 03:00 comes twice
        ("30 2 * * *", "Europe/Berlin", "2026-10-24T12:00Z", "2026-10-25T02:30:00+02:00"),
        ("30 2 * * *", "Europe/Berlin", "2026-10-25T00:30Z", "2026-10-26T02:30:00+01:00"),
        ("*/30 2 * * *", "Europe/Berlin", "2026-10-25T00:30Z", "2026-10-25T02:00:00+01:00"),
        ("30 1 * * *", "America/New_York", "2026-11-01T05:30Z", "2026-11-02T01:30:00-05:00"),
    ],
)
def test_the_nights_in_which_the_clocks_change(
    cron: str, zone: str, after: str, local: str
) -> None:
    [slot] = islice(Timetable(cron=cron, time_zone=zone).slots(datetime.fromisoformat(after)), 1)
    assert slot.astimezone(ZoneInfo(zone)).isoformat() == local


def test_intervals_are_aligned_to_their_anchor() -> None:
    start = datetime(2026, 1, 1, 0, 0, 7, tzinfo=UTC)
    timetable = Timetable(every=timedelta(seconds=90), anchor=start, starts_at=start)
    assert next(timetable.slots(start - DAY)) == start
    assert next(timetable.slots(start)) == start + timedelta(seconds=90)
    assert next(timetable.slots(start + 10 * DAY)) == start + 10 * DAY + timedelta(seconds=90)


def test_no_slot_is_outside_of_start_and_end() -> None:
    start = datetime(2026, 1, 1, tzinfo=UTC)
    timetable = Timetable(cron="@hourly", starts_at=start, ends_at=start + 3 * HOUR)
    assert list(timetable.slots(start - DAY)) == [start + n * HOUR for n in range(4)]
    once = Timetable(at=start)
    assert list(once.slots(start - DAY)) == [start]
    assert list(once.slots(start)) == []


TIMETABLES = st.one_of(
    st.builds(lambda cron: Timetable(cron=cron, time_zone="Europe/Berlin"), expressions()),
    st.builds(lambda s: Timetable(every=timedelta(seconds=s)), st.integers(1, 100_000)),
)
SECONDS = st.integers(0, 40_000)


@settings(deadline=None, max_examples=60)
@given(
    TIMETABLES,
    st.lists(st.tuples(st.integers(-7200, 40_000)), min_size=1, max_size=20),
    st.integers(0, 900),
    st.integers(10, 90_000),
    st.booleans(),
)
def test_a_scheduler_fires_each_slot_once_and_in_order_whatever_its_clock_does(
    timetable: Timetable, steps: list[tuple[int]], jitter: int, window: int, every_one: bool
) -> None:
    """The clock is moved forwards and back; each slot is fired or counted, once."""
    begin = now = datetime(2026, 10, 24, 20, tzinfo=UTC)
    slot: datetime | None = next(timetable.slots(begin))
    fired, skipped, latest = list[datetime](), 0, begin
    for (seconds,) in steps:
        now += timedelta(seconds=seconds)
        latest = max(latest, now)
        while slot is not None:
            done = firing(
                "s",
                timetable,
                slot,
                now,
                jitter=timedelta(seconds=jitter),
                catch_up=timedelta(seconds=window),
                catch_up_all=every_one,
            )
            fired += done.slots
            skipped += done.skipped
            assert done.next_slot is not None
            assert done.next_slot >= slot
            if done.next_slot == slot:
                break
            slot = done.next_slot
    assert fired == sorted(set(fired))
    assert slot is not None
    passed = list[datetime]()
    for one in timetable.slots(begin):
        if one >= slot:
            break
        passed.append(one)
    assert set(fired) <= set(passed)
    assert len(fired) + skipped <= len(passed)
    if len(passed) < 1000:
        assert len(fired) + skipped == len(passed)
    assert all(due_at("s", one, timedelta(seconds=jitter)) <= latest for one in fired)
    assert (
        slot > latest - timedelta(seconds=jitter)
        or due_at("s", slot, timedelta(seconds=jitter)) > now
    )


def test_of_missed_slots_the_last_one_fires_or_each_within_the_window() -> None:
    timetable = Timetable(cron="@hourly")
    slot = datetime(2026, 1, 1, 1, tzinfo=UTC)
    now = datetime(2026, 1, 1, 10, 30, tzinfo=UTC)
    last = firing("s", timetable, slot, now, catch_up=4 * HOUR)
    assert ([s.hour for s in last.slots], last.skipped) == ([10], 9)
    each = firing("s", timetable, slot, now, catch_up=4 * HOUR, catch_up_all=True)
    assert ([s.hour for s in each.slots], each.skipped) == ([7, 8, 9, 10], 6)
    assert last.next_slot == each.next_slot == datetime(2026, 1, 1, 11, tzinfo=UTC)
    none = firing("s", timetable, slot, now, catch_up=10 * MINUTE)
    assert (none.slots, none.skipped) == ((), 10)


@pytest.mark.parametrize("every_one", [False, True])
def test_ten_years_of_missed_minutes_are_passed_in_bounded_time(every_one: bool) -> None:
    timetable = Timetable(cron="* * * * *", time_zone="Europe/Berlin")
    now = datetime(2026, 1, 1, 0, 0, 30, tzinfo=UTC)
    slot: datetime | None = datetime(2016, 1, 1, tzinfo=UTC)
    begun = time.process_time()
    fired = list[datetime]()
    while slot is not None and slot <= now:
        done = firing("s", timetable, slot, now, catch_up=10 * HOUR, catch_up_all=every_one)
        assert len(done.slots) <= MOST_FIRED
        fired += done.slots
        slot = done.next_slot
    assert time.process_time() - begun < 2
    newest = now.replace(second=0)
    expected = [newest - n * MINUTE for n in range(600)] if every_one else [newest]
    assert fired == sorted(expected)


def test_a_slot_has_one_run_id_and_one_thread_and_one_delay() -> None:
    slot = datetime(2026, 3, 1, 7, tzinfo=UTC)
    there = slot.astimezone(ZoneInfo("America/New_York"))
    assert slot_run_id("s", slot) == slot_run_id("s", there)
    assert slot_run_id("s", slot) != slot_run_id("other", slot)
    assert slot_run_id("s", slot) < slot_run_id("other", slot + MINUTE)
    assert slot_thread_id("s", there) == "s/2026-03-01T07:00:00Z"
    delays = {due_at("s", slot + n * MINUTE, HOUR) - (slot + n * MINUTE) for n in range(50)}
    assert len(delays) == 50
    assert all(timedelta() <= delay < HOUR for delay in delays)
    assert due_at("s", slot, HOUR) == due_at("s", there, HOUR)


@pytest.mark.parametrize(
    ("wrong", "argument"),
    [
        ({}, "cron"),
        ({"cron": "@daily", "every": HOUR}, "cron"),
        ({"cron": "0 0 30 2 *"}, "cron"),
        ({"cron": "0 0 * 2 */7#5"}, "cron"),
        ({"cron": "* * * *"}, "cron"),
        ({"cron": "* * * * * *"}, "cron"),
        ({"cron": "61 * * * *"}, "cron"),
        ({"cron": "0," * 200 + "0 * * * *"}, "cron"),
        ({"cron": "@reboot"}, "cron"),
        ({"cron": "@daily", "time_zone": "Europe/Nowhere"}, "time_zone"),
        ({"cron": "@daily", "time_zone": "Europe"}, "time_zone"),
        ({"cron": "@daily", "time_zone": "../../etc/passwd"}, "time_zone"),
        ({"every": timedelta(milliseconds=999)}, "every"),
        ({"every": timedelta.max}, "every"),
        ({"at": datetime(2026, 1, 1, tzinfo=UTC).replace(tzinfo=None)}, "at"),
        ({"at": datetime.max.replace(tzinfo=UTC)}, "at"),
        (
            {
                "cron": "@daily",
                "starts_at": datetime(2026, 1, 2, tzinfo=UTC),
                "ends_at": datetime(2026, 1, 1, tzinfo=UTC),
            },
            "ends_at",
        ),
    ],
)
def test_what_never_fires_is_refused(wrong: dict[str, Any], argument: str) -> None:
    with pytest.raises(InvalidArgumentError) as refused:
        Timetable(**wrong).check()
    assert refused.value.argument == argument


@settings(deadline=None, max_examples=60)
@given(st.text(alphabet="0123456789*/,-#LW @SUNMOJAd", max_size=40) | st.text(max_size=20))
def test_any_text_is_a_cron_expression_or_refused_at_once(text: str) -> None:
    begun = time.process_time()
    try:
        Timetable(cron=text).check()
    except InvalidArgumentError:
        pass
    else:
        assert next(Timetable(cron=text).slots(datetime(2026, 1, 1, tzinfo=UTC)))
        assert explained(text)
    assert time.process_time() - begun < 1


def test_far_future_ends_quietly() -> None:
    late = datetime(9999, 12, 31, 23, 59, tzinfo=UTC)
    assert list(Timetable(every=HOUR).slots(late)) == []
    assert list(Timetable(cron="@daily").slots(late)) == []
