"""The queues: what waits, for how long and for which keys; pause, resume and scale."""

from __future__ import annotations

from aiodurable.dashboard.actions.links import links
from aiodurable.dashboard.context import Context, Page

__all__ = ["show"]


async def show(context: Context) -> Page:
    """Answer `/queues`."""
    return Page(
        "queues.html",
        {
            "rows": [
                (
                    queue,
                    await links(
                        context,
                        "resume_queue" if queue.paused else "pause_queue",
                        "scale_queue",
                        queue=queue.name,
                    ),
                )
                for queue in await context.durable.insights.queues()
            ]
        },
    )
