"""Nodes that have another name now: a graph that knows them by their old names too, for threads that stand before them.

Nothing that is stored is changed. A task keeps the id that LangGraph makes of its node's name and channels, and with it its
question, what finished beside it, and the checkpoints of its subgraphs; a process that dies meanwhile leaves a thread that
is read the same way again, and a deploy that is taken back finds the names it knows. The step that was under way shows
the old name; all that follows it has the new one.
"""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence
from typing import Any, cast

from langgraph.pregel import Pregel
from langgraph.pregel._write import ChannelWrite

from aiodurable.checkpoints.stored_step import StoredStep
from aiodurable.errors import ConfigurationError
from aiodurable.threads.task_path import caller_of

__all__ = ["Renamed", "renamed_in", "with_old_names"]

Renamed = Mapping[str, "str | Mapping[str, str]"]
"""Old names of nodes to new ones; under the name of a graph, a mapping for that graph alone."""

_AnyPregel = Pregel[Any, Any, Any, Any]
_Steps = Mapping[tuple[str, ...], Sequence[StoredStep]]
_BRANCH, _JOIN = "branch:to:", "join:"


def renamed_in(renamed: Renamed, graph: str | None) -> dict[str, str]:
    """The old names of nodes to new ones that hold for a graph.

    Raises:
        ConfigurationError: a name that is none.
    """
    found: dict[str, str] = {}
    for old, new in renamed.items():
        if isinstance(new, str):
            found.setdefault(old, new)
        elif isinstance(new, Mapping):  # pyright: ignore[reportUnnecessaryIsInstance]  # callers may not check types
            found |= new if old == graph else {}
        else:
            raise ConfigurationError(
                f"renamed must map an old node to the new one, or a graph to such a mapping; {old!r} maps to {new!r}"
            )
    for was, now in list[tuple[Any, Any]](found.items()):  # callers may not check types
        if not isinstance(was, str) or not isinstance(now, str) or was == now:
            raise ConfigurationError(f"renamed must map the name of a node to another name, got {was!r}: {now!r}")
    return found


def with_old_names(
    pregel: _AnyPregel, renamed: Mapping[str, str], steps: _Steps, path: tuple[str, ...] = ()
) -> _AnyPregel:
    """A copy of the graph that has renamed nodes, and what starts them, under the names that these steps know them by.

    Args:
        pregel: the graph, which stays as it is.
        renamed: old names to new ones. Those of which the graph has the old name still, or not the new one, do not count.
        steps: what is stored, by the nodes around it.
        path: the nodes around this graph.
    """
    at = steps.get(path, ())
    known = {channel for step in at for channel in step.channels}
    old_of: dict[str, str] = {}
    for old, new in renamed.items():
        if old not in pregel.nodes and new in pregel.nodes:
            old_of.setdefault(new, old)
    joins = _joins(pregel, old_of, known)
    nodes, channels = dict(pregel.nodes), dict(pregel.channels)
    for new, old in joins.items():
        barrier = cast("Any", channels.pop(new))
        channels[old] = _named(type(barrier)(barrier.typ, {old_of.get(name, name) for name in barrier.names}), old)
    if joins:
        nodes = {name: _joining(node, joins, old_of) for name, node in nodes.items()}
    for old, new in renamed.items():
        if old in nodes or new not in nodes:
            continue
        triggers = nodes[new].triggers
        if f"{_BRANCH}{new}" in triggers:
            own = [channel for channel in triggers if channel.startswith(_JOIN) and channel.rpartition(":")[2] == old]
            shared = [channel for channel in triggers if channel not in own and channel != f"{_BRANCH}{new}"]
            nodes[old] = nodes[new].copy({"triggers": [f"{_BRANCH}{old}", *shared, *own]})
            nodes[new] = nodes[new].copy({"triggers": [c for c in triggers if c not in own]})
            channels[f"{_BRANCH}{old}"] = _named(cast("Any", channels[f"{_BRANCH}{new}"]).copy(), f"{_BRANCH}{old}")
        elif any(caller_of(task.path) == old for step in at for task in step.tasks):
            # One node that every input starts, such as an @entrypoint: under both names it would run twice.
            nodes[old] = nodes.pop(new)
    for name, node in list(nodes.items()):
        if len(node.subgraphs) == 1 and node.bound is node.subgraphs[0] and isinstance(node.bound, Pregel):
            inner = with_old_names(node.bound, renamed, steps, (*path, name))
            if inner is not node.bound:
                nodes[name] = node.copy({"bound": inner, "subgraphs": [inner]})
    if nodes == pregel.nodes and not joins:
        return pregel
    return _rebuilt(pregel, nodes, channels, renamed)


def _joins(pregel: _AnyPregel, old_of: Mapping[str, str], known: set[str]) -> dict[str, str]:
    """The channels that wait for several nodes, to the names they had: unless the steps know the new one already."""
    found: dict[str, str] = {}
    for channel in pregel.channels:
        if channel.startswith(_JOIN) and channel not in known:
            _, starts, end = channel.split(":", 2)
            before = "+".join(old_of.get(start, start) for start in starts.split("+"))
            old = f"{_JOIN}{before}:{old_of.get(end, end)}"
            if old != channel:
                found[channel] = old
    return found


def _joining(node: Any, joins: Mapping[str, str], old_of: Mapping[str, str]) -> Any:
    """The node, waiting at and writing to the old channels."""
    writers: list[Any] = []
    for writer in node.writers:
        entries = getattr(writer, "writes", None) or ()
        if any(getattr(entry, "channel", None) in joins for entry in entries):
            translated = tuple(
                entry._replace(channel=joins[entry.channel], value=old_of.get(entry.value, entry.value))
                if getattr(entry, "channel", None) in joins
                else entry
                for entry in entries
            )  # a tuple, as StateGraph gives: LangGraph joins it to others
            writers.append(ChannelWrite(translated, tags=writer.tags))
        else:
            writers.append(writer)
    return node.copy({"writers": writers, "triggers": [joins.get(channel, channel) for channel in node.triggers]})


def _named(channel: Any, name: str) -> Any:
    channel.key = name
    return channel


def _rebuilt(
    pregel: _AnyPregel, nodes: dict[str, Any], channels: dict[str, Any], renamed: Mapping[str, str]
) -> _AnyPregel:
    # Not Pregel.copy(): see _with_saver in graphs.py.
    bound: Any = copy.copy(pregel)
    bound.nodes, bound.channels = nodes, channels
    starts: dict[str, list[str]] = {}
    for name, node in nodes.items():
        for channel in node.triggers:
            starts.setdefault(channel, []).append(name)
    bound.trigger_to_nodes = starts
    added = {old: new for old, new in renamed.items() if old in nodes and old not in pregel.nodes}
    for gates in ("interrupt_before_nodes", "interrupt_after_nodes"):
        named = getattr(pregel, gates)
        if named and named != "*":
            setattr(bound, gates, [*named, *(old for old, new in added.items() if new in named)])
    handlers: dict[str, str] = getattr(pregel, "node_error_handler_map", {})
    bound.node_error_handler_map = {**handlers, **{old: handlers[new] for old, new in added.items() if new in handlers}}
    return bound
