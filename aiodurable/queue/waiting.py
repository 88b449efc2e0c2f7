"""Wait until runs are over, and read what came of them."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Mapping, Sequence
from contextlib import suppress
from typing import Any, Final

from aiodurable.errors import (
    InvalidArgumentError,
    ResultPrunedError,
    RunCancelledError,
    RunFailedError,
    WaitTimeoutError,
    WorkflowExecutionError,
)
from aiodurable.models import PauseReason, RunRecord, RunStatus, ThreadStatus
from aiodurable.postgres.batcher import Batcher
from aiodurable.queue.records import SQL, not_found, queued_record
from aiodurable.runs.graphs import BoundGraph
from aiodurable.runs.services import Services
from aiodurable.runs.stored_result import stored_result
from aiodurable.thread_id import validate_run_id

__all__ = ["Waiting", "is_over"]

_POLL_S: Final = (0.02, 0.5)
"""Seconds between two looks at a run: at first, and at most."""

_LEAVES_S: Final = 1.0
"""Seconds that the process of a run that was waited for may hold its thread on: as long as somebody
takes for the last chunk of a stream.
"""

_STOPPED: Final = (PauseReason.CANCELLED, PauseReason.STREAM_CLOSED, "interrupted", "rolled back")
_STOPPABLE: Final = (RunStatus.SUPERSEDED, RunStatus.PAUSED, RunStatus.INTERRUPTED)
_ASLEEP: Final = (PauseReason.SLEEPING, PauseReason.WAITING)


def is_over(run: RunRecord) -> bool:
    """Whether nothing happens to the run unless a person does something."""
    if run.claim_state is not None:
        return False
    if run.status is RunStatus.PAUSED:
        return run.reason != PauseReason.DRAINED
    return run.settled or run.status in (RunStatus.FAILED, RunStatus.INTERRUPTED)


class Waiting:
    """Looks at runs until they are over; all calls of a process share a statement.

    Args:
        services: the open services.
    """

    def __init__(self, services: Services) -> None:
        self._services = services
        self._look = Batcher(self._fetch, limit=500, shared=True, name="aiodurable runs waited for")

    async def first(self, run_ids: Sequence[str], timeout: float | None) -> RunRecord:
        """The first of these runs that is over.

        Raises:
            RunNotFoundError: one of them was never accepted.
            WaitTimeoutError: none was over in time.
        """
        for run_id in run_ids:
            validate_run_id(run_id)
        limit = asyncio.timeout(timeout)
        try:
            async with limit:
                run, waited = await self._first_over(run_ids)
        except TimeoutError:
            which = f"run {run_ids[0]!r}" if len(run_ids) == 1 else f"one of {len(run_ids)} runs"
            raise WaitTimeoutError(
                f"cannot wait longer for {which}: it was not over within {timeout:g} s. It goes on"
                " all the same; runs.get(run_id) says where it stands"
            ) from None
        if waited and run.status is RunStatus.COMPLETE:
            await self._left(run, until=limit.when())
        return run

    async def _first_over(self, run_ids: Sequence[str]) -> tuple[RunRecord, bool]:
        """The first that is over, and whether that had to be waited for."""
        (wait, most), waited = _POLL_S, False
        while True:
            found = await asyncio.gather(*map(self._look, run_ids))
            for run_id, run in zip(run_ids, found, strict=True):
                if run is None:
                    raise not_found(run_id)
                if is_over(run):
                    return run, waited
            waited = True
            await asyncio.sleep(wait * random.uniform(0.5, 1.0))
            wait = min(wait * 1.5, most)

    async def _left(self, run: RunRecord, *, until: float | None) -> None:
        """Wait a moment, and no longer than `until`, for the process of a complete run to let its
        thread go: its last checkpoint completes it, and the lease ends after that. A caller that
        has the result already would find the thread busy.
        """
        soon = asyncio.get_running_loop().time() + _LEAVES_S
        with suppress(TimeoutError):
            async with asyncio.timeout_at(soon if until is None else min(soon, until)):
                while True:
                    thread = await self._services.threads.status(run.thread_id)
                    if thread.status is not ThreadStatus.RUNNING or thread.run_id != run.run_id:
                        return
                    await asyncio.sleep(_POLL_S[0] * random.uniform(0.5, 1.0))

    async def result(self, run: RunRecord, graph: BoundGraph | None = None) -> Any:
        """What the graph returned; raises what keeps it from having returned anything.

        Args:
            run: the run, which is over.
            graph: reads its output; None: the one that is registered under its name.

        Raises:
            GraphNotRegisteredError, InvalidArgumentError, ResultPrunedError, RunCancelledError,
            RunFailedError: see `Runs.wait`.
        """
        at_gate = run.status is RunStatus.PAUSED and run.reason == PauseReason.BREAKPOINT
        asks = run.status is RunStatus.INTERRUPTED and run.reason != PauseReason.CANCELLED
        if not (at_gate or asks or run.status is RunStatus.COMPLETE):
            raise _no_result(run)
        if graph is None:
            graph = self._services.graphs.bind(run.graph or "")
        elif None not in (graph.name, run.graph) and graph.name != run.graph:
            raise InvalidArgumentError(
                f"cannot read the result of run {run.run_id!r} with graph {graph.name!r}: it was"
                f" accepted for graph {run.graph!r}; pass that one",
                thread_id=run.thread_id,
                argument="graph",
            )
        coordinates = {"thread_id": run.thread_id, "checkpoint_id": run.checkpoint_id}
        snapshot = await graph.pregel.aget_state({"configurable": coordinates})
        if snapshot.created_at is None:
            raise ResultPrunedError(
                f"cannot read the result of run {run.run_id!r}: its checkpoint was pruned; keep"
                " checkpoints longer",
                thread_id=run.thread_id,
                run_id=run.run_id,
            )
        asked = snapshot.interrupts if run.status is RunStatus.INTERRUPTED else ()
        return stored_result(graph, snapshot.values, {}, asked)

    async def _fetch(self, run_ids: Sequence[str]) -> Mapping[str, RunRecord]:
        # Not the pool, which fails where a connection ends meanwhile: a wait may take hours.
        rows = await self._services.checkpoints.direct.fetch(SQL["get"], list(run_ids))
        return {row["run_id"]: queued_record(row) for row in rows}


def _no_result(run: RunRecord) -> WorkflowExecutionError:
    given_up = run.status is RunStatus.SUPERSEDED
    for_another = given_up and (run.reason or "").startswith("given up for run ")
    if for_another or (run.reason in _STOPPED and run.status in _STOPPABLE):
        again = "runs.retry(run_id) lets it go on"
        if given_up and run.token is not None:
            again = "create another run"
        elif run.status is RunStatus.INTERRUPTED:
            again = "an answer lets it go on"
        return RunCancelledError(
            f"cannot return a result of run {run.run_id!r} of thread {run.thread_id!r}: it was"
            f" {run.reason}; {again}",
            thread_id=run.thread_id,
            run_id=run.run_id,
            requested_at=run.cancel_requested_at,
        )
    why = run.error or run.reason
    what_to_do = "fix the cause; then runs.retry(run_id) lets it go on"
    if run.status is RunStatus.PAUSED and run.reason in _ASLEEP:
        what_to_do = (
            "its graph has no name by which a worker could find it; a call goes on with it when it"
            " is due"
        )
    return RunFailedError(
        f"cannot return a result of run {run.run_id!r} of thread {run.thread_id!r}: it is"
        f" {run.status}{'' if why is None else f' ({why})'}; {what_to_do}",
        thread_id=run.thread_id,
        run_id=run.run_id,
        status=run.status,
        error=run.error,
        traceback=run.traceback,
    )
