"""Before a resumption: read the thread's current superstep and check that the graph fits it.

The row read here is the one LangGraph would read first, and LangGraph gets it handed over, so the
check costs no extra round trip. Subgraphs are read in the same statement, if the graph has any.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from aiodurable.checkpoints.size_estimate import HEAVY_BYTES
from aiodurable.checkpoints.stored_step import StoredStep
from aiodurable.checkpoints.stored_values import ValueReader
from aiodurable.models import WorkflowCheckpoint
from aiodurable.runs.accepted import Accepted, Needed
from aiodurable.runs.graph_check import Problem, ProblemKind, fit, other_graph, refuse, undecodable
from aiodurable.runs.graphs import BoundGraph
from aiodurable.runs.lease import ThreadLease
from aiodurable.runs.services import Services

__all__ = ["accepted_problems", "fitted"]


async def fitted(
    services: Services,
    lease: ThreadLease,
    graph: BoundGraph,
    thread: WorkflowCheckpoint,
    accepted: Accepted | None,
) -> BoundGraph:
    """The graph to resume with: the caller's, or a copy that also has the old names of renamed
    nodes.

    Args:
        services: the open services.
        lease: the thread's lease.
        graph: the caller's graph.
        thread: the thread's status.
        accepted: the run to resume. A run without a checkpoint of its own starts from its input, so
            earlier checkpoints do not matter.

    Raises:
        GraphChangedError: the graph does not fit; nothing was changed.
    """
    problems = other_graph(graph.name, thread.graph)
    if accepted is not None:
        problems += accepted_problems(graph, accepted.needed)
    fitting = graph
    if not problems and (accepted is None or accepted.consumed):
        saver = services.checkpoints.get_checkpointer()
        rows = await saver.rows.steps(lease.session, inner=graph.has_subgraphs)
        size = sum(len(value[2] or b"") for row in rows for value in row["channel_values"] or ())
        if size > HEAVY_BYTES:
            fitting, problems = await saver.in_a_thread(_of_rows, graph, rows)
        else:
            fitting, problems = _of_rows(graph, rows)
    if problems:
        lease.session.forget_rows()
        raise refuse(lease.thread_id, graph.name, thread.graph, problems)
    return fitting


def accepted_problems(
    graph: BoundGraph, run: Needed, *, load_modules: bool = True
) -> list[Problem]:
    """The problems of reading the input and context that a run was accepted with."""
    values = [(kind, blob) for kind, blob in run.values if kind is not None]
    if not values:
        return []
    found = ValueReader(graph.ledger_serde, load_modules=load_modules).undecodable(values)
    return [Problem(ProblemKind.UNDECODABLE, value.name, value.why) for value in found]


def _of_rows(graph: BoundGraph, rows: Sequence[Any]) -> tuple[BoundGraph, list[Problem]]:
    if not rows:
        return graph, []
    reader = ValueReader(graph.serde, load_modules=True)
    step, *inner = (StoredStep.of(row, reader) for row in rows)
    fitting, problems = fit(graph, step, inner)
    return fitting, [*problems, *undecodable(fitting, [step, *inner], load_modules=True)]
