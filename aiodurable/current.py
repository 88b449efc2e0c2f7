"""The current `Durable`, and the functions that use it.

Each function works through the `durable` that it is given; else through one that it opens on `dsn`
for the call, which becomes nobody else's; else through the current one.
"""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from typing import Any, Unpack, overload

from langgraph.graph import StateGraph
from langgraph.pregel import Pregel

from aiodurable.durable import Durable
from aiodurable.models import WorkflowCheckpoint
from aiodurable.runs.call_types import ContextT, InputT, OutputT, ResumeOptions, RunOptions
from aiodurable.runs.durable_run import DurableRun
from aiodurable.runs.graphs import Graph
from aiodurable.threads import ThreadFilters
from aiodurable.which_durable import current, no_durable, opened

__all__ = [
    "current_durable",
    "durable_run",
    "find_failed_workflows",
    "find_workflows",
    "get_checkpoint_status",
    "needs_resume",
    "resume_workflow",
]


def current_durable() -> Durable:
    """The `Durable` whose `async with` this task was started in, else the installed one.

    Raises:
        ConfigurationError: there is neither.
        ClosedError: it is closed, or open in another event loop.
    """
    found = current()
    if found is None:
        raise no_durable()
    return found


@overload
def durable_run(
    thread_id: str,
    graph: StateGraph[Any, ContextT, InputT, OutputT] | Pregel[Any, ContextT, InputT, OutputT],
    *,
    durable: Durable | None = None,
    dsn: str | None = None,
    context: ContextT | None = None,
    **options: Unpack[RunOptions],
) -> AbstractAsyncContextManager[DurableRun[InputT, OutputT, ContextT]]: ...
@overload
def durable_run(
    thread_id: str,
    graph: str,
    *,
    durable: Durable | None = None,
    dsn: str | None = None,
    context: Any = None,
    **options: Unpack[RunOptions],
) -> AbstractAsyncContextManager[DurableRun[Any, Any, Any]]: ...
@asynccontextmanager
async def durable_run(
    thread_id: str,
    graph: Graph,
    *,
    durable: Durable | None = None,
    dsn: str | None = None,
    **options: Any,
) -> AsyncIterator[DurableRun[Any, Any, Any]]:
    """Hold a thread and run it; see `Durable.run`.

    Args:
        thread_id: the thread.
        graph: a registered name, a `StateGraph`, a compiled graph, or an `@entrypoint`.
        durable: which `Durable`; None: one on `dsn`, else the current one.
        dsn: where Postgres is, to open a `Durable` for this run alone.
        options: as for `Durable.run`.
    """
    async with opened(durable, dsn) as d, d.run(thread_id, graph, **options) as durable_run:
        yield durable_run


async def resume_workflow(
    thread_id: str,
    graph: Graph | None = None,
    *,
    durable: Durable | None = None,
    dsn: str | None = None,
    **options: Unpack[ResumeOptions],
) -> Any:
    """Go on with an unfinished thread and return its result; see `Threads.resume`."""
    async with opened(durable, dsn) as d:
        return await d.threads.resume(thread_id, graph, **options)


async def get_checkpoint_status(
    thread_id: str, *, durable: Durable | None = None, dsn: str | None = None
) -> WorkflowCheckpoint:
    """The status of a thread; `new` if it has no checkpoint and no run; see `Threads.status`."""
    async with opened(durable, dsn) as d:
        return await d.threads.status(thread_id)


async def needs_resume(
    thread_id: str, *, durable: Durable | None = None, dsn: str | None = None
) -> bool:
    """Whether work is left that may go on without a person; see `WorkflowCheckpoint.resumable`."""
    return (await get_checkpoint_status(thread_id, durable=durable, dsn=dsn)).resumable


async def find_workflows(
    *,
    durable: Durable | None = None,
    dsn: str | None = None,
    after: str | None = None,
    limit: int | None = None,
    **filters: Unpack[ThreadFilters],
) -> AsyncIterator[WorkflowCheckpoint]:
    """The threads that pass every filter; see `Threads.search`."""
    async with opened(durable, dsn) as d:
        async for found in d.threads.search(after=after, limit=limit, **filters):
            yield found


async def find_failed_workflows(
    *,
    durable: Durable | None = None,
    dsn: str | None = None,
    after: str | None = None,
    limit: int | None = None,
    **filters: Unpack[ThreadFilters],
) -> AsyncIterator[WorkflowCheckpoint]:
    """The threads that may go on without a person; see `Threads.resumable`."""
    async with opened(durable, dsn) as d:
        async for found in d.threads.resumable(after=after, limit=limit, **filters):
            yield found
