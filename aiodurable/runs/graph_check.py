"""Whether a graph can go on with a thread that another version of it left: what the thread needs and the graph lacks.

LangGraph does not ask. A node that is gone, or a channel that no edge writes any more, ends the thread without an error,
an answer to a question whose task has another id is dropped, and a value of a class that moved comes back as a dict.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import Any

from langgraph.pregel import Pregel

from aiodurable.checkpoints.stored_step import StoredStep, StoredTask
from aiodurable.checkpoints.stored_values import ValueReader, serde_for
from aiodurable.errors import GraphChangedError
from aiodurable.runs.graphs import BoundGraph
from aiodurable.runs.renamed_nodes import with_old_names
from aiodurable.threads.task_path import caller_of, send_index

try:  # how LangGraph makes the id of a task; without it lost questions are not told
    from langgraph.pregel._algo import _xxhash_str as _task_id  # pyright: ignore[reportPrivateUsage]
except ImportError:
    _task_id = None

__all__ = ["Problem", "ProblemKind", "ended_early", "fit", "other_graph", "refuse", "undecodable"]

_AnyPregel = Pregel[Any, Any, Any, Any]
_START = "__start__"


class ProblemKind(StrEnum):
    """Why a graph cannot go on with a thread."""

    WRONG_GRAPH = "wrong graph"
    """The run was accepted for a graph of another name."""
    UNREGISTERED_GRAPH = "unregistered graph"
    """No graph of the run's name was given."""
    MISSING_NODE = "missing node"
    """A node of the step under way is gone."""
    MISSING_CHANNEL = "missing channel"
    """Nothing listens any more to the channel that starts a node, or that waits for several nodes."""
    LOST_QUESTION = "lost question"
    """A node that asked is triggered by other channels now: the answer would not reach it."""
    UNDECODABLE = "undecodable value"
    """A stored value is of a class that cannot be rebuilt."""
    UNREADABLE = "unreadable"
    """The thread itself could not be read."""


@dataclass(frozen=True, slots=True)
class Problem:
    """One thing that a thread needs and does not find.

    Attributes:
        kind: what it is.
        name: the node (after those of the graphs around it: `outer/node`), channel, graph or class.
        detail: why, and what helps, where there is more to say.
    """

    kind: ProblemKind
    name: str
    detail: str = ""

    def __str__(self) -> str:
        return f"{self.kind} {self.name}" + (f": {self.detail}" if self.detail else "")


def other_graph(graph: str | None, recorded: str | None) -> list[Problem]:
    """The problem of a run that was accepted for a graph of another name; a graph without a name may be any."""
    if graph is None or recorded is None or graph == recorded:
        return []
    detail = f"the run is of graph {recorded!r}; register the new one under both names if it takes over"
    return [Problem(ProblemKind.WRONG_GRAPH, graph, detail)]


def fit(graph: BoundGraph, step: StoredStep, inner: Sequence[StoredStep] = ()) -> tuple[BoundGraph, list[Problem]]:
    """The graph that can go on from `step`, and what keeps it from that.

    Args:
        graph: the graph that was given.
        step: the step in which the thread stands.
        inner: the steps of subgraphs that are under way in it.

    Returns:
        The graph itself; with `renamed` nodes, where the thread needs them, one that has their old names too.
    """
    steps = _by_path([step, *inner])
    problems = list(_structure(graph.pregel, steps))
    if not problems or not graph.renamed:
        return graph, problems
    pregel = with_old_names(graph.pregel, graph.renamed, steps)
    return graph.replaced_by(pregel), list(_structure(pregel, steps))


def undecodable(graph: BoundGraph, steps: Sequence[StoredStep], *, load_modules: bool) -> list[Problem]:
    """The classes in the values of these steps that this process cannot rebuild. Values that no channel reads do not count."""
    problems = dict[str, Problem]()
    for path, at in _by_path(steps).items():
        pregel = _inside(graph.pregel, path) or graph.pregel
        reader = ValueReader(serde_for(pregel, graph.saver), load_modules=load_modules)
        values = [
            (value.kind, value.blob)
            for step in at
            for value in step.values
            if value.channel in pregel.channels or value.channel.startswith("__")
        ]
        for found in reader.undecodable(values):
            problems[found.name] = Problem(ProblemKind.UNDECODABLE, found.name, found.why)
    return list(problems.values())


def refuse(thread_id: str, graph: str | None, recorded: str | None, problems: Sequence[Problem]) -> GraphChangedError:
    """The error for a thread that a graph cannot go on with."""

    def names(*kinds: ProblemKind) -> tuple[str, ...]:
        return tuple(problem.name for problem in problems if problem.kind in kinds)

    name = "the graph given" if graph is None else f"graph {graph!r}"
    return GraphChangedError(
        f"cannot go on with thread {thread_id!r}: {name} does not fit what is stored: "
        f"{'; '.join(map(str, problems))}. Nothing ran and nothing was changed. Deploy code that has what is missing, "
        "give Durable(renamed={old: new}) for nodes that have another name now, or give the work up with "
        'on_unfinished="restart"; `aiodurable check` tells this of all threads before a deploy',
        thread_id=thread_id,
        graph=graph,
        recorded=recorded,
        missing_nodes=names(ProblemKind.MISSING_NODE, ProblemKind.LOST_QUESTION),
        missing_channels=names(ProblemKind.MISSING_CHANNEL),
        undecodable=names(ProblemKind.UNDECODABLE),
    )


def ended_early(thread_id: str, graph: str | None, lacking: Sequence[str]) -> GraphChangedError:
    """The error for a run that LangGraph ended without a word, before nodes that the graph lacks."""
    return GraphChangedError(
        f"could not finish thread {thread_id!r}: the graph has no {', '.join(map(repr, lacking))}, which was to run next. "
        "Its last checkpoint stands: resume it with code that has what is missing, or give Durable(renamed={old: new})",
        thread_id=thread_id,
        graph=graph,
        recorded=graph,
        missing_nodes=lacking,
    )


def _structure(pregel: _AnyPregel, steps: Mapping[tuple[str, ...], Sequence[StoredStep]]) -> Iterator[Problem]:
    """What the steps need and the graph, or the subgraph, lacks. Subgraphs that a node calls by itself are not known."""
    found = dict[Problem, None]()
    for path, at in steps.items():
        inside = _inside(pregel, path)
        if inside is None:
            continue
        for step in at:
            found.update(dict.fromkeys(_missing(inside, "/".join(path), step)))
    yield from found


def _missing(pregel: _AnyPregel, around: str, step: StoredStep) -> Iterator[Problem]:
    def named(node: str) -> str:
        return f"{around}/{node}" if around else node

    for node in sorted(_needed(step)):
        if node not in pregel.nodes:
            yield Problem(ProblemKind.MISSING_NODE, named(node))
    for channel in step.channels:
        target = channel.rpartition(":")[2]
        missing_node = target in _needed(step) and target not in pregel.nodes
        if not missing_node and not pregel.trigger_to_nodes.get(channel) and channel != "__pregel_tasks":
            detail = "no edge of this graph writes it" if channel != _START else "it is no graph of this kind"
            yield Problem(ProblemKind.MISSING_CHANNEL, channel, detail)
    for task in step.tasks:
        if task.waiting and (node := _asker(task)) in pregel.nodes and not _keeps_its_id(pregel, step, task, node):
            detail = "other channels trigger this node now, so that an answer would not reach what it asked"
            yield Problem(ProblemKind.LOST_QUESTION, named(node), detail)


def _needed(step: StoredStep) -> set[str]:
    """The nodes of the step, finished or not: LangGraph drops what a node wrote that it does not know."""
    needed = {channel.rpartition(":")[2] for channel in step.channels}
    needed -= {_START, "__pregel_tasks"}
    needed.update(step.sends, step.commanded)
    for task in step.tasks:
        if (node := caller_of(task.path)) is not None:
            needed.add(node)
        elif (index := send_index(task.path)) is not None and index < len(step.sends):
            needed.add(step.sends[index])
    return needed


def _asker(task: StoredTask) -> str:
    """The node that a channel triggered and that asked; empty for a Send, whose id does not hang on channels, and a @task."""
    node = caller_of(task.path)
    return node if node is not None and task.path == f"~__pregel_pull, {node}" else ""


def _keeps_its_id(pregel: _AnyPregel, step: StoredStep, task: StoredTask, node: str) -> bool:
    """Whether the node's task would have the id that its question was stored under; as in langgraph `pregel/_algo.py`."""
    if _task_id is None or step.format < 2 or (step.namespace and ":" not in step.namespace.rpartition("|")[2]):
        return True
    place = f"{step.namespace}|{node}" if step.namespace else node
    checkpoint = bytes.fromhex(step.checkpoint_id.replace("-", ""))
    triggers = sorted(pregel.nodes[node].triggers)
    return _task_id(checkpoint, place, str(step.number + 1), node, "__pregel_pull", *triggers) == task.task_id


def _by_path(steps: Sequence[StoredStep]) -> dict[tuple[str, ...], list[StoredStep]]:
    """The steps by the nodes that hold their graphs."""
    found: dict[tuple[str, ...], list[StoredStep]] = {}
    for step in steps:
        parts = step.namespace.split("|") if step.namespace else []
        path = tuple(part.partition(":")[0] for part in parts if not part.partition(":")[0].isdigit())
        found.setdefault(path, []).append(step)
    return found


def _inside(pregel: _AnyPregel, path: Sequence[str]) -> _AnyPregel | None:
    """The subgraph that a node declares, and so on; None where a node calls a graph by itself, or is gone."""
    for node in path:
        declared = pregel.nodes[node].subgraphs if node in pregel.nodes else ()
        if len(declared) != 1 or not isinstance(declared[0], Pregel):
            return None
        pregel = declared[0]
    return pregel
