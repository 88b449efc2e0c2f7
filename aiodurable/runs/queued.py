"""Begin runs that were accepted before: the rows of a queue, seen by the run that executes one."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from aiodurable.checkpoints.fences import Fence
from aiodurable.errors import RunInProgressError, StatementRefusedError, WorkflowExecutionError
from aiodurable.models import RunStatus, ThreadStatus
from aiodurable.postgres.batcher import Batcher
from aiodurable.postgres.direct import DirectPool
from aiodurable.postgres.errors import is_conflict
from aiodurable.postgres.fetch import Fetch
from aiodurable.postgres.locked_rows import PATIENCE_S, patiently
from aiodurable.postgres.retry import RUN_START
from aiodurable.postgres.sql import load
from aiodurable.runs.ledger_writes import check_fence, check_patience

__all__ = ["Left", "QueuedRuns"]

_SQL = load("worker")
_BUSY = load("busy")


@dataclass(frozen=True, slots=True)
class Left:
    """The newest run of a thread that began, as one sees it that is to begin after it.

    Attributes:
        on_busy: what the run that is to begin was accepted with.
        run_id, status: of the newest run; None: none began.
        base_checkpoint_id: the thread's newest checkpoint when that run began.
        made_way: whether another run is to take its place.
        roll_back: whether what it wrote is to be removed before that.
    """

    on_busy: str | None
    run_id: str | None
    status: str | None
    base_checkpoint_id: str | None
    made_way: bool | None
    roll_back: bool | None

    @property
    def unfinished(self) -> bool:
        """Whether that run is not over."""
        return self.run_id is not None and self.status != RunStatus.COMPLETE

    @property
    def passable(self) -> bool:
        """Whether the run may begin although the thread has unfinished work: it takes the place of
        that run, or the work belongs to no run.
        """
        if self.unfinished:
            return bool(self.made_way)
        return self.on_busy in ("interrupt", "rollback")


class QueuedRuns:
    """The rows that wait.

    Args:
        direct: to the database.
        worker: what the rows say of who ran an attempt.
    """

    def __init__(self, direct: DirectPool, *, worker: str) -> None:
        self._direct = direct
        self._worker = worker
        self._begins = Batcher(self._write_begins, name="aiodurable queued runs begun")

    async def begin(
        self,
        run_id: str,
        *,
        fence: Fence,
        seq: int,
        base_checkpoint_id: str | None,
        closing: RunStatus | None,
        claim: str | None = None,
        synchronous: bool = True,
    ) -> tuple[Mapping[str, Any], bool]:
        """Write that a queued run is running; see `Ledger.start`.

        Returns:
            The row, and whether the thread has no checkpoint yet.

        Raises:
            LeaseLostError: the fence is no longer the thread's; nothing was written.
            RunInProgressError: an earlier run of the thread waits; only with `claim`.
            WorkflowExecutionError: the run waits no more, or the claim is gone; nothing was
                written.
            LockTimeoutError: another transaction kept the fence or the row; nothing was written.
        """
        must = synchronous or closing is RunStatus.SUPERSEDED
        asked = (
            *(run_id, fence.thread_id, *fence.standing),
            *(seq, base_checkpoint_id, closing, claim, must),
        )
        deadline = time.monotonic() + PATIENCE_S
        while True:
            try:
                row = await self._begins(asked)
            except StatementRefusedError as error:
                if not is_conflict(error):
                    raise
                row = None  # somebody has locked the run's row
            if row is not None:
                return row, row["blank"]
            await self._check(run_id, fence, claim, deadline)
            await RUN_START.pause()

    async def left(self, thread_id: str, run_id: str | None = None) -> Left:
        """What the thread has left, for a run that is to begin on it."""
        (row,) = await self._direct.fetch(_BUSY["left"], thread_id, run_id)
        return Left(**row)

    async def promote(
        self, thread_ids: Sequence[str], *, fetch: Fetch | None = None
    ) -> frozenset[str]:
        """Let the next run of each thread begin, unless an earlier one is not over; the run_ids.

        Args:
            thread_ids: the threads.
            fetch: runs the statement in a transaction of the caller's; None: in one of its own.
        """
        rows = await (fetch or self._direct.fetch)(_SQL["promote"], list(thread_ids))
        return frozenset(row["run_id"] for row in rows)

    async def settle_left(
        self,
        run_id: str,
        *,
        fence: Fence,
        status: RunStatus,
        reason: str | None,
        checkpoint_id: str | None,
    ) -> None:
        """Write how a run had stopped whose process died before it could say so."""
        settled = (run_id, *fence.standing, status, reason, checkpoint_id)
        await patiently(
            lambda: self._direct.fetch(_SQL["settle_left"], *settled),
            f"record the end of run {run_id!r}",
            fence.thread_id,
        )

    async def _check(self, run_id: str, fence: Fence, claim: str | None, deadline: float) -> None:
        (row,) = await self._direct.fetch(_SQL["not_begun"], fence.thread_id, run_id, claim)
        check_fence(fence, row)
        if row["status"] != RunStatus.QUEUED:
            raise WorkflowExecutionError(
                f"cannot begin run {run_id!r} of thread {fence.thread_id!r}: it waits no more, it"
                f" is {row['status'] or 'gone'}; runs.get(run_id) says how it stands",
                thread_id=fence.thread_id,
            )
        if claim is not None and not row["claimed"]:
            raise WorkflowExecutionError(
                f"cannot begin run {run_id!r} of thread {fence.thread_id!r}: this worker's claim"
                " was given to another one, which begins it",
                thread_id=fence.thread_id,
            )
        if claim is not None and row["earlier"] is not None:
            raise RunInProgressError(
                f"cannot begin run {run_id!r} of thread {fence.thread_id!r}: run"
                f" {row['earlier']!r} was accepted before it, and has not begun",
                thread_id=fence.thread_id,
                status=ThreadStatus.QUEUED,
            )
        check_patience(deadline, f"begin run {run_id!r}", fence)

    async def _write_begins(
        self, asked: Sequence[tuple[Any, ...]]
    ) -> dict[tuple[Any, ...], Mapping[str, Any]]:
        columns = map(list, zip(*asked, strict=True))
        run_ids, threads, tokens, leases, *rest, synchronous = columns
        written = await self._direct.fetch(
            _SQL["begin"], run_ids, threads, tokens, leases, self._worker, *rest, any(synchronous)
        )
        by_run = {row["run_id"]: row for row in written}
        return {one: by_run[one[0]] for one in asked if one[0] in by_run}
