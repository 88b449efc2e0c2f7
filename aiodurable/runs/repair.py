"""Repairs a thread before a resumption: failed tasks that LangGraph would skip run again."""

from __future__ import annotations

import logging
import re

from aiodurable.checkpoints.repair import RepairedTask, repair_tasks
from aiodurable.events import ThreadRepaired, emit
from aiodurable.runs.lease import ThreadLease
from aiodurable.runs.services import Services
from aiodurable.threads.task_path import caller_of

__all__ = ["repair_thread"]

_log = logging.getLogger(__name__)
_TASK_ID = re.compile(r":[^|]*")


async def repair_thread(services: Services, lease: ThreadLease) -> bool:
    """Repair the thread's newest superstep; see `aiodurable.checkpoints.repair`.

    Returns:
        Whether plain LangGraph stored an answer without an id, which the step's next interrupt
        would use.

    Raises:
        LeaseLostError: the lease is gone; nothing was changed.
        LockTimeoutError: another transaction kept a row locked; nothing was changed.
    """
    repaired, has_stray_answer = await repair_tasks(services.checkpoints.database, lease.session)
    if not repaired:
        return has_stray_answer
    nodes = tuple(map(_name, repaired))
    _log.warning(
        "thread %r: LangGraph stored output of %s beside their error and would skip them"
        " (langgraph#8834); the output was removed, so that they run again",
        lease.thread_id,
        ", ".join(nodes),
    )
    emit(services.observers, ThreadRepaired(lease.thread_id, nodes=nodes))
    return has_stray_answer


def _name(task: RepairedTask) -> str:
    """The node, with the nodes that contain its graph: `inner/deep/node`."""
    around = _TASK_ID.sub("", task.namespace).replace("|", "/")
    return "/".join(filter(None, (around, caller_of(task.path) or "a Send")))
