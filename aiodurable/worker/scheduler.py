"""Fires the schedules: each slot once, whichever workers look, and however many.

There is no leader. Each worker looks for what is due; the rows of what it fires are locked, another
worker passes them over, and the run is accepted in the transaction that moves the schedule to its
next slot. So a worker that is frozen or killed meanwhile delays nobody.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from itertools import takewhile
from typing import Any, Final, NoReturn

from aiodurable.errors import AiodurableError, InvalidArgumentError
from aiodurable.models import RunStatus
from aiodurable.postgres.errors import DRIVER_FAILURES
from aiodurable.postgres.fetch import Fetch
from aiodurable.postgres.own_thread import in_own_thread
from aiodurable.queue.acceptance import Acceptance
from aiodurable.queue.new_run import Row
from aiodurable.queue.schedule_records import SQL, slot_row, timetable_of
from aiodurable.queue.slots import Firing, due_at, firing
from aiodurable.runs.services import Services

__all__ = ["Scheduler"]

_log = logging.getLogger(__name__)

_MOST: Final = 100
"""Schedules that one statement locks."""


class Scheduler:
    """Accepts the runs of what is due.

    Args:
        services: the open services.
        namespace: that of the locks.
        now: the time to go by; None: that of Postgres. For tests.

    Attributes:
        due: set it where a slot is due.
    """

    def __init__(self, services: Services, namespace: str, *, now: datetime | None = None) -> None:
        self._services = services
        self._namespace = namespace
        self._acceptance = Acceptance(services, namespace)
        self.now = now
        self.due = asyncio.Event()

    async def run_forever(self) -> NoReturn:
        """Fire whenever something is due, until cancelled."""
        while True:
            await self.due.wait()
            self.due.clear()
            try:
                while await self.fire():
                    pass
            except (AiodurableError, *DRIVER_FAILURES) as error:
                _log.warning("schedules are looked at again later: %s", type(error).__name__)

    async def next_due_s(self) -> float | None:
        """Seconds until something is due; None: there is no slot to come."""
        rows = await self._services.checkpoints.direct.fetch(SQL["next_due"], self.now)
        return rows[0]["in_s"] if rows else None

    async def fire(self) -> int:
        """Fire what is due and no other worker fires at this moment; how many schedules that were.
        At most two hundred. One whose thread another transaction has locked stays due, and hides
        none behind it.
        """
        async with self._services.checkpoints.database.transaction() as fetch:
            due = await self._due(fetch)
            if not due:
                return 0
            # not in the loop's executor, which nodes fill: the server ends a transaction that rests
            steps = await in_own_thread(
                lambda: [_step(row) for row in due], name="aiodurable slots"
            )
            rows = [
                slot_row(row, slot, self._namespace)
                for row, step in zip(due, steps, strict=True)
                for slot in step.firing.slots
            ]
            written = await self._acceptance.written(fetch, rows) if rows else {}
            moved = [
                _moved(row, step, rows, written.keys())
                for row, step in zip(due, steps, strict=True)
            ]
            advanced = await fetch(SQL["advance"], *map(list, zip(*moved, strict=True)))
        for row, step in zip(due, steps, strict=True):
            if step.note is not None:
                _log.warning("schedule %r is paused: %s", row["schedule_id"], step.note)
        return len(advanced)

    async def _due(self, fetch: Fetch) -> list[Mapping[str, Any]]:
        """What is due, and waits for no other transaction; it is locked."""
        found, seen = list[Mapping[str, Any]](), list[str]()
        while True:
            due = await fetch(SQL["due"], self.now, _MOST, seen)
            locked = await self._acceptance.locked(
                fetch, ((row["thread_id"], row["on_busy"]) for row in due)
            )
            found += (row for row in due if row["thread_id"] not in locked)
            if not locked or len(due) < _MOST or len(found) >= _MOST:
                return found
            seen += (row["schedule_id"] for row in due)


@dataclass(frozen=True, slots=True)
class _Step:
    """What becomes of a schedule that is due.

    Attributes:
        firing: its slots.
        failures: how many of its runs in a row have failed.
        note: why it pauses; None: it does not.
    """

    firing: Firing
    failures: int
    note: str | None


def _step(row: Mapping[str, Any]) -> _Step:
    slot = row["next_slot_at"]
    outcomes = row["outcomes"] or ()
    failures = sum(1 for _ in takewhile(lambda status: status != RunStatus.COMPLETE, outcomes))
    if row["pause_on_failure"] is not None and failures >= row["pause_on_failure"]:
        runs = "its last run has" if failures == 1 else f"its last {failures} runs have"
        return _Step(Firing((), 0, slot), failures, f"{runs} failed")
    timetable = timetable_of(row)
    try:
        timetable.check()
        found = firing(
            row["schedule_id"],
            timetable,
            slot,
            row["now"],
            jitter=timedelta(seconds=row["jitter_s"]),
            catch_up=timedelta(seconds=row["catch_up_s"]),
            catch_up_all=row["catch_up_all"],
        )
    except Exception as error:  # of one schedule, such as no such time zone here: the others fire
        why = str(error) if isinstance(error, InvalidArgumentError) else type(error).__name__
        return _Step(Firing((), 0, slot), failures, f"its next slot cannot be computed: {why}")
    return _Step(found, failures, None)


def _moved(
    row: Mapping[str, Any], step: _Step, rows: Sequence[Row], written: Any
) -> tuple[Any, ...]:
    """The parameters of `advance` for one schedule. A slot whose run was there already, or whose
    thread was busy, counts as skipped.
    """
    schedule_id, found = row["schedule_id"], step.firing
    fired = sum(new.schedule_id == schedule_id and new.run_id in written for new in rows)
    due = (
        None
        if found.next_slot is None
        else due_at(schedule_id, found.next_slot, timedelta(seconds=row["jitter_s"]))
    )
    return (
        schedule_id,
        row["next_slot_at"],
        found.next_slot,
        due,
        found.slots[-1] if found.slots else None,
        fired,
        found.skipped + len(found.slots) - fired,
        step.failures,
        step.note is not None,
        step.note,
    )
