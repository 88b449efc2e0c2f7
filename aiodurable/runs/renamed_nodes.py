"""Renamed nodes: a copy of the graph that also has their old names, for threads that stopped before
them.

Nothing stored changes. LangGraph derives a task's id from its node's name and channels, so the task
keeps its id, and with it its interrupt, the results of its siblings and the checkpoints of its
subgraphs. A process that dies meanwhile leaves a thread that reads the same, and a deploy that is
rolled back finds the names it knows. The current superstep shows the old name; later ones the new.
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
"""Old node names to new ones; under a graph's name, a mapping for that graph alone."""

_AnyPregel = Pregel[Any, Any, Any, Any]
_Steps = Mapping[tuple[str, ...], Sequence[StoredStep]]
_BRANCH, _JOIN = "branch:to:", "join:"


def renamed_in(renamed: Renamed, graph: str | None) -> dict[str, str]:
    """The old node names to new ones that apply to `graph`.

    Raises:
        ConfigurationError: an entry is neither a name nor a mapping of names.
    """
    found: dict[str, str] = {}
    for old, new in renamed.items():
        if isinstance(new, str):
            found.setdefault(old, new)
        elif isinstance(new, Mapping):  # pyright: ignore[reportUnnecessaryIsInstance]  # callers may not check types
            found |= new if old == graph else {}
        else:
            raise ConfigurationError(
                "renamed must map an old node to the new one, or a graph to such a mapping;"
                f" {old!r} maps to {new!r}"
            )
    for was, now in list[tuple[Any, Any]](found.items()):  # callers may not check types
        if not isinstance(was, str) or not isinstance(now, str) or was == now:
            raise ConfigurationError(
                f"renamed must map the name of a node to another name, got {was!r}: {now!r}"
            )
    return found


def with_old_names(
    pregel: _AnyPregel, renamed: Mapping[str, str], steps: _Steps, path: tuple[str, ...] = ()
) -> _AnyPregel:
    """A copy of the graph that has renamed nodes and their triggers under the names stored in
    `steps`.

    Args:
        pregel: the graph; it is not changed.
        renamed: old names to new ones. An entry is ignored if the graph still has the old name or
            lacks the new one.
        steps: the stored supersteps, by the path of nodes that contain their graph.
        path: the path of this graph.
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
        channels[old] = _named(
            type(barrier)(barrier.typ, {old_of.get(name, name) for name in barrier.names}), old
        )
    if joins:
        nodes = {name: _joining(node, joins, old_of) for name, node in nodes.items()}
    for old, new in renamed.items():
        if old in nodes or new not in nodes:
            continue
        triggers = nodes[new].triggers
        if f"{_BRANCH}{new}" in triggers:
            own = [
                channel
                for channel in triggers
                if channel.startswith(_JOIN) and channel.rpartition(":")[2] == old
            ]
            shared = [
                channel
                for channel in triggers
                if channel not in own and channel != f"{_BRANCH}{new}"
            ]
            nodes[old] = nodes[new].copy({"triggers": [f"{_BRANCH}{old}", *shared, *own]})
            nodes[new] = nodes[new].copy({"triggers": [c for c in triggers if c not in own]})
            channels[f"{_BRANCH}{old}"] = _named(
                cast("Any", channels[f"{_BRANCH}{new}"]).copy(), f"{_BRANCH}{old}"
            )
        elif any(caller_of(task.path) == old for step in at for task in step.tasks):
            # A node that every input triggers, such as an @entrypoint, would run twice under two
            # names.
            nodes[old] = nodes.pop(new)
    for name, node in list(nodes.items()):
        if (
            len(node.subgraphs) == 1
            and node.bound is node.subgraphs[0]
            and isinstance(node.bound, Pregel)
        ):
            inner = with_old_names(node.bound, renamed, steps, (*path, name))
            if inner is not node.bound:
                nodes[name] = node.copy({"bound": inner, "subgraphs": [inner]})
    if nodes == pregel.nodes and not joins:
        return pregel
    return _rebuilt(pregel, nodes, channels, renamed)


def _joins(pregel: _AnyPregel, old_of: Mapping[str, str], known: set[str]) -> dict[str, str]:
    """Join channels and their old names, except those that the steps already have under the new
    name.
    """
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
    """The node, reading and writing the old join channels."""
    writers: list[Any] = []
    for writer in node.writers:
        entries = getattr(writer, "writes", None) or ()
        if any(getattr(entry, "channel", None) in joins for entry in entries):
            translated = tuple(
                (
                    entry._replace(
                        channel=joins[entry.channel], value=old_of.get(entry.value, entry.value)
                    )
                    if getattr(entry, "channel", None) in joins
                    else entry
                )
                for entry in entries
            )  # a tuple, as StateGraph gives: LangGraph joins it to others
            writers.append(ChannelWrite(translated, tags=writer.tags))
        else:
            writers.append(writer)
    return node.copy(
        {"writers": writers, "triggers": [joins.get(channel, channel) for channel in node.triggers]}
    )


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
    bound.node_error_handler_map = {
        **handlers,
        **{old: handlers[new] for old, new in added.items() if new in handlers},
    }
    return bound
