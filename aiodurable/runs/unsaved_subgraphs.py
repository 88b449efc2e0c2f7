"""Subgraphs compiled with `checkpointer=False`, which LangGraph cannot run under `durability="sync"`.

After each step its loop waits for the save of the step's checkpoint, in an attribute that is only set
where something is saved: such a subgraph ends in AttributeError (langgraph 1.2.22, `Pregel.astream`
and `stream`). The mode reaches it through the config of the run, and it may be called by any node, so
the only place that covers all of them is the loop's class.
"""

from __future__ import annotations

from collections.abc import Iterator

from langgraph.pregel._loop import AsyncPregelLoop, SyncPregelLoop

__all__ = ["let_unsaved_graphs_run"]

_ATTRIBUTE = "_put_checkpoint_fut"


class _NothingToSave:
    """The save of a checkpoint that nobody saves: done, for the loop that awaits it and for the sync one."""

    def __await__(self) -> Iterator[None]:
        return iter(())

    def result(self) -> None:
        return None


def let_unsaved_graphs_run() -> None:
    """Give LangGraph's loops what they wait for where nothing is saved; a loop that saves sets its own."""
    for loop in (AsyncPregelLoop, SyncPregelLoop):
        if not hasattr(loop, _ATTRIBUTE):
            setattr(loop, _ATTRIBUTE, _NothingToSave())
