"""Reads runs and writes their start and end, many runs in one statement."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import replace
from datetime import UTC, datetime
from typing import Any, Final

from aiodurable.checkpoints.fences import Fence, Standing, read_standing
from aiodurable.errors import LeaseLostError, LockTimeoutError, WorkflowExecutionError
from aiodurable.models import RunStatus, WorkflowCheckpoint
from aiodurable.postgres.batcher import Batcher
from aiodurable.postgres.direct import DirectPool
from aiodurable.postgres.locked_rows import PATIENCE_S
from aiodurable.postgres.pool import PsycopgPool
from aiodurable.postgres.retry import LOCKED_ROW
from aiodurable.postgres.sql import load
from aiodurable.postgres.text_columns import as_texts
from aiodurable.threads.status import Classifier

__all__ = ["END", "LedgerWrites", "check_fence", "check_patience", "refusal"]

_SQL = load("runs")
END = _SQL["end"]
"""Statuses of threads, their leases ignored; closes runs that the tables show complete."""

_CHANGED = "something else than a run has removed or changed its row in aiodurable_runs"

_LOCKED: Final = datetime.min.replace(tzinfo=UTC)
"""Instead of the time of an end: the row was locked."""

_End = tuple[str, str, int, int, bool]
"""thread_id, run_id, token, lease id, consumed."""


def check_fence(fence: Fence, row: Mapping[str, Any]) -> None:
    """Raise `LeaseLostError` unless `row`, the thread's fence in the database, is `fence`."""
    standing = None if row["token"] is None else Standing(row["token"], row["lease_id"])
    if standing != fence.standing:
        raise fence.overtaken(standing)
    fence.check()


def check_patience(deadline: float, what: str, fence: Fence) -> None:
    """Raise `LockTimeoutError` after `deadline`, a `time.monotonic`; `what` is a verb with its
    object.
    """
    if time.monotonic() > deadline:
        raise LockTimeoutError(
            f"cannot {what} of thread {fence.thread_id!r} within {PATIENCE_S:g} s: another"
            " transaction has locked the thread's fence or a run of it. Nothing was"
            " written; look in pg_stat_activity for a backend that is idle in a transaction, and"
            " end it",
            thread_id=fence.thread_id,
        )


async def refusal(
    database: PsycopgPool, fence: Fence, what: str, why: str | None = None
) -> WorkflowExecutionError | LeaseLostError:
    """The error of a statement under the fence that found no row to change.

    Args:
        database: where the ledger is.
        fence: the thread's fence.
        what: what could not be done: a verb with its object.
        why: why not, where the fence still stands; None: somebody else changed the row.
    """
    standing = await read_standing(database, fence.thread_id)
    if standing != fence.standing:
        return fence.overtaken(standing)
    return WorkflowExecutionError(
        f"cannot {what} of thread {fence.thread_id!r}: {why or _CHANGED}. Nothing was written;"
        " get_checkpoint_status(thread_id) says where the thread stands",
        thread_id=fence.thread_id,
    )


class LedgerWrites:
    """Batches the statements that every run sends. A call takes a row of the statement's
    parameters and returns its result; None: nothing was written.

    Args:
        direct: connections to the database.
        classifier: reads the status of a thread whose run ends.

    Attributes:
        get: reads what runs were accepted with, by run_id.
        start: opens runs.
        complete: closes runs whose thread stands at the given checkpoint.
        end: reads threads' statuses and closes those runs that are complete.
        awaited: threads whose run was closed as complete, and for which a queued run waits.
    """

    def __init__(self, direct: DirectPool, classifier: Classifier) -> None:
        self._direct = direct
        self._classifier = classifier
        self.get = Batcher(self._read, shared=True, name="aiodurable run reads")
        self.awaited = set[str]()
        self.start = Batcher(self._write_starts, name="aiodurable run starts")
        self.complete = Batcher(self._write_completions, name="aiodurable run completions")
        self.end = Batcher(self._read_and_end, name="aiodurable run ends")
        self._finish = Batcher(self._write_finishes, name="aiodurable run outcomes")

    async def finish(self, row: tuple[Any, ...]) -> datetime | None:
        """Close a run with a given outcome; when it ended. Waits while somebody's transaction has
        locked its row, and nobody else's end does.

        Raises:
            LockTimeoutError: it was locked for `PATIENCE_S`.
        """
        deadline = time.monotonic() + PATIENCE_S
        while (found := await self._finish(row)) is _LOCKED:
            if time.monotonic() > deadline:
                raise LockTimeoutError(
                    f"cannot record the end of run {row[0]!r} within {PATIENCE_S:g} s: another"
                    " transaction has locked its row; look in pg_stat_activity for a backend that"
                    " is idle in a transaction, and end it",
                    thread_id=row[3],
                )
            await LOCKED_ROW.pause()
        return found

    async def _read(self, run_ids: Sequence[str]) -> dict[str, Mapping[str, Any]]:
        rows = await self._direct.fetch(_SQL["get"], list(run_ids))
        return {row["run_id"]: row for row in rows}

    async def _write_starts(
        self, rows: Sequence[tuple[Any, ...]]
    ) -> dict[tuple[Any, ...], Mapping[str, Any]]:
        *columns, synchronous = map(list, zip(*rows, strict=True))
        statement, parameters = as_texts(_SQL["start"], [*columns, any(synchronous)])
        written = await self._direct.fetch(statement, *parameters)
        by_run = {row["run_id"]: row for row in written}
        return {row: by_run[row[0]] for row in rows if row[0] in by_run}

    async def _read_and_end(
        self, ends: Sequence[_End]
    ) -> dict[_End, tuple[WorkflowCheckpoint, bool]]:
        thread_ids, *rest = map(list, zip(*ends, strict=True))
        arguments = self._classifier.arguments(thread_ids)
        rows = await self._classifier.fetch(self._direct.fetch, END, *arguments, *rest)
        threads = await self._classifier.decode(rows)
        ended = {(row["ended"], row["ended_under"]): row["ended_at"] for row in rows}
        self.awaited.update(row["thread_id"] for row in rows if row["awaited"])
        return {
            end: (
                (replace(threads[end[0]], finished_at=ended[end[1], end[3]]), True)
                if (end[1], end[3]) in ended
                else (threads[end[0]], False)
            )
            for end in ends
        }

    async def _write_completions(
        self, rows: Sequence[tuple[Any, ...]]
    ) -> dict[tuple[Any, ...], datetime]:
        return await self._write_ends("complete", rows)

    async def _write_finishes(
        self, rows: Sequence[tuple[Any, ...]]
    ) -> dict[tuple[Any, ...], datetime]:
        ended = await self._write_ends("finish", rows)
        self.awaited.update(row[3] for row in ended if row[4] == RunStatus.COMPLETE)
        if left := [row for row in rows if row not in ended]:
            of_each = [(*row[:3], row[8]) for row in left]
            found = await self._direct.fetch(
                _SQL["unfinished"], *map(list, zip(*of_each, strict=True))
            )
            locked = {tuple(row.values()) for row in found}
            ended |= {row: _LOCKED for row in left if row[:3] in locked}
        return ended

    async def _write_ends(
        self, statement: str, rows: Sequence[tuple[Any, ...]]
    ) -> dict[tuple[Any, ...], datetime]:
        written = await self._direct.fetch(_SQL[statement], *map(list, zip(*rows, strict=True)))
        ended = {
            (row["run_id"], row["fencing_token"], row["lease_id"]): row["finished_at"]
            for row in written
        }
        if statement == "complete":
            self.awaited.update(row["thread_id"] for row in written if row["awaited"])
        return {row: ended[row[:3]] for row in rows if row[:3] in ended}
