"""Before a thread is resumed: what LangGraph would skip although it failed is made to run again, and is told."""

from __future__ import annotations

import logging
import re

from aiodurable.checkpoints.repair import RepairedTask, heal
from aiodurable.events import ThreadHealed, emit
from aiodurable.runs.lease import ThreadLease
from aiodurable.runs.services import Services
from aiodurable.threads.task_path import caller_of

__all__ = ["heal_thread"]

_log = logging.getLogger(__name__)
_TASK_ID = re.compile(r":[^|]*")


async def heal_thread(services: Services, lease: ThreadLease) -> bool:
    """Heal the thread's newest step; see `aiodurable.checkpoints.repair`.

    Returns:
        Whether plain LangGraph keeps an answer for whichever question of this step comes next.

    Raises:
        LeaseLostError: the lease is gone; nothing was changed.
    """
    healed, loose = await heal(services.checkpoints.database, lease.fence)
    if not healed:
        return loose
    nodes = tuple(map(_name, healed))
    _log.warning(
        "thread %r: LangGraph had stored output of %s beside the error, and would have skipped the rest "
        "(langgraph#8834); it was removed, so that they run again",
        lease.thread_id,
        ", ".join(nodes),
    )
    emit(services.observers, ThreadHealed(lease.thread_id, nodes=nodes))
    return loose


def _name(task: RepairedTask) -> str:
    """The node, after those of the graphs around it: `inner/deep/node`."""
    around = _TASK_ID.sub("", task.namespace).replace("|", "/")
    return "/".join(filter(None, (around, caller_of(task.path) or "a Send")))
