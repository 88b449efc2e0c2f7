"""A durable run: acquire the lease, read the thread's status, start or resume it, record how it
ended, release the lease.
"""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from typing import Any

from langchain_core.runnables import RunnableConfig

from aiodurable.errors import AiodurableError
from aiodurable.models import ThreadStatus, WorkflowCheckpoint
from aiodurable.postgres.errors import DRIVER_FAILURES
from aiodurable.runs.acquire import acquire_lease
from aiodurable.runs.busy import INTERRUPTING, OnBusy
from aiodurable.runs.durable_run import DurableRun
from aiodurable.runs.ending import DecideEnding
from aiodurable.runs.graphs import BoundGraph
from aiodurable.runs.held_thread import status_under
from aiodurable.runs.run_config import check_call, named_run, new_run_id, usable
from aiodurable.runs.services import Services

__all__ = ["run"]


@asynccontextmanager
async def run(
    services: Services,
    thread_id: str,
    graph: BoundGraph,
    *,
    run_id: str | None = None,
    on_busy: OnBusy = "reject",
    timeout: float | None = None,
    config: RunnableConfig | None = None,
    context: Any = None,
    decide_ending: DecideEnding | None = None,
    claim: str | None = None,
) -> AsyncIterator[DurableRun[Any, Any, Any]]:
    """Hold the thread for the body, and give it a `DurableRun` to start or resume it with. See
    `Durable.run`.
    """
    run_id = named_run(run_id, config, thread_id)
    config = usable(config, thread_id)
    check_call(graph.pregel, (), context, thread_id)
    fresh_id = new_run_id()
    try:
        async with acquire_lease(
            services, thread_id, on_busy=on_busy, timeout=timeout, run_id=run_id or fresh_id
        ) as lease:
            if lease.first:  # a first token proves that it never ran
                found = WorkflowCheckpoint(lease.thread_id, ThreadStatus.NEW)
            elif lease.waits and claim is not None:  # nothing but the run that is to begin
                found = WorkflowCheckpoint(lease.thread_id, ThreadStatus.QUEUED)
            else:
                found = await status_under(services, lease)
            durable_run: DurableRun[Any, Any, Any] = DurableRun(
                *(services, graph, lease, found),
                run_id=run_id,
                fresh_id=fresh_id,
                config=config,
                context=context,
                takes_over=on_busy in INTERRUPTING,
                decide_ending=decide_ending,
                claim=claim,
            )
            try:
                yield durable_run
            finally:
                await durable_run.leave()
    finally:
        if services.ledger.is_awaited(thread_id) and claim is None:  # else its worker does it
            with suppress(AiodurableError, *DRIVER_FAILURES):  # else a worker finds it later
                await services.ledger.queued.promote([thread_id])
