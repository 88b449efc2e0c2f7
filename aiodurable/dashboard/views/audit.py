"""What people did."""

from __future__ import annotations

from aiodurable.dashboard.context import Context, Page
from aiodurable.errors import InvalidArgumentError

__all__ = ["show"]

_LIMIT = 100


async def show(context: Context) -> Page:
    """Answer `/audit?thread=…&before=…`."""
    before = context.query("before")
    if before is not None and not (before.isascii() and before.isdigit() and len(before) < 19):
        raise InvalidArgumentError(
            "cannot show this page of the audit: before= is no number", argument="before"
        )
    thread_id = context.request.query_params.get("thread") or None
    found = await context.durable.insights.audit(
        limit=_LIMIT, before=None if before is None else int(before), thread_id=thread_id
    )
    return Page("audit.html", {"found": found, "before": before, "thread_id": thread_id})
