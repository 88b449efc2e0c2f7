"""`advance`: let time pass for what waits, without waiting."""

from __future__ import annotations

from datetime import datetime, timedelta
from typing import Final
from weakref import WeakKeyDictionary

from aiodurable.durable import Durable
from aiodurable.errors import InvalidArgumentError
from aiodurable.postgres.sql import load
from aiodurable.queue.records import SQL
from aiodurable.queue.schedule_records import SQL as SCHEDULES
from aiodurable.runs.services import Services
from aiodurable.testing.services import services_of
from aiodurable.testing.sleepers import let_sleepers_pass
from aiodurable.worker.scheduler import Scheduler

__all__ = ["advance"]

_SQL: Final = load("testing")
_MOMENT: Final = timedelta(milliseconds=1)
_MOST: Final = 10_000
"""How often schedules fire in one call."""
_AHEAD: Final = WeakKeyDictionary[Durable, timedelta]()
"""How much time has passed for the schedules."""


async def advance(durable: Durable, by: float | timedelta) -> int:
    """Let time pass for all runs that wait or sleep: their times become earlier by so many seconds;
    schedules fire the slots of that time, each once.

    What is due then may be executed by `drain_queue`; workers are notified. The clocks of Python
    and Postgres stay as they are, and so do runs at work.

    Args:
        durable: on the database of the test; other tests' runs in it are moved, too. Of schedules
            it remembers how far it has got.
        by: seconds, or a timedelta; greater than 0.

    Returns:
        How many runs wait for a time that was moved.

    Raises:
        InvalidArgumentError: `by` is 0 or less, or too long. So it is where schedules would fire
            more than 10,000 times: then the times of runs were moved, and of the schedules the time
            until the last of these.
        ClosedError: the `Durable` is not open.
    """
    seconds = by.total_seconds() if isinstance(by, timedelta) else by
    if not 0 < seconds <= 1e10:
        raise InvalidArgumentError(
            f"cannot let {by!r} seconds pass: it must be greater than 0, and at most 1e10",
            argument="by",
        )
    services = services_of(durable)
    direct = services.checkpoints.direct
    moved = await direct.fetch(_SQL["advance"], float(seconds))
    for thread_id in sorted({row["thread_id"] for row in moved if row["sleeps"]}):
        await let_sleepers_pass(services, thread_id, timedelta(seconds=seconds))
    before = _AHEAD.get(durable, timedelta())
    (clock,) = await direct.fetch(SCHEDULES["clock"], None)
    begin: datetime = clock["now"] + before
    end = begin + timedelta(seconds=seconds)
    reached = await _fire(services, durable.settings.namespace, begin, end)
    _AHEAD[durable] = before + (reached - begin)
    if reached < end:
        raise InvalidArgumentError(
            f"cannot let {by!r} seconds pass for the schedules: they fired {_MOST:,} times in the"
            f" first {reached - begin}; advance by less, or pause those that fire often",
            argument="by",
        )
    if queues := sorted({row["queue"] for row in moved if row["queue"] is not None}):
        await direct.fetch(SQL["wake"], queues)
    return sum(row["scheduled"] for row in moved)


async def _fire(services: Services, namespace: str, begin: datetime, end: datetime) -> datetime:
    """Fire the slots of this time one after the other, as workers would have done, up to `_MOST`.

    Returns:
        How far that is: `end`, if there were no more of them.
    """
    scheduler = Scheduler(services, namespace, now=begin)
    now = begin
    for _ in range(_MOST):
        due_s = await scheduler.next_due_s()
        if due_s is None:
            return end
        at = now + timedelta(seconds=max(0.0, due_s)) + _MOMENT
        if at > end + _MOMENT:
            return end
        now = scheduler.now = at
        if not await scheduler.fire():
            return end
    return min(now, end)
