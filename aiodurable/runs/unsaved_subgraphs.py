"""Let subgraphs compiled with `checkpointer=False` run under `durability="sync"`.

After each step, LangGraph's loop awaits the save of the checkpoint in an attribute that is only set
when something is saved, so such a subgraph fails with AttributeError (langgraph 1.2.22,
`Pregel.astream` and `stream`). The run's config carries the mode into every subgraph, and any node
may call one, so only the loop's class covers them all.
"""

from __future__ import annotations

from collections.abc import Iterator

from langgraph.pregel._loop import AsyncPregelLoop, SyncPregelLoop

__all__ = ["let_unsaved_graphs_run"]

_ATTRIBUTE = "_put_checkpoint_fut"


class _NothingToSave:
    """A finished save, for the async loop that awaits it and the sync loop that asks for its
    result.
    """

    def __await__(self) -> Iterator[None]:
        return iter(())

    def result(self) -> None:
        return None


def let_unsaved_graphs_run() -> None:
    """Give LangGraph's loops a default to await when nothing is saved; a loop that saves sets its
    own.
    """
    for loop in (AsyncPregelLoop, SyncPregelLoop):
        if not hasattr(loop, _ATTRIBUTE):
            setattr(loop, _ATTRIBUTE, _NothingToSave())
