"""The page of a thread: where it stands and why, its graph, its timeline, its attempts."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from aiodurable.dashboard.actions.links import links, thread_links
from aiodurable.dashboard.context import Context, Page
from aiodurable.dashboard.subgraph_progress import Inside
from aiodurable.dashboard.thread_graph import Drawing, Progress, drawing_of, progress_of
from aiodurable.dashboard.timeline import attempts_of, rows_of
from aiodurable.errors import RunNotFoundError
from aiodurable.jsonable import json_text
from aiodurable.models import RunRecord, ThreadStatus, WorkflowCheckpoint

__all__ = ["show"]

_STEPS = 60


async def show(context: Context) -> Page:
    """Answer `/thread?id=…&before=…&open=…`.

    Parameters: `before`, a checkpoint id, for older steps; `open`, the subgraphs to open, with
    commas; `graph`, a registered graph for a thread whose graph is not recorded.
    """
    durable, thread_id = context.durable, context.request.query_params.get("id", "")
    why = await durable.threads.why(thread_id)
    if why.status.status is ThreadStatus.NEW:
        await durable.threads.get(thread_id)  # raises that there is no such thread
    thread = why.status
    before = context.query("before")
    steps = [step async for step in durable.threads.history(thread_id, before=before, limit=_STEPS)]
    run = await _run_of(context, thread)
    attempts = [] if run is None else attempts_of(run)
    opened = [name for name in (context.query("open") or "").split(",") if name]
    progress = progress_of(thread, steps, await _inside(context, thread, opened))
    drawing, missing = _drawn(context, thread, progress, opened)
    values: dict[str, Any] = {
        "section": "/threads",
        "thread": thread,
        "why": why,
        "run": run,
        "attempts": attempts,
        "rows": rows_of(steps, attempts),
        "before": before,
        "older": steps[-1].checkpoint_id if len(steps) == _STEPS else None,
        "drawing": drawing,
        "graph_data": None if drawing is None else json_text(_linked(context, drawing, opened)),
        "missing": missing,
        "outline": _outline(progress),
        "actions": await thread_links(context, thread),
        "may_fork": bool(await links(context, "fork", id=thread_id)),
        "may_see_state": await context.allowed("view_state", thread_id),
        "next_nodes": [] if thread.status is ThreadStatus.COMPLETE else thread.pending,
    }
    return Page("thread.html", values)


async def _run_of(context: Context, thread: WorkflowCheckpoint) -> RunRecord | None:
    if thread.run_id is None:
        return None
    try:
        return await context.durable.runs.get(thread.run_id)
    except RunNotFoundError:  # pruned or deleted since
        return None


async def _inside(context: Context, thread: WorkflowCheckpoint, opened: Sequence[str]) -> Inside:
    """How far the subgraphs under way are; read only where one is opened."""
    if not opened or thread.status is ThreadStatus.COMPLETE:
        return Inside()
    return await context.subgraphs.of(thread.thread_id, context.durable.checkpointer.rows)


def _drawn(
    context: Context, thread: WorkflowCheckpoint, progress: Progress, opened: Sequence[str]
) -> tuple[Drawing | None, str | None]:
    """The drawing, or why there is none."""
    graphs = context.durable.graphs
    name = context.query("graph") or thread.graph
    if name is None:
        return None, "No graph is recorded for this thread."
    if name not in graphs:
        known = ", ".join(sorted(graphs)) or "none"
        return None, (
            f"Graph {name!r} is not registered with this dashboard, so it cannot be drawn;"
            f" registered: {known}."
        )
    try:
        return drawing_of(graphs[name], progress, opened), None
    except Exception as error:  # it may call code of the application
        return None, f"Graph {name!r} cannot be drawn: {type(error).__name__}."


def _linked(context: Context, drawing: Drawing, opened: Sequence[str]) -> dict[str, Any]:
    """The drawing with the links that open and close its subgraphs."""

    def link(names: list[str]) -> str:
        return context.here(open=",".join(names) or None)

    nodes = [
        {**node, "link": link([*opened, str(node["id"])])} if node["kind"] == "subgraph" else node
        for node in drawing.nodes
    ]
    groups = [
        {**group, "link": link([name for name in opened if not _within(name, str(group["id"]))])}
        for group in drawing.groups
    ]
    return {**drawing.data, "nodes": nodes, "groups": groups}


def _within(name: str, group: str) -> bool:
    return name == group or name.startswith(f"{group}:")


def _outline(progress: Progress) -> list[tuple[str, str, int]]:
    """The nodes that ran or are next, in words: for readers who do not see the drawing."""
    return [(node, state, progress.counts.get(node, 0)) for node, state in progress.states.items()]
