"""The drawing of a thread's graph: what the browser lays out, and how far each node is.

`get_graph` of the registered graph gives nodes and edges, those of subgraphs too; a subgraph that
is not opened is one node. What happened comes from the thread's status and steps alone.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from langgraph.pregel import Pregel

from aiodurable.dashboard.subgraph_progress import Inside
from aiodurable.models import ThreadStatus, WorkflowCheckpoint
from aiodurable.threads import ThreadStep

__all__ = ["Drawing", "Progress", "drawing_of", "progress_of"]

_SEPARATOR = ":"
_MOST_NODES = 300
_MOST_EDGES = 1_000
"""Routers that may lead to each node have as many edges as the square of their number."""
_UNREAD = Inside()
_WAITING = frozenset({ThreadStatus.INTERRUPTED, ThreadStatus.PAUSED})


@dataclass(frozen=True, slots=True)
class Progress:
    """How far a thread's nodes are.

    Attributes:
        states: `running`, `failed`, `waiting`, `pending` or `done` by node; others never ran.
        counts: how often each node ran, in the steps that were read.
        seconds: how long each node's last step took.
    """

    states: Mapping[str, str]
    counts: Mapping[str, int]
    seconds: Mapping[str, float]


@dataclass(frozen=True, slots=True)
class Drawing:
    """A graph to lay out.

    Attributes:
        nodes: each with `id`, `label`, `state`, `kind` (`node`, `start`, `end`, `subgraph`),
            `inside` (the opened subgraph around it, or an empty text), `count` and `seconds`.
        edges: each with `from`, `to`, `label` and `conditional`.
        groups: the opened subgraphs: `id`, `label`, `inside`.
        note: what is missing in it; None: nothing.
    """

    nodes: Sequence[Mapping[str, Any]]
    edges: Sequence[Mapping[str, Any]]
    groups: Sequence[Mapping[str, Any]]
    note: str | None = None

    @property
    def data(self) -> dict[str, Any]:
        """What the browser draws."""
        return {"nodes": self.nodes, "edges": self.edges, "groups": self.groups}


def progress_of(
    thread: WorkflowCheckpoint, steps: Iterable[ThreadStep], inside: Inside = _UNREAD
) -> Progress:
    """How far the nodes are in the thread's newest run.

    Args:
        thread: the thread.
        steps: its steps, newest first.
        inside: what is known of the nodes in the subgraphs that are under way.
    """
    counts: Counter[str] = Counter()
    seconds: dict[str, float] = {}
    for step in steps:
        if thread.run_id is not None and step.run_id != thread.run_id:
            break
        for node in step.nodes:
            counts[node] += 1
            if step.duration is not None:
                seconds.setdefault(node, step.duration.total_seconds())
        if thread.run_id is None and step.source == "input":
            break
    states = dict.fromkeys(counts, "done")
    state = (
        "running"
        if thread.status is ThreadStatus.RUNNING
        else "waiting"
        if thread.status in _WAITING
        else "pending"
    )
    if thread.status is not ThreadStatus.COMPLETE:
        states |= dict.fromkeys(thread.pending, state)
        states |= dict.fromkeys(inside.done, "done") | dict.fromkeys(inside.following, state)
    if thread.failed_node is not None and thread.status is not ThreadStatus.RUNNING:
        states[thread.failed_node] = "failed"
        for depth in range(2, len(thread.failed_path) + 1):
            states[_SEPARATOR.join(thread.failed_path[:depth])] = "failed"
    return Progress(states, counts, seconds)


def drawing_of(
    graph: Pregel[Any, Any, Any, Any], progress: Progress, opened: Collection[str]
) -> Drawing:
    """The drawing of a graph.

    Args:
        graph: the compiled graph.
        progress: how far its nodes are.
        opened: the subgraphs to open, such as `research` or `research:search`.

    Raises:
        Exception: what `get_graph` raises, which may call code of the application.
    """
    whole = graph.get_graph(xray=True)
    ids = {identity: _seen(identity, opened) for identity in whole.nodes}
    shown = dict.fromkeys(ids.values())
    if len(shown) > _MOST_NODES:
        return Drawing((), (), (), f"The graph has {len(shown)} nodes: too many to draw.")
    subgraphs = {
        _SEPARATOR.join(parts[:depth])
        for identity in whole.nodes
        if (parts := identity.split(_SEPARATOR))
        for depth in range(1, len(parts))
    }
    edges: dict[tuple[str, str], dict[str, Any]] = {}
    for edge in whole.edges:
        ends = (ids.get(edge.source, edge.source), ids.get(edge.target, edge.target))
        if ends[0] == ends[1] and edge.source != edge.target:
            continue  # inside of a subgraph that is one node here
        label = "" if edge.data is None else str(edge.data)
        edges.setdefault(
            ends, {"from": ends[0], "to": ends[1], "label": label, "conditional": edge.conditional}
        )
    if len(edges) > _MOST_EDGES:
        return Drawing((), (), (), f"The graph has {len(edges)} edges: too many to draw.")
    groups = sorted(subgraphs & set(opened))
    return Drawing(
        nodes=[_node(identity, progress, closed=identity in subgraphs) for identity in shown],
        edges=list(edges.values()),
        groups=[
            {"id": group, "label": _label(group), "inside": _around(group)} for group in groups
        ],
    )


def _seen(identity: str, opened: Collection[str]) -> str:
    """The node that stands for this one: itself, or the first subgraph around it that is closed."""
    parts = identity.split(_SEPARATOR)
    for depth in range(1, len(parts)):
        around = _SEPARATOR.join(parts[:depth])
        if around not in opened:
            return around
    return identity


def _node(identity: str, progress: Progress, *, closed: bool) -> dict[str, Any]:
    label = _label(identity)
    kind = "subgraph" if closed else {"__start__": "start", "__end__": "end"}.get(label, "node")
    return {
        "id": identity,
        "label": {"start": "start", "end": "end"}.get(kind, label),
        "kind": kind,
        "inside": _around(identity),
        "state": _state(identity, progress),
        "count": progress.counts.get(identity, 0),
        "seconds": progress.seconds.get(identity),
    }


def _state(identity: str, progress: Progress) -> str:
    if identity in progress.states:
        return progress.states[identity]
    # Only subgraphs under way are read: what is done around a node is done inside it.
    around = _around(identity)
    return "done" if around and progress.states.get(around) == "done" else "idle"


def _label(identity: str) -> str:
    return identity.rpartition(_SEPARATOR)[2]


def _around(identity: str) -> str:
    return identity.rpartition(_SEPARATOR)[0]
