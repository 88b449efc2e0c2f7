"""How far the nodes inside subgraphs are, by the newest checkpoints of those that are under way.

A checkpoint says what each node that is done has seen, and which channels its step updated: a
node's trigger among these makes that node the next one. No value is decoded.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any, cast

__all__ = ["Inside", "inside_of"]

_TRIGGER = "branch:to:"


@dataclass(frozen=True, slots=True)
class Inside:
    """The nodes inside subgraphs, as in `outer:node`.

    Attributes:
        done: those that have run.
        following: those that run, wait, or are next.
    """

    done: frozenset[str] = frozenset()
    following: frozenset[str] = frozenset()


def inside_of(rows: Iterable[Mapping[str, Any]]) -> Inside:
    """What the rows of inner checkpoints say; a row that is damaged says nothing."""
    done, following = set[str](), set[str]()
    for row in rows:
        namespace, checkpoint = row["checkpoint_ns"], row["checkpoint"]
        if not namespace or not isinstance(checkpoint, dict):
            continue
        stored = cast("dict[str, Any]", checkpoint)
        # `research:TASK|rank:TASK`: a node and its task, from the outside to the inside.
        around = ":".join(part.partition(":")[0] for part in str(namespace).split("|"))
        done |= {f"{around}:{node}" for node in _texts(stored, "versions_seen")}
        following |= {
            f"{around}:{channel.removeprefix(_TRIGGER)}"
            for channel in _texts(stored, "updated_channels")
            if channel.startswith(_TRIGGER)
        }
    return Inside(frozenset(done), frozenset(following))


def _texts(held: Mapping[str, Any], name: str) -> list[str]:
    """The keys or items that are names of the graph's own."""
    found = held.get(name)
    if not isinstance(found, Mapping | list):
        return []
    items = cast("Iterable[Any]", found)
    return [one for one in items if isinstance(one, str) and not one.startswith("__")]
