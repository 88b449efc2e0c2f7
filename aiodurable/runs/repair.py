"""Before a resumption: make failed tasks run again that LangGraph would skip, and report them."""

from __future__ import annotations

import logging
import re

from aiodurable.checkpoints.repair import RepairedTask, heal
from aiodurable.events import ThreadRepaired, emit
from aiodurable.runs.lease import ThreadLease
from aiodurable.runs.services import Services
from aiodurable.threads.task_path import caller_of

__all__ = ["heal_thread"]

_log = logging.getLogger(__name__)
_TASK_ID = re.compile(r":[^|]*")


async def heal_thread(services: Services, lease: ThreadLease) -> bool:
    """Repair the thread's newest superstep; see `aiodurable.checkpoints.repair`.

    Returns:
        Whether plain LangGraph has stored an answer that the next interrupt of this step would
        take.

    Raises:
        LeaseLostError: the lease is gone; nothing was changed.
    """
    healed, loose = await heal(services.checkpoints.database, lease.session)
    if not healed:
        return loose
    nodes = tuple(map(_name, healed))
    _log.warning(
        "thread %r: LangGraph stored output of %s beside the error and would skip the rest "
        "(langgraph#8834); the output was removed, so that they run again",
        lease.thread_id,
        ", ".join(nodes),
    )
    emit(services.observers, ThreadRepaired(lease.thread_id, nodes=nodes))
    return loose


def _name(task: RepairedTask) -> str:
    """The node, with the nodes that contain its graph: `inner/deep/node`."""
    around = _TASK_ID.sub("", task.namespace).replace("|", "/")
    return "/".join(filter(None, (around, caller_of(task.path) or "a Send")))
