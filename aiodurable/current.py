"""The verbs of `Durable` as functions: through the one given, one opened on `dsn` for the call, or the current one."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any, Unpack

from aiodurable.durable import Durable, opened
from aiodurable.models import WorkflowCheckpoint
from aiodurable.runs.graphs import Graph
from aiodurable.runs.run import DurableRun
from aiodurable.threads import Pruned, ThreadFilters, ThreadStep

__all__ = [
    "cancel",
    "delete",
    "durable_run",
    "find_failed_workflows",
    "find_workflows",
    "fork",
    "get_checkpoint_status",
    "history",
    "needs_resume",
    "prune",
    "resume_workflow",
    "retry",
]


async def delete(thread_id: str, *, durable: Durable | None = None, dsn: str | None = None, **options: Any) -> bool:
    """`Durable.delete` through the given, the current, or an own `Durable`."""
    async with opened(durable, dsn) as d:
        return await d.delete(thread_id, **options)


@asynccontextmanager
async def durable_run(
    thread_id: str, graph: Graph, *, durable: Durable | None = None, dsn: str | None = None, **options: Any
) -> AsyncIterator[DurableRun]:
    """`Durable.run` through the given, the current, or an own `Durable`.

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
    **options: Any,
) -> Any:
    """`Durable.resume_workflow` through the given, the current, or an own `Durable`."""
    async with opened(durable, dsn) as d:
        return await d.resume_workflow(thread_id, graph, **options)


async def retry(
    thread_id: str,
    graph: Graph | None = None,
    *,
    durable: Durable | None = None,
    dsn: str | None = None,
    **options: Any,
) -> Any:
    """`Durable.retry` through the given, the current, or an own `Durable`."""
    async with opened(durable, dsn) as d:
        return await d.retry(thread_id, graph, **options)


async def cancel(thread_id: str, *, durable: Durable | None = None, dsn: str | None = None, **options: Any) -> bool:
    """`Durable.cancel` through the given, the current, or an own `Durable`."""
    async with opened(durable, dsn) as d:
        return await d.cancel(thread_id, **options)


async def fork(
    thread_id: str,
    new_thread_id: str | None = None,
    *,
    durable: Durable | None = None,
    dsn: str | None = None,
    **options: Any,
) -> WorkflowCheckpoint:
    """`Durable.fork` through the given, the current, or an own `Durable`."""
    async with opened(durable, dsn) as d:
        return await d.fork(thread_id, new_thread_id, **options)


async def get_checkpoint_status(
    thread_id: str, *, durable: Durable | None = None, dsn: str | None = None
) -> WorkflowCheckpoint:
    """`Durable.get_checkpoint_status` through the given, the current, or an own `Durable`."""
    async with opened(durable, dsn) as d:
        return await d.get_checkpoint_status(thread_id)


async def needs_resume(thread_id: str, *, durable: Durable | None = None, dsn: str | None = None) -> bool:
    """`Durable.needs_resume` through the given, the current, or an own `Durable`."""
    async with opened(durable, dsn) as d:
        return await d.needs_resume(thread_id)


async def find_workflows(
    *,
    durable: Durable | None = None,
    dsn: str | None = None,
    after: str | None = None,
    limit: int | None = None,
    **filters: Unpack[ThreadFilters],
) -> AsyncIterator[WorkflowCheckpoint]:
    """`Durable.find_workflows` through the given, the current, or an own `Durable`."""
    async with opened(durable, dsn) as d:
        async for found in d.find_workflows(after=after, limit=limit, **filters):
            yield found


async def find_failed_workflows(
    *,
    durable: Durable | None = None,
    dsn: str | None = None,
    after: str | None = None,
    limit: int | None = None,
    **filters: Unpack[ThreadFilters],
) -> AsyncIterator[WorkflowCheckpoint]:
    """`Durable.find_failed_workflows` through the given, the current, or an own `Durable`."""
    async with opened(durable, dsn) as d:
        async for found in d.find_failed_workflows(after=after, limit=limit, **filters):
            yield found


async def history(
    thread_id: str, *, durable: Durable | None = None, dsn: str | None = None, **options: Any
) -> AsyncIterator[ThreadStep]:
    """`Durable.history` through the given, the current, or an own `Durable`."""
    async with opened(durable, dsn) as d:
        async for step in d.history(thread_id, **options):
            yield step


async def prune(*, durable: Durable | None = None, dsn: str | None = None, **options: Any) -> Pruned:
    """`Durable.prune` through the given, the current, or an own `Durable`."""
    async with opened(durable, dsn) as d:
        return await d.prune(**options)
