"""A state as a tree to open: bounded, redacted, integers exact, nothing built of what is stored."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, fields, is_dataclass
from itertools import islice
from typing import Any, cast

from langgraph.types import Send

from aiodurable.byte_size import byte_size
from aiodurable.dashboard.options import Redact
from aiodurable.jsonable import DEEPEST, jsonable
from aiodurable.models import StoredObject

__all__ = ["HIDDEN", "Branch", "Trees", "channels_of", "find", "redacted", "tree_of", "whole"]

HIDDEN = "(hidden: redact raised)"
_INTERNAL = ("branch:", "join:", "start:", "__")
_LONGEST_TEXT = 2_000
_MOST_CHILDREN = 100
_MOST_BRANCHES = 1_500
_DEEPEST = 8
_SHORT = 60


@dataclass(frozen=True, slots=True)
class Branch:
    """A value of a state, to be shown.

    Attributes:
        path: where it is: a channel, then keys and indexes.
        key: the last part of that.
        kind: the type, for people: `text`, `number`, `list of 3`.
        text: the value, if it holds no others; a beginning of it if `cut`.
        children: what it holds.
        cut: how many characters or values are not shown; 0: all are.
    """

    path: tuple[str | int, ...]
    key: str
    kind: str
    text: str | None = None
    children: tuple[Branch, ...] = ()
    cut: int = 0

    @property
    def address(self) -> str:
        """The path as a parameter of a URL."""
        return json.dumps(self.path)


def channels_of(values: Mapping[str, Any]) -> dict[str, Any]:
    """The channels of the graph's own state, without LangGraph's."""
    return {
        name: value
        for name, value in values.items()
        if not name.startswith(_INTERNAL) or name == "__end__"
    }


def find(value: Any, path: Iterable[str | int], redact: Redact | None) -> Any:
    """The value at a path, redacted on the way there and at its end.

    Raises:
        KeyError: there is no such value.
    """
    gone: tuple[str | int, ...] = ()
    for part in path:
        items = _items(value)
        if items is None or part not in (held := dict(items)):
            raise KeyError(part)
        gone = (*gone, part)
        value = redacted(gone, held[part], redact)
    return value


def redacted(path: tuple[str | int, ...], value: Any, redact: Redact | None) -> Any:
    """What is shown in the place of a value."""
    if redact is None or not path:
        return value
    try:
        return redact(path, value)
    except Exception:  # a hook that fails must not show what it would have hidden
        return HIDDEN


def whole(path: tuple[str | int, ...], value: Any, redact: Redact | None, *, depth: int = 0) -> Any:
    """The value and all that it holds, redacted, as JSON has it; `value` itself is redacted, and
    `depth` containers are around it.
    """
    if redact is None or (items := _items(value)) is None:
        return jsonable(value)
    if depth >= DEEPEST:  # as `jsonable` ends, before Python's stack does
        return f"<{type(value).__name__}, nested too deep>"
    kept = [
        (
            key,
            whole((*path, key), redacted((*path, key), item, redact), redact, depth=depth + 1),
        )
        for key, item in items
    ]
    if isinstance(value, Sequence | set | frozenset):
        return [item for _, item in kept]
    return {str(key): item for key, item in kept}


def tree_of(path: tuple[str | int, ...], value: Any, redact: Redact | None) -> Branch:
    """The tree of a value, which is redacted itself; what it holds is redacted here."""
    return Trees(redact).of(path, value)


class Trees:
    """Trees of values for one page, which all together have a bounded number of branches: a page
    is rendered in the loop of the application.

    Args:
        redact: the application's.
        branches: as many are shown at most; more are counted as cut. A value itself always is one.

    Attributes:
        redact: the application's.
    """

    def __init__(self, redact: Redact | None, *, branches: int = _MOST_BRANCHES) -> None:
        self.redact = redact
        self._left = branches

    def of(self, path: tuple[str | int, ...], value: Any) -> Branch:
        """The tree of a value, which is redacted itself; what it holds is redacted here."""
        return self._branch(path, value, depth=0)

    def _branch(self, path: tuple[str | int, ...], value: Any, *, depth: int) -> Branch:
        self._left -= 1
        key = "" if not path else str(path[-1])
        items = _items(value)
        if items is None:
            kind, text = _leaf(value)
            shown = text[:_LONGEST_TEXT]
            return Branch(path, key, kind, shown, cut=len(text) - len(shown))
        kind = _kind(value, len(items))
        if depth >= _DEEPEST:
            return Branch(path, key, kind, cut=len(items))
        children: list[Branch] = []
        for part, held in islice(items, _MOST_CHILDREN):
            if self._left <= 0:
                break
            inner = (*path, part)
            children.append(
                self._branch(inner, redacted(inner, held, self.redact), depth=depth + 1)
            )
        return Branch(path, key, kind, None, tuple(children), cut=len(items) - len(children))


def _items(value: Any) -> Sequence[tuple[str | int, Any]] | None:
    """What a value holds, with the keys of a path; None: it holds nothing."""
    if isinstance(value, StoredObject):
        made_of = value.made_of
        return _items(made_of) if isinstance(made_of, Mapping | list | tuple) else None
    if isinstance(value, Mapping):
        mapping = cast("Mapping[Any, Any]", value)
        return [(key if isinstance(key, str) else repr(key), held) for key, held in mapping.items()]
    if isinstance(value, Sequence) and not isinstance(value, str | bytes | bytearray | memoryview):
        return list(enumerate(cast("Sequence[Any]", value)))
    if isinstance(value, set | frozenset):
        return list(enumerate(sorted(cast("Iterable[Any]", value), key=repr)))
    return None if isinstance(value, type) else _fields(value)


def _fields(value: Any) -> Sequence[tuple[str, Any]] | None:
    """What an object holds that was built after all: one of LangGraph's own, or what a serializer
    of the application returns. Its text would show what `redact` hides.
    """
    if isinstance(value, Send):
        return [("node", value.node), ("arg", value.arg)]
    try:
        if is_dataclass(value):
            return [(field.name, getattr(value, field.name)) for field in fields(value)]
        if hasattr(type(value), "model_fields"):  # a Pydantic model
            return list(cast("Mapping[str, Any]", value.model_dump()).items())
    except Exception:  # a value's methods may raise anything
        return None
    return None


def _kind(value: Any, count: int) -> str:
    name = (
        repr(value).strip("<>")
        if isinstance(value, StoredObject)
        else "object"
        if isinstance(value, Mapping)
        else "list"
        if isinstance(value, Sequence)
        else "set"
        if isinstance(value, set | frozenset)
        else type(value).__name__
    )
    return f"{name} of {count}"


def _leaf(value: Any) -> tuple[str, str]:
    """Kind and text of a value that holds no others."""
    match value:
        case None:
            return "null", "null"
        case bool():
            return "truth", "true" if value else "false"
        case int() | float():
            return "number", str(jsonable(value))
        case str():
            return "text", value
        case bytes() | bytearray():
            text = repr(bytes(value[:_SHORT]))
            return f"bytes, {byte_size(len(value))}", text if len(value) <= _SHORT else f"{text}…"
        case _:
            kind = repr(value) if isinstance(value, StoredObject) else type(value).__name__
            return kind.strip("<>"), str(jsonable(value))
