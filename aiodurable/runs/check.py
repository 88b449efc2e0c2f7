"""`Threads.check`: which unfinished threads the given graphs could not resume. Nothing runs.

Pages through threads like a search, and reads of each what a resumption would read first, with a
reader that constructs no object: neither a node's code nor a stored class's code is called.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

from aiodurable.checkpoints.saver import DurableSaver
from aiodurable.checkpoints.stored_step import StoredStep
from aiodurable.checkpoints.stored_values import ValueReader
from aiodurable.errors import GraphNotRegisteredError
from aiodurable.models import ThreadStatus
from aiodurable.runs.accepted import Needed
from aiodurable.runs.graph_check import Problem, ProblemKind, fit, undecodable
from aiodurable.runs.graph_fit import accepted_problems
from aiodurable.runs.graphs import BoundGraph, Graphs
from aiodurable.runs.services import Services
from aiodurable.threads import Filter, Standing, ThreadFilters

__all__ = ["ThreadCheck", "check"]

_UNFINISHED = tuple(
    status for status in ThreadStatus if status not in (ThreadStatus.NEW, ThreadStatus.COMPLETE)
)
_AT_ONCE = 500
_BYTES_AT_ONCE = 8 << 20
"""Bytes of values per batch. Two batches are in memory: one is read while the other is checked."""


@dataclass(frozen=True, slots=True)
class ThreadCheck:
    """Whether the given graphs could resume one unfinished thread.

    Attributes:
        thread_id: the thread.
        status: its status.
        graph: the name of its graph, if recorded.
        problems: why its graph could not resume it; empty: it could.
    """

    thread_id: str
    status: ThreadStatus
    graph: str | None
    problems: tuple[Problem, ...]


async def check(
    services: Services,
    *,
    default: BoundGraph | None,
    after: str | None,
    limit: int | None,
    filters: ThreadFilters,
) -> AsyncIterator[ThreadCheck]:
    """See `Threads.check`."""
    graphs = services.graphs
    saver = services.checkpoints.get_checkpointer()
    inner = any(
        graph.has_subgraphs
        for graph in (*graphs.registered, *([] if default is None else [default]))
    )
    wanted: ThreadFilters = {**filters, "status": filters.get("status") or _UNFINISHED}
    batches = _batches(
        saver, services.threads.search.standing(Filter.of(**wanted), after=after, limit=limit)
    )
    batch = await _next(batches)
    stored = _Stored([], {}, {})
    while batch or stored.threads:
        try:
            async with asyncio.TaskGroup() as group:
                checking = group.create_task(saver.in_a_thread(_checked, graphs, default, stored))
                reading = group.create_task(_read(services, batch, inner=inner))
                searching = group.create_task(_next(batches))
        except ExceptionGroup as errors:
            first = errors.exceptions[0]
            raise first from first.__cause__
        stored, batch = reading.result(), searching.result()
        for thread in checking.result():
            yield thread


class _Stored(NamedTuple):
    """A batch of threads with their newest runs and the rows of their current supersteps."""

    threads: Sequence[Standing]
    runs: Mapping[str, Needed]
    rows: Mapping[str, Sequence[Any]]


async def _batches(
    saver: DurableSaver, threads: AsyncIterator[list[Standing]]
) -> AsyncIterator[list[Standing]]:
    """Batches bounded by count and by bytes; one thread at least."""
    batch: list[Standing] = []
    held = 0
    async for some in threads:
        sizes = await saver.rows.sizes([thread.thread_id for thread in some])
        for thread in some:
            size = sizes.get(thread.thread_id, 0)
            if batch and (len(batch) == _AT_ONCE or held + size > _BYTES_AT_ONCE):
                yield batch
                batch, held = [], 0
            batch.append(thread)
            held += size
    yield batch


async def _next(batches: AsyncIterator[list[Standing]]) -> list[Standing]:
    return await anext(batches, [])


async def _read(services: Services, threads: Sequence[Standing], *, inner: bool) -> _Stored:
    ids = [thread.thread_id for thread in threads]
    if not ids:
        return _Stored([], {}, {})
    runs = await services.ledger.newest_of(ids)
    return _Stored(
        threads, runs, await services.checkpoints.get_checkpointer().rows.steps_of(ids, inner=inner)
    )


def _checked(graphs: Graphs, default: BoundGraph | None, stored: _Stored) -> list[ThreadCheck]:
    found: list[ThreadCheck] = []
    for thread in stored.threads:
        run, rows = stored.runs.get(thread.thread_id), stored.rows[thread.thread_id]
        try:
            problems = _problems(graphs, default, thread, run, rows)
        except Exception as error:
            # rows that LangGraph did not write: one thread must not hide others
            problems = [Problem(ProblemKind.UNREADABLE, thread.thread_id, type(error).__name__)]
        found.append(ThreadCheck(thread.thread_id, thread.status, thread.graph, tuple(problems)))
    return found


def _problems(
    graphs: Graphs,
    default: BoundGraph | None,
    thread: Standing,
    run: Needed | None,
    rows: Sequence[Any],
) -> list[Problem]:
    """Like `graph_fit.fitted`, for rows already read, and without importing modules."""
    if thread.graph is None and default is None:
        return [
            Problem(
                ProblemKind.UNREGISTERED_GRAPH,
                "(not recorded)",
                "pass the graph of such threads as the default",
            )
        ]
    try:
        graph = default if thread.graph is None else graphs.bind(thread.graph)
    except GraphNotRegisteredError:
        return [
            Problem(
                ProblemKind.UNREGISTERED_GRAPH, str(thread.graph), "no graph of this name was given"
            )
        ]
    assert graph is not None, "a graph was found or given"
    adopted = run is None or run.complete
    problems = [] if run is None or adopted else accepted_problems(graph, run, load_modules=False)
    if rows and (run is None or adopted or run.consumed):
        reader = ValueReader(graph.serde, load_modules=False)
        step, *inner = (StoredStep.of(row, reader) for row in rows)
        fitting, lacking = fit(graph, step, inner)
        problems += [*lacking, *undecodable(fitting, [step, *inner], load_modules=False)]
    return problems
