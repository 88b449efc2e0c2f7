"""What changed between two states: a bounded list of places, each with the value before and after.

Equal parts are passed over before anything is redacted. Two lists are compared between what they
begin with alike and what they end with alike, so that a message that was added is one change.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from itertools import islice
from typing import Any, Literal, cast

from aiodurable.dashboard.options import Redact
from aiodurable.dashboard.state_tree import Branch, Trees, redacted
from aiodurable.models import StoredObject

__all__ = ["Change", "changes"]

_MOST = 200
_MOST_BRANCHES = 3_000
"""Of the values of all changes."""
_DEEPEST = 20
_Path = tuple[str | int, ...]


@dataclass(frozen=True, slots=True)
class Change:
    """One place that differs.

    Attributes:
        path: where.
        kind: `added`, `removed` or `changed`.
        before, after: the values, redacted; None where there was or is none.
    """

    path: _Path
    kind: Literal["added", "removed", "changed"]
    before: Branch | None
    after: Branch | None

    @property
    def place(self) -> str:
        """The path for people: `messages[3].content`."""
        first, *rest = self.path
        return str(first) + "".join(
            f"[{part}]" if isinstance(part, int) else f".{part}" for part in rest
        )


def changes(
    before: Mapping[str, Any], after: Mapping[str, Any], redact: Redact | None
) -> tuple[list[Change], bool]:
    """The changes from one state to another, and whether there are more than these."""
    trees = Trees(redact, branches=_MOST_BRANCHES)
    found = list(islice(_compared((), before, after, trees, 0), _MOST + 1))
    return found[:_MOST], len(found) > _MOST


def _compared(path: _Path, before: Any, after: Any, trees: Trees, depth: int) -> Iterator[Change]:
    if type(before) is type(after) and before == after:
        return
    if depth < _DEEPEST:
        if isinstance(before, Mapping) and isinstance(after, Mapping):
            yield from _mappings(
                path,
                cast("Mapping[Any, Any]", before),
                cast("Mapping[Any, Any]", after),
                trees,
                depth,
            )
            return
        if isinstance(before, StoredObject) and isinstance(after, StoredObject):
            same_class = before.name == after.name
            if same_class and isinstance(before.made_of, Mapping | list):
                yield from _compared(path, before.made_of, after.made_of, trees, depth + 1)
                return
        if isinstance(before, list) and isinstance(after, list):
            yield from _lists(
                path, cast("list[Any]", before), cast("list[Any]", after), trees, depth
            )
            return
    yield Change(path, "changed", _shown(path, before, trees), _shown(path, after, trees))


def _mappings(
    path: _Path,
    before: Mapping[Any, Any],
    after: Mapping[Any, Any],
    trees: Trees,
    depth: int,
) -> Iterator[Change]:
    for key in dict.fromkeys([*before, *after]):
        inner = (*path, key if isinstance(key, str) else repr(key))
        if key not in after:
            yield Change(inner, "removed", _shown(inner, before[key], trees), None)
        elif key not in before:
            yield Change(inner, "added", None, _shown(inner, after[key], trees))
        else:
            yield from _hidden_or_compared(inner, before[key], after[key], trees, depth)


def _lists(
    path: _Path, before: list[Any], after: list[Any], trees: Trees, depth: int
) -> Iterator[Change]:
    shorter = min(len(before), len(after))
    first = 0
    while first < shorter and _same(before[first], after[first]):
        first += 1
    last = 0
    while last < shorter - first and _same(before[-1 - last], after[-1 - last]):
        last += 1
    gone, come = before[first : len(before) - last], after[first : len(after) - last]
    for offset in range(max(len(gone), len(come))):
        inner = (*path, first + offset)
        if offset >= len(come):
            yield Change(inner, "removed", _shown(inner, gone[offset], trees), None)
        elif offset >= len(gone):
            yield Change(inner, "added", None, _shown(inner, come[offset], trees))
        else:
            yield from _hidden_or_compared(inner, gone[offset], come[offset], trees, depth)


def _hidden_or_compared(
    path: _Path, before: Any, after: Any, trees: Trees, depth: int
) -> Iterator[Change]:
    """A container that `redact` replaces is not looked into."""
    if _same(before, after):
        return
    if trees.redact is not None:
        shown = redacted(path, before, trees.redact), redacted(path, after, trees.redact)
        if shown[0] is not before or shown[1] is not after:
            kept = [trees.of(path, value) for value in shown]
            yield Change(path, "changed", kept[0], kept[1])
            return
    yield from _compared(path, before, after, trees, depth + 1)


def _same(before: Any, after: Any) -> bool:
    return type(before) is type(after) and bool(before == after)


def _shown(path: _Path, value: Any, trees: Trees) -> Branch:
    return trees.of(path, redacted(path, value, trees.redact))
