"""Links to the actions that a person may do; without any where the dashboard is read-only."""

from __future__ import annotations

from aiodurable.dashboard.actions.all_acts import ACTS
from aiodurable.dashboard.context import Context
from aiodurable.models import RunRecord, RunStatus, ThreadStatus, WorkflowCheckpoint

__all__ = ["Link", "links", "run_links", "thread_links"]

Link = tuple[str, str, bool]
"""Label, address, and whether it removes something."""

_CANCELLABLE = (RunStatus.QUEUED, RunStatus.RUNNING, RunStatus.FAILED, RunStatus.PAUSED)
_RETRIED = (RunStatus.FAILED, RunStatus.QUARANTINED, RunStatus.PAUSED)


async def links(context: Context, *names: str, **query: str | None) -> list[Link]:
    """Links to these actions with these parameters, of which `id` is a thread."""
    found: list[Link] = []
    for name in names:
        act = ACTS[name]
        if await context.allowed(act.right, query.get("id") if act.of_thread else None):
            link = context.url(f"/act/{name}", **query)
            found.append((act.label, link, act.right == "delete"))
    return found


async def thread_links(context: Context, thread: WorkflowCheckpoint) -> list[Link]:
    """What can be done to a thread as it stands."""
    names = {
        ThreadStatus.RUNNING: ("cancel", "fork"),
        ThreadStatus.QUEUED: ("cancel", "delete"),
        ThreadStatus.CRASHED: ("resume", "retry", "fork", "delete"),
        ThreadStatus.FAILED: ("resume", "retry", "cancel", "fork", "delete"),
        ThreadStatus.PAUSED: ("resume", "retry", "cancel", "fork", "delete"),
        ThreadStatus.QUARANTINED: ("retry", "fork", "delete"),
    }.get(thread.status, ("fork", "delete"))
    return await links(context, *names, id=thread.thread_id)


async def run_links(context: Context, run: RunRecord) -> list[Link]:
    """What can be done to a run as it stands."""
    names: list[str] = []
    if run.status in _RETRIED or run.reason == "cancelled":
        names.append("retry_run")
    if run.status in _CANCELLABLE:
        names.append("cancel_run")
    return await links(context, *names, id=run.thread_id, run=run.run_id)
