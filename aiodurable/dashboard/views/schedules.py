"""The schedules: in words, with their next and last times."""

from __future__ import annotations

from datetime import UTC, datetime

from cronsim import CronSim

from aiodurable.dashboard.actions.links import links
from aiodurable.dashboard.context import Context, Page
from aiodurable.dashboard.render import duration
from aiodurable.queue import Schedule

__all__ = ["in_words", "show"]

_LIMIT = 50


async def show(context: Context) -> Page:
    """Answer `/schedules?after=…`."""
    after = context.exact("after")
    found = await context.durable.insights.schedules(limit=_LIMIT + 1, after=after)
    rows = [
        (
            one,
            in_words(one.schedule),
            await links(
                context,
                "resume_schedule" if one.schedule.paused else "pause_schedule",
                "trigger_schedule",
                "backfill_schedule",
                schedule=one.schedule.schedule_id,
            ),
        )
        for one in found[:_LIMIT]
    ]
    more = found[_LIMIT - 1].schedule.schedule_id if len(found) > _LIMIT else None
    return Page("schedules.html", {"rows": rows, "after": after, "more": more})


def in_words(schedule: Schedule) -> str:
    """When it fires: `At 08:00 on Monday, in Europe/Berlin`."""
    if schedule.cron is not None:
        try:
            words = CronSim(schedule.cron, datetime.now(UTC)).explain()
        except Exception:  # an expression that has no words: it is shown beside them
            words = f"By {schedule.cron}"
        return f"{words}, in {schedule.time_zone}"
    if schedule.every is not None:
        return f"Every {duration(schedule.every)}"
    return "Once"
