"""The health of the database: sizes, dead rows, and what a prune would remove."""

from __future__ import annotations

from aiodurable.dashboard.actions.links import links
from aiodurable.dashboard.context import Context, Page

__all__ = ["show"]


async def show(context: Context) -> Page:
    """Answer `/database`."""
    health = await context.durable.insights.database()
    return Page(
        "database.html",
        {
            "health": health,
            "links": await links(context, "prune"),
        },
    )
