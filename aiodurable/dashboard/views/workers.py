"""The workers, and the connections on which leases live."""

from __future__ import annotations

from aiodurable.dashboard.context import Context, Page

__all__ = ["show"]

_SLOW_LOOP_S = 0.1


async def show(context: Context) -> Page:
    """Answer `/workers`."""
    insights = context.durable.insights
    return Page(
        "workers.html",
        {
            "workers": await insights.workers(),
            "sessions": await insights.lock_sessions(),
            "slow_loop_s": _SLOW_LOOP_S,
        },
    )
