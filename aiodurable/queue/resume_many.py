"""Resume many threads in this process, also those that only plain LangGraph has written."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Mapping
from dataclasses import dataclass, field

from aiodurable.models import WorkflowCheckpoint
from aiodurable.runs.graphs import Graph
from aiodurable.runs.threads import Threads

__all__ = ["ResumeReport", "resume_many"]


@dataclass(frozen=True, slots=True)
class ResumeReport:
    """What became of the threads that `resume_many` found.

    Attributes:
        resumed: those that went on without an error, or would go on, by thread_id.
        failed: those that did not, and why.
    """

    resumed: tuple[str, ...] = ()
    failed: Mapping[str, Exception] = field(default_factory=dict[str, Exception])


async def resume_many(
    threads: Threads,
    found: AsyncIterator[WorkflowCheckpoint],
    graph: Graph | None,
    *,
    concurrency: int,
    dry_run: bool,
    progress: Callable[[int, int], None] | None = None,
) -> ResumeReport:
    """See `Runs.resume_many`."""
    resumed, failed = list[str](), dict[str, Exception]()
    if dry_run:
        return ResumeReport(tuple([thread.thread_id async for thread in found]))
    free = asyncio.Semaphore(concurrency)

    async def resume(thread_id: str, known: str | None) -> None:
        try:
            await threads.resume(thread_id, None if known is not None else graph)
        except Exception as error:  # of one thread: the others go on
            failed[thread_id] = error
        else:
            resumed.append(thread_id)
        finally:
            free.release()
            if progress is not None:
                progress(len(resumed), len(failed))

    async with asyncio.TaskGroup() as group:
        async for thread in found:
            await free.acquire()
            group.create_task(resume(thread.thread_id, thread.graph))
    return ResumeReport(tuple(sorted(resumed)), failed)
