"""What the graphs given here would do with the unfinished threads there are: read before a deploy, and nothing is run.

Threads are gone through as in a search, a step at a time. Of each, what a call would read before it went on is read, with
a reader that builds no object: neither the code of a node nor that of a stored class is called.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from aiodurable.checkpoints.stored_step import StoredStep
from aiodurable.checkpoints.stored_values import Inert, ValueReader
from aiodurable.errors import GraphNotRegisteredError
from aiodurable.model import ThreadStatus, WorkflowCheckpoint
from aiodurable.runs.fitting import accepted_problems
from aiodurable.runs.graph_check import Problem, ProblemKind, fit, undecodable
from aiodurable.runs.graphs import BoundGraph, Graphs
from aiodurable.runs.ledger import Needed
from aiodurable.runs.rooms import Rooms
from aiodurable.threads import ThreadFilters

__all__ = ["ThreadCheck", "check"]

_UNFINISHED = tuple(status for status in ThreadStatus if status not in (ThreadStatus.NEW, ThreadStatus.COMPLETE))
_AT_ONCE = 1000
_BYTES_AT_ONCE = 16 << 20


@dataclass(frozen=True, slots=True)
class ThreadCheck:
    """What the given graphs would do with one unfinished thread.

    Attributes:
        thread_id: the thread.
        status: how it stands.
        graph: the name of its graph, where that is recorded.
        problems: what keeps its graph from going on with it; none: it would go on.
    """

    thread_id: str
    status: ThreadStatus
    graph: str | None
    problems: tuple[Problem, ...]


async def check(
    rooms: Rooms,
    graphs: Graphs,
    *,
    default: BoundGraph | None,
    after: str | None,
    limit: int | None,
    filters: ThreadFilters,
) -> AsyncIterator[ThreadCheck]:
    """See `Durable.check`."""
    saver = rooms.checkpoints.get_checkpointer()
    wanted: ThreadFilters = {**filters, "status": filters.get("status") or _UNFINISHED}
    threads = rooms.threads.reading_with(Inert(saver.serde))
    batches = _batches(threads.find(after=after, limit=limit, **wanted))
    batch = await _next(batches)
    while batch:
        # Postgres looks for the next threads while these are read.
        checked, batch = await asyncio.gather(_checked(rooms, graphs, default, batch), _next(batches))
        for thread in checked:
            yield thread


async def _batches(threads: AsyncIterator[WorkflowCheckpoint]) -> AsyncIterator[list[WorkflowCheckpoint]]:
    batch: list[WorkflowCheckpoint] = []
    async for thread in threads:
        batch.append(thread)
        if len(batch) == _AT_ONCE:
            yield batch
            batch = []
    yield batch


async def _next(batches: AsyncIterator[list[WorkflowCheckpoint]]) -> list[WorkflowCheckpoint]:
    return await anext(batches, [])


async def _checked(
    rooms: Rooms, graphs: Graphs, default: BoundGraph | None, threads: Sequence[WorkflowCheckpoint]
) -> list[ThreadCheck]:
    saver = rooms.checkpoints.get_checkpointer()
    ids = [thread.thread_id for thread in threads]
    runs = await rooms.ledger.newest_of(ids)
    inner = any(graph.has_subgraphs for graph in (*graphs.registered, *([] if default is None else [default])))
    found: dict[str, list[Problem]] = {}
    async for rows in saver.steps_of(ids, inner=inner, most=_BYTES_AT_ONCE):
        found |= await saver.in_a_thread(_problems_of_all, graphs, default, threads, runs, rows)
    return [
        ThreadCheck(thread.thread_id, thread.status, thread.graph, tuple(found[thread.thread_id])) for thread in threads
    ]


def _problems_of_all(
    graphs: Graphs,
    default: BoundGraph | None,
    threads: Sequence[WorkflowCheckpoint],
    runs: Mapping[str, Needed],
    rows: Mapping[str, Sequence[Any]],
) -> dict[str, list[Problem]]:
    found: dict[str, list[Problem]] = {}
    for thread in threads:
        if thread.thread_id in rows:
            try:
                of_thread = _problems(graphs, default, thread, runs.get(thread.thread_id), rows[thread.thread_id])
            except Exception as error:  # rows that no LangGraph wrote: one thread must not hide the others
                of_thread = [Problem(ProblemKind.UNREADABLE, thread.thread_id, type(error).__name__)]
            found[thread.thread_id] = of_thread
    return found


def _problems(
    graphs: Graphs,
    default: BoundGraph | None,
    thread: WorkflowCheckpoint,
    run: Needed | None,
    rows: Sequence[Any],
) -> list[Problem]:
    """As `fitted` in fitting.py, of rows that are there, and importing nothing."""
    if thread.graph is None and default is None:
        return [Problem(ProblemKind.UNREGISTERED_GRAPH, "(not recorded)", "say which graph such threads have")]
    try:
        graph = default if thread.graph is None else graphs.bind(thread.graph)
    except GraphNotRegisteredError:
        return [Problem(ProblemKind.UNREGISTERED_GRAPH, str(thread.graph), "no graph of this name was given")]
    assert graph is not None, "one of the two is there"
    adopted = run is None or run.complete
    problems = [] if run is None or adopted else accepted_problems(graph, run, load_modules=False)
    if rows and (run is None or adopted or run.consumed):
        reader = ValueReader(graph.serde, load_modules=False)
        step, *inner = (StoredStep.of(row, reader) for row in rows)
        fitting, lacking = fit(graph, step, inner)
        problems += [*lacking, *undecodable(fitting, [step, *inner], load_modules=False)]
    return problems
