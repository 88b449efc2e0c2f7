"""The overview: what there is, and what needs a person."""

from __future__ import annotations

from aiodurable.dashboard.context import Context, Page
from aiodurable.models import NEEDS_ATTENTION, ThreadStatus

__all__ = ["show"]


async def show(context: Context) -> Page:
    """Answer `/`."""
    counts = await context.durable.threads.estimate_counts()
    return Page(
        "overview.html",
        {
            "counts": counts,
            "statuses": [status for status in ThreadStatus if status is not ThreadStatus.NEW],
            "attention": NEEDS_ATTENTION,
            "queues": await context.durable.queues.list(),
        },
    )
