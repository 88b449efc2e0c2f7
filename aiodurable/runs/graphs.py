"""Graphs: bind a name, a builder, a compiled graph or an `@entrypoint` to the saver that fences its
writes.

And the differences from a plain LangGraph call: a config without coordinates, and stored results.
"""

from __future__ import annotations

import copy
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from functools import cached_property, lru_cache
from typing import Any, NamedTuple

from langchain_core.runnables import RunnableConfig
from langgraph.checkpoint.base import BaseCheckpointSaver
from langgraph.checkpoint.serde.base import SerializerProtocol
from langgraph.graph import START, StateGraph
from langgraph.graph.state import CompiledStateGraph
from langgraph.pregel import Pregel
from langgraph.types import Command

from aiodurable.checkpoints.finished import STARTS_A_NODE
from aiodurable.checkpoints.stored_values import serde_for
from aiodurable.checkpoints.strict_msgpack import saver_allowing, strict
from aiodurable.errors import ConfigurationError, GraphNotRegisteredError, InvalidArgumentError
from aiodurable.runs.graph_classes import graph_classes
from aiodurable.runs.renamed_nodes import Renamed, renamed_in
from aiodurable.runs.unsaved_subgraphs import let_unsaved_graphs_run
from aiodurable.settings import Settings

__all__ = ["BoundGraph", "Graph", "Graphs", "without_coordinates"]

_AnyGraph = StateGraph[Any, Any, Any, Any] | Pregel[Any, Any, Any, Any]
Graph = str | _AnyGraph

_UNNAMED = "LangGraph"
"""The name `StateGraph.compile` gives to an unnamed graph."""


@dataclass(frozen=True)
class BoundGraph:
    """A graph bound to our saver.

    Attributes:
        name: the name under which the ledger records its runs; None: unnamed.
        pregel: the compiled graph.
        saver: reads and writes its checkpoints.
        ledger_serde: the serializer for what the ledger stores of its runs.
        renamed: old node names to new ones.
    """

    name: str | None
    pregel: Pregel[Any, Any, Any, Any]
    saver: BaseCheckpointSaver[Any]
    ledger_serde: SerializerProtocol
    renamed: Mapping[str, str] = field(default_factory=dict[str, str])

    @property
    def serde(self) -> SerializerProtocol:
        """The serializer of its checkpoints, which allows the graph's types."""
        return serde_for(self.pregel, self.saver)

    @property
    def has_subgraphs(self) -> bool:
        """Whether one of its nodes declares a subgraph."""
        return any(node.subgraphs for node in self.pregel.nodes.values())

    @cached_property
    def starts_without_code(self) -> bool:
        """Whether no code of the user runs between the input and the first node: an entry that
        nobody chooses.
        """
        return isinstance(self.pregel, CompiledStateGraph) and not self.pregel.builder.branches.get(
            START
        )

    def commits_first(self, input: Any, durability: str | None) -> bool:
        """Whether a call waits for a commit of its thread before any of its nodes runs: LangGraph
        waits for the checkpoint before the first one.

        Args:
            input: the call's. A `Command` may lead to a node without a checkpoint of its own.
            durability: LangGraph's option.
        """
        return durability == "sync" and self.starts_without_code and not isinstance(input, Command)

    @cached_property
    def tells_its_end(self) -> bool:
        """Whether a checkpoint says if its graph goes on: by the names of the channels that start
        its nodes (`STARTS_A_NODE`).
        """
        return all(
            trigger.startswith(STARTS_A_NODE)
            for node in self.pregel.nodes.values()
            for trigger in node.triggers
        )

    def replaced_by(self, pregel: Pregel[Any, Any, Any, Any]) -> BoundGraph:
        """The same graph with another compiled form."""
        return replace(self, pregel=pregel)

    def saving_to(self, saver: BaseCheckpointSaver[Any]) -> Pregel[Any, Any, Any, Any]:
        """The graph with another saver."""
        return _with_saver(self.pregel, saver_allowing(saver, graph_classes(self.pregel)))


class _Attached(NamedTuple):
    """See `BoundGraph`."""

    pregel: Pregel[Any, Any, Any, Any]
    saver: BaseCheckpointSaver[Any]
    ledger_serde: SerializerProtocol


class Graphs:
    """The registered graphs, and those passed to a call.

    Args:
        registered: the graphs by name.
        saver: the saver to bind them to.
        renamed: see `Durable`.
        settings: whether msgpack is strict, and the classes allowed beside those of the schemas.

    Raises:
        ConfigurationError: a registered graph cannot be run (see `bind`).
    """

    def __init__(
        self,
        registered: Mapping[str, Graph],
        saver: BaseCheckpointSaver[Any],
        *,
        renamed: Renamed | None = None,
        settings: Settings,
    ) -> None:
        let_unsaved_graphs_run()
        self._saver = saver
        self._settings = settings
        self._renamed = dict(renamed or {})
        self._attach = lru_cache(maxsize=128)(self._attach_once)
        self._registered = {
            name: self._bound(name, self._attached(graph)) for name, graph in registered.items()
        }
        self._names = {id(graph): name for name, graph in registered.items()}

    @property
    def registered(self) -> tuple[BoundGraph, ...]:
        """The registered graphs."""
        return tuple(self._registered.values())

    def bind(self, graph: Graph) -> BoundGraph:
        """Bind the graph to the saver.

        Raises:
            GraphNotRegisteredError: the name is not registered.
            ConfigurationError: a graph without nodes, one compiled with `checkpointer=False`, or no
                graph at all.
        """
        if isinstance(graph, str):
            try:
                return self._registered[graph]
            except KeyError:
                known = ", ".join(sorted(self._registered)) or "none"
                raise GraphNotRegisteredError(
                    f"cannot find graph {graph!r}: registered are {known}; give it this name in"
                    " Durable(graphs=…)"
                ) from None
        attached = self._attached(graph)
        own_name = None if attached.pregel.name == _UNNAMED else attached.pregel.name
        return self._bound(self._names.get(id(graph), own_name), attached)

    def _bound(self, name: str | None, attached: _Attached) -> BoundGraph:
        return BoundGraph(name, *attached, renamed_in(self._renamed, name))

    def _attached(self, graph: Any) -> _Attached:
        if not isinstance(graph, StateGraph | Pregel):
            raise ConfigurationError(
                f"cannot run a {type(graph).__name__}: pass a registered name, a StateGraph, a"
                " compiled graph or an @entrypoint"
            )
        return self._attach(graph)

    def _attach_once(self, graph: _AnyGraph) -> _Attached:
        pregel = self._saving(graph)
        allowed = graph_classes(pregel) | self._settings.allowed_classes
        saver = saver_allowing(self._saver, allowed)
        if saver is not self._saver:
            pregel = _with_saver(pregel, saver)
        if self._settings.strict_msgpack:
            return _Attached(pregel, saver, strict(saver.serde, allowed))
        return _Attached(pregel, saver, serde_for(pregel, saver))

    def _saving(self, graph: _AnyGraph) -> Pregel[Any, Any, Any, Any]:
        if isinstance(graph, StateGraph):
            try:
                return graph.compile(checkpointer=self._saver)
            except ValueError as error:
                raise ConfigurationError(f"cannot compile the graph: {error}") from error
        return self._fit(graph)

    def _fit(self, graph: Pregel[Any, Any, Any, Any]) -> Pregel[Any, Any, Any, Any]:
        if graph.checkpointer is self._saver:
            return graph
        if graph.checkpointer is False:
            raise ConfigurationError(
                f"cannot run graph {graph.name!r}: it was compiled with checkpointer=False, so "
                "nothing of it could survive; compile it without"
            )
        if not graph.nodes:
            raise ConfigurationError(f"cannot run graph {graph.name!r}: it has no nodes")
        if isinstance(graph.checkpointer, BaseCheckpointSaver):
            self._refuse_other_serializer(graph.name, graph.checkpointer.serde)
        return _with_saver(graph, self._saver)

    def _refuse_other_serializer(self, name: str, theirs: SerializerProtocol) -> None:
        ours = self._saver.serde
        if type(theirs) is not type(ours):
            raise ConfigurationError(
                f"cannot run graph {name!r}: it was compiled with a checkpointer that stores values"
                f" with {type(theirs).__name__}, and this Durable would store them with"
                f" {type(ours).__name__}; give Durable(serde=…) that serializer, or compile the"
                " graph without a checkpointer"
            )


def _with_saver(
    graph: Pregel[Any, Any, Any, Any], saver: BaseCheckpointSaver[Any]
) -> Pregel[Any, Any, Any, Any]:
    # Not Pregel.copy(): it calls the constructor, which loses what compile() set afterwards (output
    # coercion, allowlist).
    bound = copy.copy(graph)
    bound.checkpointer = saver
    return bound


def without_coordinates(config: RunnableConfig, thread_id: str) -> RunnableConfig:
    """The config of a run, which always addresses the thread's newest checkpoint.

    Raises:
        InvalidArgumentError: it has other coordinates, which LangGraph would take for time travel.
    """
    configurable = config.get("configurable", {})
    if configurable.get("thread_id", thread_id) != thread_id:
        raise InvalidArgumentError(
            f"cannot use this config for thread {thread_id!r}: it names thread "
            f"{configurable['thread_id']!r}; leave thread_id out",
            thread_id=thread_id,
        )
    for name in ("checkpoint_id", "checkpoint_ns"):
        if configurable.get(name):
            raise InvalidArgumentError(
                f"cannot use this config: it names a {name}, and a run continues from the "
                "thread's newest checkpoint; fork the thread instead",
                thread_id=thread_id,
            )
    return config
