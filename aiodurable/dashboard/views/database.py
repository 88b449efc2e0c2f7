"""The health of the database: sizes, dead rows, and what a prune would remove."""

from __future__ import annotations

from aiodurable.dashboard.actions.links import links
from aiodurable.dashboard.context import Context, Page

__all__ = ["bytes_text", "show"]

_UNITS = ("B", "kB", "MB", "GB", "TB")


async def show(context: Context) -> Page:
    """Answer `/database`."""
    health = await context.durable.insights.database()
    return Page(
        "database.html",
        {
            "health": health,
            "bytes_text": bytes_text,
            "links": await links(context, "prune"),
        },
    )


def bytes_text(count: int) -> str:
    """A size with its unit: `12.3 MB`."""
    size = float(count)
    for unit in _UNITS[:-1]:
        if size < 1024:
            return f"{size:.0f} {unit}" if unit == "B" else f"{size:.1f} {unit}"
        size /= 1024
    return f"{size:.1f} {_UNITS[-1]}"
