"""What had become of a run whose process died before its row could say so."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import Any, Final

from langgraph.constants import TAG_HIDDEN
from langgraph.pregel import Pregel
from langgraph.types import All, StateSnapshot

from aiodurable.models import PauseReason, RunStatus, ThreadStatus, WorkflowCheckpoint
from aiodurable.runs.graphs import BoundGraph
from aiodurable.runs.outcome import Outcome

__all__ = ["outcome_of_left"]

_IN_THE_MIDDLE: Final = (ThreadStatus.CRASHED, ThreadStatus.FAILED)


async def outcome_of_left(
    thread: WorkflowCheckpoint, graph: BoundGraph, *, base_checkpoint_id: str | None, died: bool
) -> Outcome | None:
    """How a run had ended that its process left as `running`.

    Args:
        thread: the thread, as it was found under the lease.
        graph: that of the run.
        base_checkpoint_id: the thread's newest checkpoint when the attempt began.
        died: whether its processes have died too often for another attempt.

    Returns:
        The outcome; None: it is complete, or a worker goes on with it.
    """
    if thread.status is ThreadStatus.INTERRUPTED:
        return Outcome(RunStatus.INTERRUPTED)
    if thread.status not in _IN_THE_MIDDLE:
        return None
    # An attempt that wrote no checkpoint has passed the gate at which it began, if there is one.
    if thread.checkpoint_id not in (None, base_checkpoint_id) and await _at_gate(thread, graph):
        return Outcome(RunStatus.PAUSED, PauseReason.BREAKPOINT)
    return Outcome(RunStatus.QUARANTINED, "crashed") if died else None


async def _at_gate(thread: WorkflowCheckpoint, graph: BoundGraph) -> bool:
    """Whether the graph stopped at the thread's newest checkpoint: before a node that comes next,
    or after one of the step that wrote it.
    """
    pregel = graph.pregel
    before, after = pregel.interrupt_before_nodes, pregel.interrupt_after_nodes
    if not (before or after):
        return False
    head = await pregel.aget_state({"configurable": {"thread_id": thread.thread_id}})
    if _gated(pregel, head, before):
        return True
    metadata: Mapping[str, Any] = head.metadata or {}
    if not after or metadata.get("source") != "loop" or head.parent_config is None:
        return False
    return _gated(pregel, await pregel.aget_state(head.parent_config), after)


def _gated(
    pregel: Pregel[Any, Any, Any, Any], state: StateSnapshot, nodes: All | Collection[str]
) -> bool:
    """Whether a task of this step has a gate, as LangGraph's own loop decides."""
    if nodes == "*":
        return any(
            TAG_HIDDEN not in (pregel.nodes[task.name].tags or ())
            for task in state.tasks
            if task.name in pregel.nodes
        )
    return any(task.name in nodes for task in state.tasks)
