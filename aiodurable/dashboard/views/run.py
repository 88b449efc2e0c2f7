"""The page of a run: how it stands, what it was accepted with, its attempts."""

from __future__ import annotations

from aiodurable.dashboard.actions.links import run_links
from aiodurable.dashboard.context import Context, Page
from aiodurable.dashboard.timeline import attempts_of

__all__ = ["show"]


async def show(context: Context) -> Page:
    """Answer `/run?id=…`. Its metadata is what the caller says of it for lists; input, context and
    config are not read.
    """
    run = await context.durable.runs.get(context.request.query_params.get("id", ""))
    await context.require("view", run.thread_id)
    return Page(
        "run.html",
        {
            "section": "/runs",
            "run": run,
            "graph_changed": run.reason == "graph changed"
            or (run.error or "").startswith("GraphChangedError("),
            "attempts": attempts_of(run),
            "links": await run_links(context, run),
            "waited_s": None
            if run.started_at is None
            else (run.started_at - max(run.created_at, run.scheduled_at or run.created_at)),
            "metadata": sorted((run.metadata or {}).items()),
        },
    )
