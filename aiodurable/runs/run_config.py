"""A call's run_id, LangGraph config and context: validated before anything is written, and what of
it is stored.
"""

from __future__ import annotations

import inspect
from collections.abc import Iterable, Mapping
from functools import lru_cache
from typing import Any, cast

from langchain_core.runnables import RunnableConfig
from langgraph.checkpoint.base.id import uuid6
from langgraph.pregel import Pregel

from aiodurable.errors import InvalidArgumentError
from aiodurable.runs.graphs import without_coordinates
from aiodurable.thread_id import validate_run_id

__all__ = ["check_call", "merged", "named_run", "new_run_id", "storable_part", "usable"]

_STORED = ("tags", "metadata", "recursion_limit", "max_concurrency")
_OURS = ("thread_id", "checkpoint_ns", "checkpoint_id", "checkpoint_map")


def new_run_id() -> str:
    """Make a run_id. Later ones sort after earlier ones."""
    return str(uuid6())


def usable(config: RunnableConfig | None, thread_id: str) -> RunnableConfig:
    """The config without `run_id` in its metadata, which makes LangGraph treat a second call as a
    resumption.

    Raises:
        InvalidArgumentError: not a mapping, a part of the wrong type, or another thread's
            coordinates.
    """
    if config is None:
        return {}
    if not isinstance(config, Mapping):  # pyright: ignore[reportUnnecessaryIsInstance]  # callers are not all type-checked
        raise InvalidArgumentError(
            f"cannot use the config: it must be a mapping, got {type(config).__name__}",
            argument="config",
        )
    for part in ("configurable", "metadata"):
        if not isinstance(config.get(part) or {}, Mapping):
            raise InvalidArgumentError(
                f"cannot use the config: config[{part!r}] must be a mapping",
                thread_id=thread_id,
                argument="config",
            )
    limit = config.get("recursion_limit")
    if limit is not None and (not isinstance(limit, int) or limit < 1):  # pyright: ignore[reportUnnecessaryIsInstance]
        raise InvalidArgumentError(
            f"cannot use the config: recursion_limit must be a number from 1, got {limit!r}",
            thread_id=thread_id,
            argument="config",
        )
    metadata = {
        key: value for key, value in (config.get("metadata") or {}).items() if key != "run_id"
    }
    cleaned = cast(
        "RunnableConfig", {key: value for key, value in config.items() if value is not None}
    )
    if "metadata" in cleaned:
        cleaned["metadata"] = metadata
    return without_coordinates(cleaned, thread_id)


def named_run(run_id: str | None, config: RunnableConfig | None, thread_id: str) -> str | None:
    """The run_id of a call: its `run_id`, or the one in its config's metadata, as in LangGraph.

    Raises:
        InvalidArgumentError: an invalid run_id, or two different ones.
    """
    metadata = config.get("metadata") if isinstance(config, Mapping) else None
    inside: Any = metadata.get("run_id") if isinstance(metadata, Mapping) else None
    if inside is not None and run_id is not None and str(inside) != run_id:
        raise InvalidArgumentError(
            f"cannot tell the run: run_id is {run_id!r}, but config['metadata']['run_id'] is"
            f" {str(inside)!r}; give one of them",
            thread_id=thread_id,
            argument="run_id",
        )
    named = run_id if run_id is not None else None if inside is None else str(inside)
    return None if named is None else validate_run_id(named)


def merged(*configs: RunnableConfig) -> RunnableConfig:
    """Merge configs: later ones win, key by key in `configurable` and `metadata` too."""
    result: dict[str, Any] = {}
    for config in configs:
        for key, value in config.items():
            if key in ("configurable", "metadata"):
                result[key] = {**result.get(key, {}), **cast("Mapping[str, Any]", value)}
            else:
                result[key] = value
    return cast("RunnableConfig", result)


def storable_part(config: RunnableConfig) -> dict[str, Any] | None:
    """The part that another process needs to resume the run: everything except objects such as
    callbacks.
    """
    kept: dict[str, Any] = {key: value for key, value in config.items() if key in _STORED and value}
    own = {
        key: value
        for key, value in config.get("configurable", {}).items()
        if key not in _OURS and not key.startswith(("__", "aiodurable_"))
    }
    if own:
        kept["configurable"] = own
    return kept or None


def check_call(
    graph: Pregel[Any, Any, Any, Any], options: Iterable[str], context: Any, thread_id: str
) -> None:
    """Refuse what LangGraph would refuse only after the run is accepted.

    Raises:
        InvalidArgumentError: an option that `ainvoke` and `astream` do not have, or a context that
            does not fit the graph's context_schema.
    """
    unknown = [name for name in options if name not in _options(type(graph))]
    if unknown:
        raise InvalidArgumentError(
            "cannot call the graph: LangGraph's ainvoke and astream have no option"
            f" {', '.join(map(repr, unknown))}",
            thread_id=thread_id,
            argument=unknown[0],
        )
    schema: Any = graph.context_schema
    if isinstance(context, dict) and (  # other schemas take any dict
        hasattr(schema, "__dataclass_fields__") or hasattr(schema, "model_validate")
    ):
        try:
            schema(**context)
        except Exception as error:  # a schema's hooks may raise anything
            raise InvalidArgumentError(
                f"cannot use the context: it does not fit {schema.__name__}, the graph's schema of"
                f" it ({type(error).__name__})",
                thread_id=thread_id,
                argument="context",
            ) from error


@lru_cache(maxsize=32)
def _options(kind: type[Pregel[Any, Any, Any, Any]]) -> frozenset[str]:
    return frozenset(
        (*inspect.signature(kind.ainvoke).parameters, *inspect.signature(kind.astream).parameters)
    )
