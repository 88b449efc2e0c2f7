"""What failed too often and waits for a person."""

from __future__ import annotations

from aiodurable.dashboard.actions.links import links, run_links
from aiodurable.dashboard.context import Context, Page
from aiodurable.models import RunStatus

__all__ = ["show"]

_LIMIT = 50


async def show(context: Context) -> Page:
    """Answer `/quarantine?after=…`."""
    after = context.exact("after")
    found = await context.durable.runs.newest(
        after=after, limit=_LIMIT, status=RunStatus.QUARANTINED
    )
    return Page(
        "quarantine.html",
        {
            "found": found,
            "after": after,
            "rows": [(run, await run_links(context, run)) for run in found.runs],
            "bulk": await links(context, "retry_many", "delete_many", q="status:quarantined"),
        },
    )
