"""Check whether a graph can resume a thread that another version of the graph left.

LangGraph does not check. If a node is gone, or no edge writes a channel any more, the thread ends
without an error; an answer whose task has another id is dropped; a value of a class that moved
comes back as a dict.
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
from aiodurable.threads.subgraph_namespace import nodes_in
from aiodurable.threads.task_path import caller_of, send_index

try:  # how LangGraph derives a task id; without it lost questions are not reported
    from langgraph.pregel._algo import (
        _xxhash_str as _task_id,  # pyright: ignore[reportPrivateUsage]
    )
except ImportError:
    _task_id = None

__all__ = ["Problem", "ProblemKind", "ended_early", "fit", "other_graph", "refuse", "undecodable"]

_AnyPregel = Pregel[Any, Any, Any, Any]
_START = "__start__"


class ProblemKind(StrEnum):
    """Why a graph cannot resume a thread."""

    WRONG_GRAPH = "wrong graph"
    """The run was accepted for a graph of another name."""
    UNREGISTERED_GRAPH = "unregistered graph"
    """No graph is registered under the run's graph name."""
    MISSING_NODE = "missing node"
    """A node of the current superstep is gone."""
    MISSING_CHANNEL = "missing channel"
    """No node subscribes any more to a channel that triggers a node or joins several."""
    LOST_QUESTION = "lost question"
    """Other channels trigger the interrupted node now, so an answer would not reach it."""
    UNDECODABLE = "undecodable value"
    """A stored value has a class that this process cannot rebuild."""
    UNREADABLE = "unreadable"
    """The thread's rows cannot be read."""


@dataclass(frozen=True, slots=True)
class Problem:
    """One thing that a thread needs and the graph does not have.

    Attributes:
        kind: the kind of problem.
        name: the node (`outer/node` inside a subgraph), channel, graph or class.
        detail: why, and what helps; may be empty.
    """

    kind: ProblemKind
    name: str
    detail: str = ""

    def __str__(self) -> str:
        return f"{self.kind} {self.name}" + (f": {self.detail}" if self.detail else "")


def other_graph(graph: str | None, recorded: str | None) -> list[Problem]:
    """The problem of a run that was accepted for another graph. An unnamed graph matches any."""
    if graph is None or recorded is None or graph == recorded:
        return []
    detail = (
        f"the run is of graph {recorded!r}; register the new one under both names if it takes over"
    )
    return [Problem(ProblemKind.WRONG_GRAPH, graph, detail)]


def fit(
    graph: BoundGraph, step: StoredStep, inner: Sequence[StoredStep] = ()
) -> tuple[BoundGraph, list[Problem]]:
    """Find a graph that can resume from `step`, and the problems that remain.

    Args:
        graph: the caller's graph.
        step: the thread's current superstep.
        inner: the current supersteps of its running subgraphs.

    Returns:
        The graph, or a copy that also has the old names of renamed nodes where the thread needs
        them; and the problems, empty if it can resume.
    """
    steps = _by_path([step, *inner])
    problems = list(_structure(graph.pregel, steps))
    if not problems or not graph.renamed:
        return graph, problems
    pregel = with_old_names(graph.pregel, graph.renamed, steps)
    return graph.replaced_by(pregel), list(_structure(pregel, steps))


def undecodable(
    graph: BoundGraph, steps: Sequence[StoredStep], *, load_modules: bool
) -> list[Problem]:
    """The classes in these steps that this process cannot rebuild; values that no channel reads are
    skipped.
    """
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


def refuse(
    thread_id: str, graph: str | None, recorded: str | None, problems: Sequence[Problem]
) -> GraphChangedError:
    """The error for a thread that the graph cannot resume."""

    def names(*kinds: ProblemKind) -> tuple[str, ...]:
        return tuple(problem.name for problem in problems if problem.kind in kinds)

    name = "the graph given" if graph is None else f"graph {graph!r}"
    return GraphChangedError(
        f"cannot resume thread {thread_id!r}: {name} does not fit what is stored:"
        f" {'; '.join(map(str, problems))}. Nothing ran and nothing was changed. Deploy code that"
        " has what is missing, or pass Durable(renamed={old: new}) for renamed nodes; `aiodurable"
        ' check` finds such threads before a deploy, on_unfinished="restart" with an input gives'
        " the work up",
        thread_id=thread_id,
        graph=graph,
        recorded=recorded,
        missing_nodes=names(ProblemKind.MISSING_NODE, ProblemKind.LOST_QUESTION),
        missing_channels=names(ProblemKind.MISSING_CHANNEL),
        undecodable=names(ProblemKind.UNDECODABLE),
    )


def ended_early(thread_id: str, graph: str | None, lacking: Sequence[str]) -> GraphChangedError:
    """The error for a run that LangGraph ended silently before nodes that the graph does not
    have.
    """
    return GraphChangedError(
        f"cannot finish thread {thread_id!r}: the graph has no {', '.join(map(repr, lacking))},"
        " which should run next. Its last checkpoint is kept: resume it with code that has what is"
        " missing, or pass Durable(renamed={old: new})",
        thread_id=thread_id,
        graph=graph,
        recorded=graph,
        missing_nodes=lacking,
    )


def _structure(
    pregel: _AnyPregel, steps: Mapping[tuple[str, ...], Sequence[StoredStep]]
) -> Iterator[Problem]:
    """What the steps need and the graph or subgraph lacks. Subgraphs that a node calls itself are
    invisible.
    """
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
        if (
            not missing_node
            and not pregel.trigger_to_nodes.get(channel)
            and channel != "__pregel_tasks"
        ):
            detail = (
                "no edge of this graph writes it"
                if channel != _START
                else "it is no graph of this kind"
            )
            yield Problem(ProblemKind.MISSING_CHANNEL, channel, detail)
    for task in step.tasks:
        if (
            task.waiting
            and (node := _asker(task)) in pregel.nodes
            and not _keeps_its_id(pregel, step, task, node)
        ):
            detail = (
                "other channels trigger this node now, so that an answer would not reach what it"
                " asked"
            )
            yield Problem(ProblemKind.LOST_QUESTION, named(node), detail)


def _needed(step: StoredStep) -> set[str]:
    """The nodes of the step, finished or not: LangGraph drops the writes of a node it does not
    know.
    """
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
    """The interrupted node that a channel triggered; empty for a Send or a @task, whose ids do not
    depend on channels.
    """
    node = caller_of(task.path)
    return node if node is not None and task.path == f"~__pregel_pull, {node}" else ""


def _keeps_its_id(pregel: _AnyPregel, step: StoredStep, task: StoredTask, node: str) -> bool:
    """Whether the node's task keeps the id of its stored interrupt (langgraph
    `pregel/_algo.py`).
    """
    if (
        _task_id is None
        or step.format < 2
        or (step.namespace and ":" not in step.namespace.rpartition("|")[2])
    ):
        return True
    place = f"{step.namespace}|{node}" if step.namespace else node
    checkpoint = bytes.fromhex(step.checkpoint_id.replace("-", ""))
    triggers = sorted(pregel.nodes[node].triggers)
    return (
        _task_id(checkpoint, place, str(step.number + 1), node, "__pregel_pull", *triggers)
        == task.task_id
    )


def _by_path(steps: Sequence[StoredStep]) -> dict[tuple[str, ...], list[StoredStep]]:
    """The steps, grouped by the path of nodes that contain their graph."""
    found: dict[tuple[str, ...], list[StoredStep]] = {}
    for step in steps:
        found.setdefault(nodes_in(step.namespace), []).append(step)
    return found


def _inside(pregel: _AnyPregel, path: Sequence[str]) -> _AnyPregel | None:
    """The declared subgraph at `path`; None where a node calls a graph itself, or is gone."""
    for depth, node in enumerate(path):
        if depth and node.isdigit() and node not in pregel.nodes:
            continue  # the number of a call, of a subgraph with a memory
        declared = pregel.nodes[node].subgraphs if node in pregel.nodes else ()
        if len(declared) != 1 or not isinstance(declared[0], Pregel):
            return None
        pregel = declared[0]
    return pregel
