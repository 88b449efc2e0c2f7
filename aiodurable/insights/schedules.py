"""Schedules with what comes next and what came last."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping
from datetime import datetime, timedelta
from itertools import islice
from typing import Any, Final

from aiodurable.insights.models import ScheduleInsight, ScheduleRun
from aiodurable.models import RunStatus
from aiodurable.postgres.pool import PsycopgPool
from aiodurable.postgres.sql import load
from aiodurable.queue.schedule_records import schedule_of, timetable_of

__all__ = ["schedules"]

_SQL = load("insights")
_TIMES: Final = 5
_MICROSECOND: Final = timedelta(microseconds=1)


async def schedules(database: PsycopgPool, *, limit: int, after: str) -> list[ScheduleInsight]:
    """See `Insights.schedules`."""
    rows = await database.fetch(_SQL["schedules"], after, limit)
    ids = [row["schedule_id"] for row in rows]
    last: defaultdict[str, list[ScheduleRun]] = defaultdict(list)
    for run in await database.fetch(_SQL["last_slots"], ids, _TIMES):
        last[run.pop("schedule_id")].append(ScheduleRun(status=RunStatus(run.pop("status")), **run))
    return [
        ScheduleInsight(schedule_of(row), _next_times(row), tuple(last[row["schedule_id"]]))
        for row in rows
    ]


def _next_times(row: Mapping[str, Any]) -> tuple[datetime, ...]:
    """Its next slot is the one that its row has, although that is due already: no worker fired it
    yet.
    """
    if row["paused_at"] is not None or row["next_slot_at"] is None:
        return ()
    return tuple(islice(timetable_of(row).slots(row["next_slot_at"] - _MICROSECOND), _TIMES))
