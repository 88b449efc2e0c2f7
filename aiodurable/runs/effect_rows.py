"""The rows of side effects in `aiodurable_effects`, written under the fence of their thread."""

from __future__ import annotations

import secrets
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum
from typing import Any, NamedTuple

from aiodurable.checkpoints.fences import Fence, Standing, read_standing
from aiodurable.errors import LockTimeoutError, WorkflowExecutionError
from aiodurable.postgres.batcher import Batcher
from aiodurable.postgres.direct import DirectPool
from aiodurable.postgres.locked_rows import PATIENCE_S
from aiodurable.postgres.pool import PsycopgPool
from aiodurable.postgres.retry import RUN_START
from aiodurable.postgres.sql import load
from aiodurable.runs.stored_value import StoredValue

__all__ = ["EffectKey", "EffectRow", "EffectRows", "EffectState"]

_SQL = load("effects")


class EffectState(StrEnum):
    """What the row says of a side effect."""

    BEGUN = "begun"
    DONE = "done"
    NOT_DONE = "not_done"


class EffectKey(NamedTuple):
    """An effect of a task.

    Attributes:
        task: the checkpoint_ns of the task.
        name: tells the effects of one task apart.
        checkpoint_id: the checkpoint of the root graph from which the task's step runs.
    """

    task: str
    name: str
    checkpoint_id: str


@dataclass(frozen=True, slots=True)
class EffectRow:
    """What an effect's row said when somebody wanted to begin it.

    Attributes:
        begins: whether this call has begun it.
        begin_id: which beginning is meant.
        state: None: there was no row.
        answers: how often a person has been asked about it, and has answered.
        result: as stored; kind None: it is not.
        begun_at: when it was begun before; None: never.
    """

    begins: bool
    begin_id: int
    state: EffectState | None
    answers: int
    result: StoredValue
    begun_at: datetime | None


class EffectRows:
    """Writes the rows, those of many runs in one statement.

    Args:
        database: where the rows are.
        direct: direct connections to the same database.
        worker: host and process, recorded with each row.
    """

    def __init__(self, database: PsycopgPool, direct: DirectPool, *, worker: str) -> None:
        self._database = database
        self._direct = direct
        self._worker = worker
        self._begin = Batcher(self._write_begins, name="aiodurable effect begins")
        self._finish = Batcher(self._write_ends, name="aiodurable effect ends")

    async def begin(
        self,
        key: EffectKey,
        *,
        fence: Fence,
        run_id: str,
        replaced: int | None = None,
        answers: int | None = None,
    ) -> EffectRow:
        """Begin an effect, unless its row says that it was begun or done before.

        Args:
            key: which.
            fence: its thread's fence.
            run_id: the run that begins it.
            replaced: the `begin_id` of a beginning that turned out not to have happened.
            answers: how often a person has answered; None: as the row says.

        Raises:
            LeaseLostError: another lease has replaced this one; nothing was written.
            LockTimeoutError: another transaction locked the fence; nothing was written.
        """
        begin_id = secrets.randbits(62) + 1
        row = await self._written(
            self._begin,
            (
                fence.thread_id,
                *fence.standing,
                key.task,
                key.name,
                begin_id,
                replaced,
                answers,
                run_id,
                self._worker,
                key.checkpoint_id,
            ),
            fence,
            f"begin effect {key.name!r}",
        )
        return EffectRow(
            begins=row["begins"],
            begin_id=begin_id if row["begins"] else row["begin_id"],
            state=None if row["state"] is None else EffectState(row["state"]),
            answers=row["answers"],
            result=(row["result_type"], row["result"]),
            begun_at=row["begun_at"],
        )

    async def finish(
        self,
        key: EffectKey,
        *,
        fence: Fence,
        begin_id: int,
        state: EffectState,
        answers: int | None = None,
        result: StoredValue = (None, None),
    ) -> None:
        """Record how the effect with this `begin_id` ended.

        Raises:
            LeaseLostError: another lease has replaced this one; nothing was written.
            WorkflowExecutionError: something else than a run has changed or removed the row, or
                locks the fence; nothing was written.
        """
        row = (fence.thread_id, *fence.standing, key.task, key.name, begin_id, state, answers)
        await self._written(self._finish, (*row, *result), fence, f"finish effect {key.name!r}")

    async def _written(
        self,
        write: Batcher[tuple[Any, ...], Mapping[str, Any]],
        row: tuple[Any, ...],
        fence: Fence,
        what: str,
    ) -> Mapping[str, Any]:
        deadline = time.monotonic() + PATIENCE_S
        while True:
            fence.check()
            if (written := await write(row)) is not None:
                return written
            standing: Standing | None = await read_standing(self._database, fence.thread_id)
            if standing != fence.standing:
                raise fence.overtaken(standing)
            if time.monotonic() > deadline:
                raise _refused(write is self._begin, fence.thread_id, what)
            await RUN_START.pause()

    async def _write_begins(
        self, rows: Sequence[tuple[Any, ...]]
    ) -> dict[tuple[Any, ...], Mapping[str, Any]]:
        found = await self._direct.fetch(_SQL["begin"], *map(list, zip(*rows, strict=True)))
        by_id = {row["wanted"]: row for row in found}
        return {row: by_id[row[5]] for row in rows if row[5] in by_id}

    async def _write_ends(
        self, rows: Sequence[tuple[Any, ...]]
    ) -> dict[tuple[Any, ...], Mapping[str, Any]]:
        found = await self._direct.fetch(_SQL["finish"], *map(list, zip(*rows, strict=True)))
        by_id = {row["begin_id"]: row for row in found}
        return {row: by_id[row[5]] for row in rows if row[5] in by_id}


def _refused(begins: bool, thread_id: str, what: str) -> LockTimeoutError | WorkflowExecutionError:
    cannot = f"cannot {what} of thread {thread_id!r} within {PATIENCE_S:g} s"
    if begins:
        return LockTimeoutError(
            f"{cannot}: another transaction has locked the thread's fence, as a prune does for a"
            " moment. The side effect was not run; look in pg_stat_activity for a backend that is"
            " idle in a transaction, and end it",
            thread_id=thread_id,
        )
    return WorkflowExecutionError(
        f"{cannot}: something else than a run has changed or removed its row in"
        " aiodurable_effects, or locks the thread's fence. The side effect has been run",
        thread_id=thread_id,
    )
