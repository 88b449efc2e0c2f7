"""The ledger: one row per run in `aiodurable_runs`, written before the graph starts and closed when
an attempt ends.

Only the newest attempt writes: every statement compares its fencing token and lease id with those
of the thread's fence. A constraint of the table allows one `running` run per thread.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable, Mapping, Sequence
from concurrent.futures import Executor
from datetime import datetime
from typing import Any, TypeVar

from langgraph.checkpoint.serde.base import SerializerProtocol

from aiodurable.checkpoints.fences import Fence
from aiodurable.checkpoints.finished import Finished
from aiodurable.checkpoints.size_estimate import looks_large, stored_large
from aiodurable.checkpoints.write_session import WriteSession
from aiodurable.errors import InvalidArgumentError
from aiodurable.inert import Inert
from aiodurable.lock_keys import lock_key
from aiodurable.models import RunRecord, RunStatus, WorkflowCheckpoint
from aiodurable.postgres.direct import DirectPool
from aiodurable.postgres.locked_rows import PATIENCE_S, patiently
from aiodurable.postgres.pool import PsycopgPool
from aiodurable.postgres.retry import RUN_START
from aiodurable.postgres.sql import load
from aiodurable.runs.accepted import Accepted, Loaded, Needed, accepted_of, record_of
from aiodurable.runs.answer_rows import AnswerRows
from aiodurable.runs.effect_rows import EffectRows
from aiodurable.runs.ledger_writes import (
    LedgerWrites,
    check_fence,
    check_patience,
    refusal,
)
from aiodurable.runs.queued import QueuedRuns
from aiodurable.runs.same_input import same_input
from aiodurable.runs.signals import Signals, Sleep
from aiodurable.runs.stored_value import StoredValue, dump_value, load_value
from aiodurable.threads.status import Classifier

__all__ = ["Ledger"]

T = TypeVar("T")

_SQL = load("runs")
_KEPT_ATTEMPTS = 20
"""How many earlier attempts a row keeps."""

_TAKEN_BACK = "after this worker had claimed it, it was cancelled, or somebody else took it up"


class Ledger:
    """Reads and writes the ledger's rows.

    Args:
        database: where the ledger is.
        direct: direct connections to the same database, for the statements of every run.
        classifier: computes the status of a thread when its run ends.
        serde: the saver's serializer, which encodes (and may encrypt) inputs and contexts.
        namespace: the namespace of the locks. Each row has its thread's lock key, so that SQL can
            join it with `aiodurable_leases`.
        worker: host and process, recorded with each attempt.
        threads: the OS threads that serialise large values; None: the event loop's own.
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
        self._serde = serde
        self._inert = Inert(serde)
        self._namespace = namespace
        self.worker = worker
        self._threads = threads
        self._writes = LedgerWrites(direct, classifier)
        self.queued = QueuedRuns(direct, worker=worker)
        self.answers = AnswerRows(database, serde)
        self.effects = EffectRows(database, direct, worker=worker)
        self.signals = Signals(direct, serde)

    async def get(self, run_id: str) -> Accepted | None:
        """The run of this id."""
        row = await self._writes.get(run_id)
        return None if row is None else accepted_of(row)

    async def newest(self, thread_id: str) -> Accepted | None:
        """The newest started run of the thread; rejected and superseded runs do not count."""
        row = next(iter(await self._database.read(_SQL["newest"], thread_id)), None)
        return None if row is None or row["status"] == RunStatus.QUEUED else accepted_of(row)

    async def loaded(self, accepted: Accepted, serde: SerializerProtocol) -> Loaded:
        """Decode the values of a run for its resumption, large ones off the event loop."""
        blobs = tuple(blob for _, blob in (*accepted.needed.values, accepted.stored_input))
        return await self._off_the_loop(lambda: accepted.load(serde), heavy=stored_large(blobs))

    async def same_input(self, accepted: Accepted, given: Any) -> bool:
        """Whether `given` equals the run's input; False if that is no longer stored."""
        stored = accepted.stored_input
        if stored[0] is None:
            return False

        def compare() -> bool:
            dumped = dump_value("input", given, self._serde)
            return dumped == stored or same_input(
                load_value(self._inert, stored), load_value(self._inert, dumped)
            )

        return await self._off_the_loop(compare, heavy=looks_large((given,)))

    async def same_stored(self, one: StoredValue, other: StoredValue) -> bool:
        """Whether two stored values are equal, however they are encoded or encrypted."""
        return one == other or await self._off_the_loop(
            lambda: same_input(load_value(self._inert, one), load_value(self._inert, other)),
            heavy=True,
        )

    async def newest_of(self, thread_ids: Sequence[str]) -> dict[str, Needed]:
        """The values that a resumption of each thread's newest run would decode, by thread_id."""
        rows = await self._database.read(_SQL["newest_of"], list(thread_ids))
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
        traceparent: str | None = None,
        synchronous: bool = True,
    ) -> tuple[RunRecord, bool]:
        """Record a new run as running.

        Args:
            run_id: its id.
            fence: the thread's fence.
            graph, input, context, config: with these it is accepted.
            seq: the number of this attempt under the fence, from 1.
            serde: the graph's serializer for the ledger; None: the saver's.
            base_checkpoint_id: the thread's newest checkpoint.
            closing: the status that an earlier, unfinished run of the thread gets; None: there is
                none.
            traceparent: the trace context of the call.
            synchronous: whether the row has to be on disk when this returns. The thread's next
                commit brings it there anyway.

        Returns:
            The row, and whether the thread has no checkpoint yet.

        Raises:
            InvalidArgumentError: input, context or config cannot be serialised or contains a class
                that the graph may not build, or the run_id is in use; nothing was written.
            LeaseLostError: another lease has replaced this one; nothing was written.
            LockTimeoutError: another transaction locked the fence; nothing was written.
        """
        stored = await self.stored(input, context, config, serde)
        key = lock_key(fence.thread_id, self._namespace)
        attempt = (fence.token, fence.lease_id, self.worker, seq)
        deadline = time.monotonic() + PATIENCE_S
        while True:
            row = await self._writes.start(
                (
                    run_id,
                    fence.thread_id,
                    key,
                    graph,
                    *attempt,
                    *stored,
                    base_checkpoint_id,
                    closing,
                    traceparent,
                    synchronous or closing is RunStatus.SUPERSEDED,
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
    ) -> tuple[str | None, bytes | None, str | None, bytes | None, str | None, bytes | None]:
        """Encode a run's input, context and config: kind and bytes of each of the three.

        Raises:
            InvalidArgumentError: see `start`.
        """
        how = serde or self._serde
        return await self._off_the_loop(
            lambda: (
                *dump_value("input", input, how),
                *dump_value("context", context, how),
                *dump_value("config", config, how),
            ),
            heavy=looks_large((input, context, config)),
        )

    async def _check_start(self, run_id: str, fence: Fence, deadline: float) -> None:
        """Raise why a run could not be started; return if a retry may succeed."""
        row = await self._database.fetch_one(
            _SQL["not_started"], fence.thread_id, run_id, fence.token
        )
        assert row is not None, "the statement always returns a row"
        check_fence(fence, row)
        if row["taken"]:
            raise InvalidArgumentError(
                f"cannot start run {run_id!r} of thread {fence.thread_id!r}: another run has this"
                " id; a run_id names one run of one thread, so use another one",
                thread_id=fence.thread_id,
            )
        check_patience(deadline, f"start run {run_id!r}", fence)

    async def retry(
        self,
        run_id: str,
        *,
        fence: Fence,
        seq: int = 1,
        head: str | None = None,
        claim: str | None = None,
    ) -> RunRecord:
        """Record that a run is running again: as one more attempt, if it had crashed or failed.

        Args:
            run_id: the run.
            fence: its thread's fence.
            seq: the number of this attempt under the fence, from 1.
            head: the thread's newest checkpoint.
            claim: of the worker that has claimed it; None: nobody has to.

        Raises:
            LeaseLostError: another lease has replaced this one; nothing was written.
            WorkflowExecutionError: the claim is gone; nothing was written.
        """
        attempt = (*fence.standing, self.worker, seq, _KEPT_ATTEMPTS, head, claim)
        row = await patiently(
            lambda: self._database.fetch_one(_SQL["retry"], run_id, *attempt),
            f"resume run {run_id!r}",
            fence.thread_id,
        )
        if row is None:
            why = _TAKEN_BACK if claim is not None else None
            raise await refusal(self._database, fence, f"resume run {run_id!r}", why)
        return record_of(row)

    def completed(self, session: WriteSession, finished: Finished) -> datetime | None:
        """When the run of this session ended, if its last checkpoint has recorded that."""
        end = session.completed
        if end is None or end.checkpoint_id != finished.checkpoint_id:
            return None
        if end.awaited:
            self._writes.awaited.add(session.thread_id)
        return end.finished_at

    async def complete(self, run_id: str, *, fence: Fence, checkpoint_id: str) -> datetime | None:
        """Record that the attempt under `fence` is complete, if this checkpoint is still the
        thread's newest and has no writes after it.

        Args:
            run_id: the run.
            fence: its thread's fence.
            checkpoint_id: a checkpoint that the attempt wrote and after which no work is left.

        Returns:
            When it ended. The row may not be on disk yet, but the checkpoints show the same. None:
            nothing was recorded; `end` finds out why.
        """
        row = (run_id, *fence.standing, fence.thread_id, checkpoint_id)
        return await self._writes.complete(row)

    async def end(
        self, run_id: str, *, fence: Fence, consumed: bool
    ) -> tuple[WorkflowCheckpoint, bool]:
        """Read the thread's status under its lease. If it is complete, record the attempt under
        `fence` as complete.

        Args:
            run_id: the run.
            fence: its thread's fence.
            consumed: whether a checkpoint has consumed the run's input. If not, the run is not
                complete, even if the thread is.

        Returns:
            The thread, and whether the end was recorded. The row may not be on disk yet, but the
            checkpoints show the same.
        """
        row = (fence.thread_id, run_id, fence.token, fence.lease_id, consumed)
        ended = await self._writes.end(row)
        assert ended is not None, "every thread has a status"
        return ended

    def is_awaited(self, thread_id: str) -> bool:
        """Whether a run of the thread has completed here for which a queued one waits; says so
        once.
        """
        awaited = thread_id in self._writes.awaited
        self._writes.awaited.discard(thread_id)
        return awaited

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
        """Record the run of a fork: paused, without input, with the context of the run that wrote
        the checkpoint.

        Args:
            fetch_one: runs a statement in the transaction of the copy, which locks the fence.
            run_id: its id.
            fence: the new thread's fence.
            graph: the name of its graph; None: that of the run that wrote the checkpoint.
            base_checkpoint_id: the new thread's newest checkpoint.
            source, checkpoint_id: the copied checkpoint.
            in_the_step: see `ThreadCopy.copy`. Then the copy includes answers that the step has not
                used yet.
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
        sleep: Sleep | None = None,
    ) -> datetime | None:
        """Record how the attempt under `fence` ended, whether its input is `consumed`, and when a
        worker may claim the run again: where it is to be tried again, or sleeps.

        Returns:
            When it ended. None: a newer attempt or lease has replaced this one, and nothing was
            written.
        """
        outcome = (status, error, traceback, reason, checkpoint_id, consumed)
        outcome += (None if again_after_s is None else float(again_after_s), failures)
        outcome += (None, None) if sleep is None else (sleep.waiting_for, sleep.due)
        return await self._writes.finish((run_id, *fence.standing, fence.thread_id, *outcome))

    async def complete_by_tables(
        self, run_id: str, *, fence: Fence, checkpoint_id: str | None
    ) -> bool:
        """Record that a run is complete, as the checkpoints show, although its process died before
        it could do so.

        Returns:
            Whether it was recorded; not if a newer lease has replaced this one.
        """
        return await self._settle("complete_by_tables", run_id, fence, checkpoint_id)

    async def request_cancel(self, thread_id: str, *, channel: str) -> str | None:
        """Record that the thread's running run must end, and notify its process on `channel`.
        Returns its run_id; None: no run is running.
        """
        row = await patiently(
            lambda: self._database.fetch_one(_SQL["request_cancel"], thread_id, channel),
            f"cancel the run of thread {thread_id!r}",
            thread_id,
        )
        return None if row is None else row["run_id"]

    async def is_at_work(self, run_id: str) -> tuple[bool, bool]:
        """Whether the ledger says that the run is running, and whether anybody holds its lease."""
        row = await self._database.fetch_one(_SQL["at_work"], run_id)
        return (False, False) if row is None else (row["at_work"], row["held"])

    async def settle_cancelled(
        self, run_id: str, *, fence: Fence, checkpoint_id: str | None
    ) -> bool:
        """Record that a run was cancelled, although its process died before it could do so.

        Returns:
            Whether it was recorded; not if the run has ended otherwise, or a newer lease has
            replaced this one.
        """
        return await self._settle("settle_cancelled", run_id, fence, checkpoint_id)

    async def _settle(
        self, statement: str, run_id: str, fence: Fence, checkpoint_id: str | None
    ) -> bool:
        changed = await patiently(
            lambda: self._database.execute(_SQL[statement], run_id, *fence.standing, checkpoint_id),
            f"record the end of run {run_id!r}",
            fence.thread_id,
        )
        return changed > 0

    async def _off_the_loop(self, work: Callable[[], T], *, heavy: bool) -> T:
        return (
            await asyncio.get_running_loop().run_in_executor(self._threads, work)
            if heavy
            else work()
        )
