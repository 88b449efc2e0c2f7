"""How far the nodes inside subgraphs are, by the newest checkpoints of those that are under way.

A checkpoint says what each node that is done has seen, and which channels its step updated: a
node's trigger among these makes that node the next one. No value is decoded, and no checkpoint is
read twice: a page that follows a run asks every second, and an inner state may have megabytes.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any, Final

from aiodurable.checkpoints.row_reader import RowReader
from aiodurable.threads.subgraph_namespace import without_tasks

__all__ = ["Inside", "SubgraphProgress"]

_TRIGGER = "branch:to:"
_MOST_KNOWN: Final = 1_000


@dataclass(frozen=True, slots=True)
class Inside:
    """The nodes inside subgraphs, as in `outer:node`.

    Attributes:
        done: those that have run.
        following: those that run, wait, or are next.
    """

    done: frozenset[str] = frozenset()
    following: frozenset[str] = frozenset()


class SubgraphProgress:
    """Reads how far subgraphs are, and remembers what the newest thousand checkpoints said."""

    def __init__(self) -> None:
        self._known: OrderedDict[tuple[str, str, str], Inside] = OrderedDict()

    async def of(self, thread_id: str, rows: RowReader) -> Inside:
        """How far the subgraphs of a thread's newest step are; a damaged row says nothing."""
        known = {key: said for key, said in self._known.items() if key[0] == thread_id}
        found = await rows.inner_progress(thread_id, [key[2] for key in known])
        for row in found:
            key = (thread_id, row["checkpoint_ns"], row["checkpoint_id"])
            self._known[key] = known[key] = known.get(key) or _inside(row)
            self._known.move_to_end(key)
        while len(self._known) > _MOST_KNOWN:
            self._known.popitem(last=False)
        said = [known[thread_id, row["checkpoint_ns"], row["checkpoint_id"]] for row in found]
        return Inside(
            frozenset().union(*(one.done for one in said)),
            frozenset().union(*(one.following for one in said)),
        )


def _inside(row: Mapping[str, Any]) -> Inside:
    # `research:TASK|rank:TASK`: a node and its task, from the outside to the inside.
    around = without_tasks(row["checkpoint_ns"]).replace("|", ":")
    return Inside(
        frozenset(f"{around}:{node}" for node in _own(row["seen"])),
        frozenset(
            f"{around}:{channel.removeprefix(_TRIGGER)}"
            for channel in _own(row["updated"])
            if channel.startswith(_TRIGGER)
        ),
    )


def _own(names: Iterable[str | None] | None) -> list[str]:
    """The names that are the graph's own; a damaged row may have a null among them."""
    return [name for name in names or () if name is not None and not name.startswith("__")]
