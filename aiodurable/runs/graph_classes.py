"""The classes in a graph's schemas: the ledger stores and rebuilds values of these classes only.

LangGraph also collects them, for the state alone and only when LANGGRAPH_STRICT_MSGPACK is set
before it is imported. It misses classes inside a `Sequence` or another generic, named tuples,
secrets, and types behind an alias.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Iterator
from contextlib import suppress
from enum import Enum
from typing import Annotated, Any, Literal, get_args, get_origin, get_type_hints

from langgraph.pregel import Pregel

__all__ = ["classes_of", "graph_classes"]

_AnyPregel = Pregel[Any, Any, Any, Any]


def graph_classes(pregel: _AnyPregel) -> set[tuple[str, str]]:
    """Module and name of each class in the schemas of a graph and its declared subgraphs."""
    return classes_of(_schemas(pregel))


def classes_of(types: Iterable[Any]) -> set[tuple[str, str]]:
    """Module and name of each class among these types and inside them.

    These are pydantic models, dataclasses, enums, named tuples and secrets: LangGraph stores
    objects of no other classes.
    """
    # keyed by id; the values keep the types alive, so that no id is reused
    seen: dict[int, Any] = {}
    waiting = list(types)
    while waiting:
        if id(one := waiting.pop()) not in seen:
            seen[id(one)] = one
            waiting.extend(_within(one))
    classes = (one for one in seen.values() if isinstance(one, type) and _is_stored(one))
    return {(one.__module__, one.__name__) for one in classes}


def _schemas(pregel: _AnyPregel) -> Iterator[Any]:
    yield pregel.context_schema
    for channel in pregel.channels.values():
        yield getattr(channel, "ValueType", None)
        yield getattr(channel, "UpdateType", None)
    if (builder := getattr(pregel, "builder", None)) is not None:
        yield from (builder.state_schema, builder.input_schema, builder.output_schema)
        yield from (node.input_schema for node in builder.nodes.values())
        for branches in builder.branches.values():
            yield from (branch.input_schema for branch in branches.values())
    for _, inner in pregel.get_subgraphs():
        if isinstance(inner, Pregel):
            yield from _schemas(inner)


def _is_stored(one: type) -> bool:
    return (
        dataclasses.is_dataclass(one)
        or issubclass(one, Enum)
        or hasattr(one, "model_fields")
        or hasattr(one, "__fields__")  # pydantic 1
        or hasattr(one, "get_secret_value")
        or (issubclass(one, tuple) and hasattr(one, "_fields"))
    )


def _within(one: Any) -> Iterator[Any]:
    """The types inside a type."""
    origin = get_origin(one)
    if origin is Literal:
        return
    if origin is not None:
        yield origin
        yield from get_args(one)[:1] if origin is Annotated else get_args(one)
    elif isinstance(one, list):  # the arguments of a Callable
        yield from one
    elif isinstance(one, type):
        yield from _fields(one)
    else:  # a NewType, an alias of `type`, a TypeVar
        with suppress(Exception):  # an alias is computed when it is read
            for name in ("__supertype__", "__value__", "__bound__"):
                yield getattr(one, name, None)
            yield from getattr(one, "__constraints__", ())


def _fields(one: type) -> Iterator[Any]:
    """The types of its fields, except those whose annotations cannot be resolved."""
    if one.__module__ == "builtins" or not (hasattr(one, "__total__") or _is_stored(one)):
        return
    try:
        yield from get_type_hints(one, include_extras=True).values()
    except Exception:  # an annotation is code, and may raise anything
        models: Any = getattr(one, "model_fields", {})
        yield from (field.annotation for field in models.values())
        yield from getattr(one, "__annotations__", {}).values()
