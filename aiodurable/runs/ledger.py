"""The ledger: one row a run in `aiodurable_runs`, written before its graph starts, closed when its
attempt ends.

Only the newest attempt writes: every change shows the fencing token and the lease id it is made
under, which the thread's fence must hold in that very statement. That at most one run of a thread
is `running` is a constraint of the table, not a habit of this file.
"""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import Awaitable, Callable, Mapping, Sequence
from concurrent.futures import Executor
from dataclasses import dataclass, replace
from datetime import datetime
from typing import Any, Final, NamedTuple, TypeVar

from langchain_core.runnables import RunnableConfig
from langgraph.checkpoint.serde.base import SerializerProtocol

from aiodurable.checkpoints.fences import Fence, Standing, read_standing
from aiodurable.checkpoints.size_estimate import MOST_BYTES, looks_large
from aiodurable.errors import (
    InvalidArgumentError,
    LeaseLostError,
    LockTimeoutError,
    WorkflowExecutionError,
)
from aiodurable.inert import Inert
from aiodurable.lock_keys import lock_key
from aiodurable.models import EarlierAttempt, RunRecord, RunStatus, WorkflowCheckpoint
from aiodurable.postgres.batcher import Batcher
from aiodurable.postgres.direct import DirectPool
from aiodurable.postgres.pool import PsycopgPool
from aiodurable.postgres.retry import RUN_START
from aiodurable.postgres.sql import load
from aiodurable.runs.answers import Answered, digest_of
from aiodurable.runs.queued import QueuedRuns
from aiodurable.runs.same_input import same_input
from aiodurable.threads.status import Classifier

__all__ = ["END", "Accepted", "Ledger", "Needed", "Stored", "record_of"]

T = TypeVar("T")

_SQL = load("runs")
_ANSWERS = load("answers")
END = _SQL["end"]
"""Where threads stand apart from their leases, and runs closed that the tables show complete."""

Stored = tuple[str | None, bytes | None]
"""Kind and bytes of a value, as a serializer gives them; or nothing."""
_End = tuple[str, str, int, int, bool]
"""thread_id, run_id, token, lease id, consumed."""

_KEPT_ATTEMPTS = 20
"""How many earlier attempts a row remembers."""

_PATIENCE_S = 10.0
"""Seconds for which a start is tried while another transaction keeps the thread's fence."""


@dataclass(frozen=True, slots=True)
class Accepted:
    """A run as the ledger keeps it, with what is needed to go on with it.

    Attributes:
        record: the row.
        stored_input: the input it was accepted with, as it is stored; nothing for a thread that
            plain LangGraph began.
        stored_context: the context it was accepted with, likewise.
        stored_config: what of the caller's config it was accepted with, likewise.
        stored_answers: those that LangGraph may not have stored yet, by interrupt id, likewise.
        consumed: whether there is nothing to pass in: a checkpoint of this run exists, so that the
            input is part of the thread, or it never had one.
    """

    record: RunRecord
    stored_input: Stored
    stored_context: Stored
    stored_config: Stored
    stored_answers: Stored
    consumed: bool

    @property
    def needed(self) -> Needed:
        """What a resumption reads of it."""
        fresh = () if self.consumed else (self.stored_input,)
        always = (self.stored_context, self.stored_config, self.stored_answers)
        return Needed(self.record.status is RunStatus.COMPLETE, self.consumed, (*always, *fresh))

    def load(self, serde: SerializerProtocol) -> Loaded:
        """What a run that goes on needs; nobody else reads it: reading builds what the row names.

        Args:
            serde: the graph's own for the ledger, which knows the graph's classes.
        """
        return Loaded(
            None if self.consumed else _load(serde, self.stored_input),
            _load(serde, self.stored_context),
            _load(serde, self.stored_config) or {},
            _load(serde, self.stored_answers) or {},
        )


class Loaded(NamedTuple):
    """The values that a run was accepted with, and the answers it has still to deliver.

    Attributes:
        input: None where it is part of the thread.
    """

    input: Any
    context: Any
    config: RunnableConfig
    answers: Mapping[str, Any]


class Needed(NamedTuple):
    """What a resumption reads of a run.

    Attributes:
        complete: whether it is complete, so that nothing of it is read.
        consumed: whether its input is part of the thread.
        values: its context, config and undelivered answers, and its input where that is not
            consumed.
    """

    complete: bool
    consumed: bool
    values: tuple[Stored, ...]


class Ledger:
    """The rows of one namespace.

    Args:
        database: where they are.
        direct: to the same place, for what every run writes.
        classifier: tells where a thread stands when its run ends.
        serde: the saver's serializer; inputs and contexts are stored as it writes them (encrypted,
            if it encrypts).
        namespace: that of the locks; each row keeps its thread's lock key, so that SQL can join it
            with `aiodurable_leases`.
        worker: what the rows say of who ran an attempt.
        threads: where large values are serialised; None: the event loop's own.
    """

    def __init__(
        self,
        database: PsycopgPool,
        direct: DirectPool,
        classifier: Classifier,
        *,
        serde: SerializerProtocol,
        namespace: str,
        worker: str,
        threads: Executor | None = None,
    ) -> None:
        self._database = database
        self._direct = direct
        self._classifier = classifier
        self._serde = serde
        self._looking = Inert(serde)
        self._namespace = namespace
        self.worker = worker
        self._threads = threads
        # Many runs begin and end at once: in one statement each.
        self.queued = QueuedRuns(direct, worker=worker)
        self._starts = Batcher(self._write_starts, name="aiodurable run starts")
        self._completions = Batcher(self._write_completions, name="aiodurable run completions")
        self._ends = Batcher(self._look_and_end, name="aiodurable run ends")
        self._finishes = Batcher(self._write_finishes, name="aiodurable run outcomes")

    async def get(self, run_id: str) -> Accepted | None:
        """The run of that id."""
        row = await self._database.fetch_one(_SQL["get"], run_id)
        return None if row is None else _accepted(row)

    async def newest(self, thread_id: str) -> Accepted | None:
        """The newest run of the thread that began: rejected and superseded ones do not count."""
        row = await self._database.fetch_one(_SQL["newest"], thread_id)
        return None if row is None or row["status"] == RunStatus.QUEUED else _accepted(row)

    async def loaded(self, accepted: Accepted, serde: SerializerProtocol) -> Loaded:
        """What `accepted` needs to go on, read with `serde`; large values off the event loop."""
        blobs = tuple(blob for _, blob in (*accepted.needed.values, accepted.stored_input))
        return await self._off_the_loop(lambda: accepted.load(serde), heavy=looks_large(blobs))

    async def same_input(self, accepted: Accepted, given: Any) -> bool:
        """Whether `given` is what the run was accepted with. Unknown, where that is not stored any
        more: then it is not.
        """
        stored = accepted.stored_input
        if stored[0] is None:
            return False

        def compare() -> bool:
            dumped = self._dump("input", given, self._serde)
            return dumped == stored or same_input(
                _load(self._looking, stored), _load(self._looking, dumped)
            )

        return await self._off_the_loop(compare, heavy=looks_large((given,)))

    async def newest_of(self, thread_ids: Sequence[str]) -> dict[str, Needed]:
        """What is read of the newest run of each of many threads before it is gone on with."""
        rows = await self._database.fetch(_SQL["newest_of"], list(thread_ids))
        return {
            row["thread_id"]: Needed(
                complete=row["status"] == RunStatus.COMPLETE,
                consumed=row["consumed"],
                values=(
                    (row["context_type"], row["context"]),
                    (row["config_type"], row["config"]),
                    (row["answers_type"], row["answers"]),
                    (row["input_type"], row["input"]),
                ),
            )
            for row in rows
        }

    async def start(
        self,
        run_id: str,
        *,
        fence: Fence,
        graph: str | None,
        seq: int = 1,
        input: Any,
        context: Any,
        config: Mapping[str, Any] | None = None,
        serde: SerializerProtocol | None = None,
        base_checkpoint_id: str | None,
        closing: RunStatus | None,
    ) -> tuple[RunRecord, bool]:
        """Write a new run, running. What earlier runs of the thread left open is closed as
        `closing` first, unless None.

        Args:
            run_id: its name.
            fence: of the thread.
            graph, input, context, config: what it is accepted with.
            seq: the number of this attempt among those under the fence, from 1.
            serde: how they are stored: the graph's own for the ledger; None: the saver's.
            base_checkpoint_id: the thread's newest checkpoint.
            closing: see above.

        Returns:
            The row, and whether the thread has no checkpoint yet.

        Raises:
            InvalidArgumentError: input, context or config cannot be serialised, or holds a class
                that the graph may not build again, or the run_id is taken; nothing was written.
            LeaseLostError: the fence is no longer the thread's; nothing was written.
            LockTimeoutError: another transaction kept the fence; nothing was written.
        """
        stored = await self.stored(input, context, config, serde)
        key = lock_key(fence.thread_id, self._namespace)
        attempt = (fence.token, fence.lease_id, self.worker, seq)
        deadline = time.monotonic() + _PATIENCE_S
        while True:
            row = await self._starts(
                (
                    run_id,
                    fence.thread_id,
                    key,
                    graph,
                    *attempt,
                    *stored,
                    base_checkpoint_id,
                    closing,
                )
            )
            if row is not None:
                return record_of(row), row["blank"]
            await self._check_start(run_id, fence, deadline)
            await RUN_START.pause()

    async def stored(
        self,
        input: Any,
        context: Any,
        config: Mapping[str, Any] | None,
        serde: SerializerProtocol | None = None,
    ) -> tuple[str | bytes | None, ...]:
        """What a run is accepted with, as it is stored: kind and bytes of each of the three.

        Raises:
            InvalidArgumentError: as `start`.
        """
        how = serde or self._serde
        return await self._off_the_loop(
            lambda: (
                *self._dump("input", input, how),
                *self._dump("context", context, how),
                *self._dump("config", config, how),
            ),
            heavy=looks_large((input, context, config)),
        )

    async def _check_start(self, run_id: str, fence: Fence, deadline: float) -> None:
        """Raise what kept a run from being started; return where that passes."""
        row = await self._database.fetch_one(
            _SQL["not_started"], fence.thread_id, run_id, fence.token
        )
        assert row is not None, "it has no table that could lack it"
        standing = None if row["token"] is None else Standing(row["token"], row["lease_id"])
        if standing != fence.standing:
            raise fence.overtaken(standing)
        if row["taken"]:
            raise InvalidArgumentError(
                f"wanted a new run {run_id!r} of thread {fence.thread_id!r}, found that another run"
                " has this id: a run_id names one run of one thread",
                thread_id=fence.thread_id,
            )
        fence.check()
        if time.monotonic() > deadline:
            raise LockTimeoutError(
                f"could not start run {run_id!r} of thread {fence.thread_id!r} within"
                f" {_PATIENCE_S:g} s: another transaction has locked the thread's fence, as a prune"
                " does for a moment. Nothing was written; look in pg_stat_activity for a backend"
                " that is idle in a transaction, and end it",
                thread_id=fence.thread_id,
            )

    async def retry(
        self, run_id: str, *, fence: Fence, seq: int = 1, head: str | None = None
    ) -> RunRecord:
        """Write that a known run is running again; one more attempt, if it had crashed or failed.

        Args:
            run_id: the run.
            fence: of its thread.
            seq: the number of this attempt among those under the fence, from 1.
            head: the thread's newest checkpoint.

        Raises:
            LeaseLostError: the fence is no longer the thread's; nothing was written.
        """
        attempt = (*fence.standing, self.worker, seq)
        row = await self._database.fetch_one(_SQL["retry"], run_id, *attempt, _KEPT_ATTEMPTS, head)
        if row is None:
            raise await self._refusal(fence, f"go on with run {run_id!r}")
        return record_of(row)

    async def _refusal(self, fence: Fence, what: str) -> WorkflowExecutionError | LeaseLostError:
        """Why a statement under the fence found no row to change."""
        standing = await read_standing(self._database, fence.thread_id)
        if standing != fence.standing:
            return fence.overtaken(standing)
        return WorkflowExecutionError(
            f"could not {what} of thread {fence.thread_id!r}: its row in aiodurable_runs was"
            " removed or changed by something else than a run. Nothing was written;"
            " get_checkpoint_status(thread_id) says where the thread stands",
            thread_id=fence.thread_id,
        )

    async def complete(self, run_id: str, *, fence: Fence, checkpoint_id: str) -> datetime | None:
        """Write the attempt under `fence` as complete, if its thread stands at this checkpoint, on
        which nothing hangs.

        Args:
            checkpoint_id: a checkpoint that the attempt itself wrote, with nothing left to do after
                it.

        Returns:
            When it ended; that is written, and not on disk yet: the tables tell the same. None:
            `end` can tell.
        """
        return await self._completions((run_id, *fence.standing, fence.thread_id, checkpoint_id))

    async def end(
        self, run_id: str, *, fence: Fence, consumed: bool
    ) -> tuple[WorkflowCheckpoint, bool]:
        """Where the thread stands under its lease; complete, and the attempt under `fence` is
        written as complete.

        Args:
            consumed: whether a checkpoint has taken the run's input; else it is not complete,
                whatever the thread is.

        Returns:
            The thread, and whether the attempt's end was written. It is not on disk yet: the tables
            tell the same.
        """
        ended = await self._ends((fence.thread_id, run_id, fence.token, fence.lease_id, consumed))
        assert ended is not None, "every thread has a status"
        return ended

    async def answered(self, thread_id: str) -> list[Answered]:
        """What was answered on the thread, oldest first."""
        rows = await self._database.fetch(_ANSWERS["answered"], thread_id)
        return [
            Answered(
                row["interrupt_id"],
                row["answered_at"],
                row["digest"],
                row["token"],
                row["run_id"],
                RunStatus(row["status"]),
                row["checkpoint_id"],
            )
            for row in rows
        ]

    async def answer(
        self,
        run_id: str,
        *,
        fence: Fence,
        new: Mapping[str, Any],
        all: Mapping[str, Any],
        closed: Sequence[str],
        serde: SerializerProtocol | None = None,
    ) -> None:
        """Write the answers that the attempt under `fence` delivers, before it does.

        Args:
            run_id: the run.
            fence: of its thread.
            new: those that were given just now, by interrupt id.
            all: those, and any that an earlier attempt could not deliver.
            closed: see `Questions.closed_by`.
            serde: how they are stored, as in `start`.

        Raises:
            InvalidArgumentError: an answer cannot be serialised, or holds a class that the graph
                may not build again; nothing was written.
            LeaseLostError: the fence is no longer the thread's; nothing was written.
        """
        digests = [digest_of(interrupt_id, value) for interrupt_id, value in new.items()]
        stored = self._dump("answer", dict(all), serde or self._serde)
        given = (list(new), digests, *stored, list(closed))
        if (
            await self._database.fetch_one(_ANSWERS["answer"], run_id, *fence.standing, *given)
            is None
        ):
            raise await self._refusal(fence, f"store an answer to run {run_id!r}")

    async def answers_over(
        self, run_id: str, *, fence: Fence, withdrawn: Sequence[str] = ()
    ) -> None:
        """Write that no answer is left to deliver, and that those to `withdrawn` were not taken."""
        await self._database.execute(
            _ANSWERS["answers_over"], run_id, *fence.standing, list(withdrawn)
        )

    async def forked(
        self,
        fetch_one: Callable[..., Awaitable[Any]],
        run_id: str,
        *,
        fence: Fence,
        graph: str | None,
        base_checkpoint_id: str,
        source: str,
        checkpoint_id: str,
        in_the_step: bool,
    ) -> None:
        """Write the run of a thread that begins as a copy of another's checkpoint: paused, with
        nothing to pass in.

        Its graph, unless given, and its context are those of the run that wrote the checkpoint.

        Args:
            fetch_one: runs a statement in the transaction in which the copy is made, and which
                keeps the fence as it is.
            run_id: its name.
            fence: of the new thread.
            graph: see above.
            base_checkpoint_id: the new thread's newest checkpoint.
            source, checkpoint_id: what was copied.
            in_the_step: see `ThreadCopy.copy`; then answers that the step has not taken yet go
                along.
        """
        reason = f"forked from thread {source!r} at checkpoint {checkpoint_id}"
        key = lock_key(fence.thread_id, self._namespace)
        new = (
            run_id,
            fence.thread_id,
            key,
            graph,
            fence.token,
            self.worker,
            base_checkpoint_id,
            reason,
        )
        await fetch_one(_SQL["fork"], *new, source, checkpoint_id, in_the_step)

    async def finish(
        self,
        run_id: str,
        *,
        fence: Fence,
        status: RunStatus,
        error: str | None,
        traceback: str | None = None,
        reason: str | None,
        checkpoint_id: str | None,
        consumed: bool = False,
        again_after_s: float | None = None,
        failures: int | None = None,
    ) -> datetime | None:
        """Write how the attempt under `fence` ended, and that its input is `consumed`, if it is;
        and when a worker may claim the run again, if one may.

        Returns:
            When; None where a newer attempt owns the row, or a newer lease the thread: nothing was
            written then.
        """
        outcome = (status, error, traceback, reason, checkpoint_id, consumed)
        outcome += (None if again_after_s is None else float(again_after_s), failures)
        return await self._finishes((run_id, *fence.standing, fence.thread_id, *outcome))

    async def complete_by_tables(
        self, run_id: str, *, fence: Fence, checkpoint_id: str | None
    ) -> bool:
        """Write that a run is complete which the tables show complete, but whose process died
        before it could say so.

        Returns:
            Whether it is written; not where a newer lease owns the thread.
        """
        return (
            await self._database.execute(
                _SQL["complete_by_tables"], run_id, *fence.standing, checkpoint_id
            )
            > 0
        )

    async def request_cancel(self, thread_id: str, *, channel: str) -> str | None:
        """Write that the run at work on the thread is to end, and say so on `channel`; its run_id,
        None: there is none.
        """
        row = await self._database.fetch_one(_SQL["request_cancel"], thread_id, channel)
        return None if row is None else row["run_id"]

    async def is_at_work(self, run_id: str) -> tuple[bool, bool]:
        """Whether the run stands as running, and whether anybody holds its thread's lease."""
        row = await self._database.fetch_one(_SQL["at_work"], run_id)
        return (False, False) if row is None else (row["at_work"], row["held"])

    async def settle_cancelled(
        self, run_id: str, *, fence: Fence, checkpoint_id: str | None
    ) -> bool:
        """Write that a run was cancelled whose process died before it could say so.

        Returns:
            Whether it is written; not where the run has ended otherwise, or a newer lease owns the
            thread.
        """
        return (
            await self._database.execute(
                _SQL["settle_cancelled"], run_id, *fence.standing, checkpoint_id
            )
            > 0
        )

    async def _write_starts(
        self, rows: Sequence[tuple[Any, ...]]
    ) -> dict[tuple[Any, ...], Mapping[str, Any]]:
        written = await self._direct.fetch(_SQL["start"], *map(list, zip(*rows, strict=True)))
        by_run = {row["run_id"]: row for row in written}
        return {row: by_run[row[0]] for row in rows if row[0] in by_run}

    async def _look_and_end(
        self, ends: Sequence[_End]
    ) -> dict[_End, tuple[WorkflowCheckpoint, bool]]:
        thread_ids, *rest = map(list, zip(*ends, strict=True))
        arguments = self._classifier.arguments(thread_ids)
        rows = await self._classifier.fetch(self._direct.fetch, END, *arguments, *rest)
        threads = await self._classifier.decode(rows)
        ended = {(row["ended"], row["ended_under"]): row["ended_at"] for row in rows}
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
        return await self._write_ends("finish", rows)

    async def _write_ends(
        self, statement: str, rows: Sequence[tuple[Any, ...]]
    ) -> dict[tuple[Any, ...], datetime]:
        written = await self._direct.fetch(_SQL[statement], *map(list, zip(*rows, strict=True)))
        ended = {
            (row["run_id"], row["fencing_token"], row["lease_id"]): row["finished_at"]
            for row in written
        }
        return {row: ended[row[:3]] for row in rows if row[:3] in ended}

    def _dump(
        self, what: str, value: Any, serde: SerializerProtocol
    ) -> tuple[str | None, bytes | None]:
        if value is None:
            return None, None
        try:
            stored = serde.dumps_typed(value)
        except InvalidArgumentError as error:
            message = f"the {what} cannot be stored: {error}"
            raise InvalidArgumentError(message, argument=what) from error
        except Exception as error:
            # whatever the serializer or the value's own hooks raise means the same
            raise InvalidArgumentError(
                f"the {what} cannot be stored, so another process could not go on with it:"
                f" {type(error).__name__} while serialising {type(value).__name__}; pass plain"
                " data, dataclasses, pydantic models or messages"
            ) from error
        if len(stored[1]) > MOST_BYTES:
            raise InvalidArgumentError(
                f"the {what} cannot be stored, so another process could not go on with it: it has"
                f" {len(stored[1]) / 1e9:.2f} GB, and Postgres takes no statement of more than"
                f" {MOST_BYTES / 1e9:.2f}; keep large values elsewhere, and pass where they are"
            )
        return stored

    async def _off_the_loop(self, work: Callable[[], T], *, heavy: bool) -> T:
        return (
            await asyncio.get_running_loop().run_in_executor(self._threads, work)
            if heavy
            else work()
        )


def _accepted(row: Mapping[str, Any]) -> Accepted:
    return Accepted(
        record_of(row),
        stored_input=(row["input_type"], row["input"]),
        stored_context=(row["context_type"], row["context"]),
        stored_config=(row["config_type"], row["config"]),
        stored_answers=(row["answers_type"], row["answers"]),
        consumed=row["consumed"] or row["input_type"] is None,
    )


def _load(serde: SerializerProtocol, stored: Stored) -> Any:
    kind, blob = stored
    return None if kind is None or blob is None else serde.loads_typed((kind, blob))


_COLUMNS: Final = {"token": "fencing_token", "worker": "attempted_by", "reason": "status_reason"}
"""Fields of a record whose columns have another name."""
_ALWAYS: Final = tuple(RunRecord.__dataclass_fields__)[:16]
"""Fields that each statement reads; those of a queue come after them."""


def record_of(row: Mapping[str, Any]) -> RunRecord:
    """The record of a row; columns that a statement does not read have their defaults."""
    values = {name: row[_COLUMNS.get(name, name)] for name in _ALWAYS}
    values["status"] = RunStatus(row["status"])
    values["earlier_attempts"] = tuple(map(_earlier, row["earlier_attempts"]))
    return RunRecord(**values)


def _earlier(stored: Any) -> EarlierAttempt:
    """One of asyncpg is text, one of psycopg an object already."""
    attempt: dict[str, Any] = json.loads(stored) if isinstance(stored, str) else stored
    times = {
        name: None if (at := attempt.get(name)) is None else datetime.fromisoformat(at)
        for name in ("started", "ended")
    }
    return EarlierAttempt(
        worker=attempt.get("worker"),
        outcome=attempt["outcome"],
        error=attempt.get("error"),
        traceback=attempt.get("traceback"),
        **times,
    )
