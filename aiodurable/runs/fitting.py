"""Before a thread is gone on with: read the step it stands in, and see that the graph fits it.

The row that is read is the one LangGraph would read first, and is handed to it: a resumption asks Postgres no more often
than without. Only a graph with subgraphs has theirs read too, at the same time.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from langgraph.types import Command

from aiodurable.checkpoints.stored_step import StoredStep
from aiodurable.checkpoints.stored_values import ValueReader
from aiodurable.checkpoints.weight import HEAVY_BYTES
from aiodurable.model import WorkflowCheckpoint
from aiodurable.runs.graph_check import Problem, ProblemKind, fit, other_graph, refuse, undecodable
from aiodurable.runs.graphs import BoundGraph
from aiodurable.runs.guard import ThreadLease
from aiodurable.runs.rooms import Rooms

__all__ = ["fitted", "needs_of_input"]


async def fitted(
    rooms: Rooms, lease: ThreadLease, graph: BoundGraph, thread: WorkflowCheckpoint, *, fresh: Any
) -> BoundGraph:
    """The graph to go on with: the one given, or one that knows renamed nodes by their old names too.

    Args:
        rooms: where the thread is.
        lease: of the thread.
        graph: the graph that was given.
        thread: how the thread stands.
        fresh: the input that its run begins with, whatever lies before; None: it goes on from a checkpoint.

    Raises:
        GraphChangedError: the graph does not fit; nothing was changed.
    """
    problems = other_graph(graph.name, thread.graph)
    fitting = graph
    if not problems and fresh is not None:
        problems = needs_of_input(graph, fresh)
    elif not problems:
        saver = rooms.checkpoints.get_checkpointer()
        rows = await saver.steps(lease.fence, inner=any(node.subgraphs for node in graph.pregel.nodes.values()))
        size = sum(len(value[2] or b"") for row in rows for value in row["channel_values"] or ())
        if size > HEAVY_BYTES:
            fitting, problems = await saver.in_a_thread(_of_rows, graph, rows)
        else:
            fitting, problems = _of_rows(graph, rows)
    if problems:
        lease.fence.head = None
        raise refuse(lease.thread_id, graph.name, thread.graph, problems)
    return fitting


def needs_of_input(graph: BoundGraph, input: Any) -> list[Problem]:
    """The nodes that a stored `Command(goto=…)` goes to and that the graph lacks."""
    if not isinstance(input, Command):
        return []
    goto = input.goto if isinstance(input.goto, Sequence) and not isinstance(input.goto, str) else [input.goto]
    nodes = {str(getattr(target, "node", target)) for target in goto if target}
    known = {*graph.pregel.nodes, "__end__", *graph.renamed}
    return [Problem(ProblemKind.MISSING_NODE, node) for node in sorted(nodes - known)]


def _of_rows(graph: BoundGraph, rows: Sequence[Any]) -> tuple[BoundGraph, list[Problem]]:
    if not rows:
        return graph, []
    reader = ValueReader(graph.serde, load_modules=True)
    step, *inner = (StoredStep.of(row, reader) for row in rows)
    fitting, problems = fit(graph, step, inner)
    return fitting, [*problems, *undecodable(fitting, [step, *inner], load_modules=True)]
