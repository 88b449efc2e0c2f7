"""One try of a run: opened in the ledger before the graph starts, closed there with how it ended."""

from __future__ import annotations

import logging
import time
from collections.abc import Mapping
from dataclasses import replace
from datetime import datetime
from typing import Any, Self

from langgraph.checkpoint.base.id import uuid6
from langgraph.errors import UnknownInterruptError, is_invalid_resume
from langgraph.runtime import RunControl
from langgraph.types import Command

from aiodurable.checkpoints.fences import Finished
from aiodurable.checkpoints.healing import drop_loose_answer
from aiodurable.checkpoints.history import Mark
from aiodurable.errors import CircuitOpenError, ClosedError, PostgresUnavailableError
from aiodurable.events import RunFinished, RunStarted, emit
from aiodurable.model import RunRecord, RunStatus, ThreadStatus, WorkflowCheckpoint
from aiodurable.runs.fitting import fitted
from aiodurable.runs.graphs import BoundGraph
from aiodurable.runs.guard import ThreadLease
from aiodurable.runs.healing import heal_thread
from aiodurable.runs.resume import Outcome, outcome_of
from aiodurable.runs.rooms import Rooms

__all__ = ["Attempt", "new_run_id"]

_log = logging.getLogger(__name__)

_NO_ERROR = (RunStatus.COMPLETE, RunStatus.INTERRUPTED)
"""Where an exception is none of the run's: of an interrupted one, that an answer was refused."""


def new_run_id() -> str:
    """A run_id that sorts by time."""
    return str(uuid6())


class Attempt:
    """An open attempt.

    Attributes:
        run_id: the run.
        resumed: whether it goes on with work left unfinished.
        input: what the graph is called with: the run's input until a checkpoint has consumed it, then None.
        context: the context the run was accepted with.
        graph: what runs it.
        lacking: nodes that were to run when it ended, and that the graph lacks.
        control: asks the graph to stop at its next superstep.
    """

    def __init__(
        self,
        rooms: Rooms,
        lease: ThreadLease,
        record: RunRecord,
        *,
        graph: BoundGraph,
        base: WorkflowCheckpoint,
        consumed: bool,
        input: Any,
        context: Any,
        answers: Mapping[str, Any] | None = None,
        loose: bool = False,
    ) -> None:
        self._rooms = rooms
        self._lease = lease
        self._record = record
        self._base = base
        self._consumed = consumed
        self._answers = answers or {}
        self.loose = loose
        self._began = time.monotonic()
        self.run_id = record.run_id
        self.resumed = consumed or record.attempts > 1
        self.input = None if consumed else input
        self.context = context
        self.graph = graph
        self.lacking: tuple[str, ...] = ()
        self.control = RunControl()
        lease.fence.finished = None  # from here on it is this attempt's doing
        emit(
            rooms.observers,
            RunStarted(
                record.thread_id,
                run_id=record.run_id,
                graph=record.graph,
                attempt=record.attempts,
                resumed=self.resumed,
            ),
        )

    @classmethod
    async def start(
        cls,
        rooms: Rooms,
        lease: ThreadLease,
        thread: WorkflowCheckpoint,
        *,
        graph: BoundGraph,
        run_id: str | None,
        input: Any,
        context: Any,
        seq: int,
        adopted: bool = False,
    ) -> Self:
        """A new run, the `seq`-th attempt under its lease. `adopted`: of work that plain LangGraph left: it has no input."""
        sent = time.monotonic()
        closing = {ThreadStatus.NEW: None, ThreadStatus.COMPLETE: RunStatus.COMPLETE}
        record, lease.fence.blank = await rooms.ledger.start(
            run_id or new_run_id(),
            lease.thread_id,
            graph=graph.name,
            token=lease.token,
            seq=seq,
            input=input,
            context=context,
            base_id=thread.checkpoint_id,
            closing=closing.get(thread.status, RunStatus.SUPERSEDED),
        )
        lease.fence.history.acknowledge(Mark(run_id=record.run_id), rooms.checkpoints.links.origin, sent)
        return cls(rooms, lease, record, graph=graph, base=thread, consumed=adopted, input=input, context=context)

    @classmethod
    async def resume(
        cls,
        rooms: Rooms,
        lease: ThreadLease,
        thread: WorkflowCheckpoint,
        *,
        graph: BoundGraph,
        context: Any,
        seq: int,
    ) -> Self:
        """One more try of the thread's newest run. Work that plain LangGraph left has none: it is adopted.

        Args:
            rooms: what it works with.
            lease: of the thread.
            thread: how it stands.
            graph: the graph to go on with.
            context: what it is adopted with.
            seq: its number among the attempts under the lease.

        Raises:
            GraphChangedError: the graph does not fit what is stored; no attempt was opened.
        """
        newest = await rooms.ledger.newest(lease.thread_id)
        adopted = newest is None or newest.record.status is RunStatus.COMPLETE
        graph = await fitted(rooms, lease, graph, thread, None if adopted else newest)
        loose = await heal_thread(rooms, lease)
        if newest is None or adopted:
            new = await cls.start(
                rooms, lease, thread, graph=graph, run_id=None, input=None, context=context, seq=seq, adopted=True
            )
            new.loose = loose
            return new
        given, given_context = newest.load(graph.serde)
        record = await rooms.ledger.retry(newest.record.run_id, token=lease.token, seq=seq)
        lease.fence.history.acknowledge(Mark(run_id=record.run_id), None, time.monotonic())
        return cls(
            rooms,
            lease,
            record,
            graph=graph,
            base=thread,
            consumed=newest.consumed,
            input=given,
            context=given_context,
            answers=newest.answers,
            loose=loose,
        )

    async def deliver(self, command: Command[Any] | None, answers: Mapping[str, Any]) -> None:
        """Give the graph these answers, and those that an earlier attempt could not deliver; write them down first.

        Args:
            command: what the answers came in; its update and goto are given to the graph too.
            answers: by interrupt id; open questions all of them.

        Raises:
            LeaseLostError: the lease is gone; nothing was delivered.
            InvalidArgumentError: an answer cannot be stored; nothing was written.
        """
        if not (answers or self._answers or self.loose):
            return
        thread_id = self._lease.thread_id
        asked = await self._rooms.threads.questions(thread_id)
        kept = dict(zip(asked.reached, asked.loose, strict=True)) if len(asked.reached) == len(asked.loose) else {}
        new = {**({} if asked.spent else kept), **answers}
        given = {**self._answers, **new}
        self._answers = {key: answer for key, answer in given.items() if key in asked.reached}
        await self._rooms.ledger.answer(
            self.run_id, token=self._lease.token, new=new, all=self._answers, closed=asked.closed_by(given)
        )
        if asked.loose and (asked.spent or asked.reached):
            await drop_loose_answer(self._rooms.checkpoints.database, self._lease.fence)
        if self._answers:
            rest: Command[Any] = Command() if command is None or asked.commanded else command
            self.input = replace(rest, resume=self._answers)
        elif command is not None and not asked.commanded and (command.update is not None or command.goto):
            self.input = replace(command, resume=None)

    async def close(self, error: BaseException | None) -> WorkflowCheckpoint | None:
        """Record how it ended; bounded in time, so that it can be shielded. None where that is not ours to tell."""
        if self._lease.over:
            return None  # whoever has the lease now tells how the run ends
        try:
            finished = self._lease.fence.finished
            taken = error is None or is_invalid_resume(error) or isinstance(error, UnknownInterruptError)
            delivered, self._answers = (self._answers, {}) if taken else ({}, self._answers)
            if error is None and finished is not None and (thread := await self._complete(finished)):
                return thread
            if delivered:
                await self._rooms.ledger.answers_over(self.run_id, token=self._lease.token)
            base_id = self._base.checkpoint_id
            thread, ended = await self._rooms.ledger.end(
                self.run_id,
                self._lease.thread_id,
                token=self._lease.token,
                base_id=None if self._consumed else base_id,
            )
            await self._rooms.checkpoints.check_history(self._lease.fence)
            if self._lease.lost:
                return None  # what the tables show now is not what this attempt did
            if again := [asked.id for asked in thread.interrupts if asked.id in delivered]:
                await self._rooms.ledger.answers_over(self.run_id, token=self._lease.token, withdrawn=again)
            consumed = self._consumed or thread.checkpoint_id != base_id
            if ended:
                self._announce(RunStatus.COMPLETE, error)
            elif outcome := outcome_of(thread, error, consumed=consumed, lacking=self._lacking(thread, error)):
                finished_at = await self._rooms.ledger.finish(
                    self.run_id,
                    token=self._lease.token,
                    status=outcome.status,
                    error=None if error is None or outcome.status in _NO_ERROR else repr(error),
                    reason=outcome.reason,
                    checkpoint_id=thread.checkpoint_id,
                )
                self._announce(outcome.status, error)
                if outcome.status is RunStatus.REJECTED:  # as if it had never been
                    return await self._rooms.threads.status(self._lease.thread_id, ignore_lock=True)
                thread = _closed(thread, outcome, finished_at)
        except (PostgresUnavailableError, CircuitOpenError, ClosedError):
            # The checkpoints are committed and tell the same; only the ledger's row stays open until somebody looks.
            _log.warning(
                "the outcome of run %s could not be recorded: Postgres is away or this Durable closed", self.run_id
            )
            return None
        return thread

    async def _complete(self, finished: Finished) -> WorkflowCheckpoint | None:
        """Close it at the checkpoint that this attempt itself wrote as the last; None where Postgres shows more than that."""
        run_id, thread_id, token = self.run_id, self._lease.thread_id, self._lease.token
        finished_at = await self._rooms.ledger.complete(
            run_id, thread_id, token=token, checkpoint_id=finished.checkpoint_id
        )
        if finished_at is None:
            return None
        self._announce(RunStatus.COMPLETE, None)
        return WorkflowCheckpoint(
            thread_id,
            ThreadStatus.COMPLETE,
            finished.checkpoint_id,
            finished.step,
            updated_at=finished.written_at,
            run_id=run_id,
            graph=self._record.graph,
            attempts=self._record.attempts,
            started_at=self._record.started_at,
            finished_at=finished_at,
            failed_at=self._record.failed_at,
        )

    def _lacking(self, thread: WorkflowCheckpoint, error: BaseException | None) -> tuple[str, ...]:
        """The nodes that are to run next and that the graph lacks, where the graph ended without an exception."""
        if error is None and thread.status not in (ThreadStatus.COMPLETE, ThreadStatus.INTERRUPTED):
            self.lacking = tuple(node for node in thread.pending if node not in self.graph.pregel.nodes)
        return self.lacking

    def _announce(self, status: RunStatus, error: BaseException | None) -> None:
        emit(
            self._rooms.observers,
            RunFinished(
                self._lease.thread_id,
                run_id=self.run_id,
                graph=self._record.graph,
                status=status,
                duration_s=time.monotonic() - self._began,
                error=None if error is None else type(error).__name__,
            ),
        )


def _closed(thread: WorkflowCheckpoint, outcome: Outcome, finished_at: datetime | None) -> WorkflowCheckpoint:
    """The thread as it stands once its run is closed: it was read while that was running."""
    if finished_at is None:
        return thread
    match outcome.status:
        case RunStatus.PAUSED:
            return replace(
                thread, status=ThreadStatus.PAUSED, reason=outcome.reason, finished_at=finished_at, doubt=None
            )
        case RunStatus.FAILED:
            return replace(
                thread, status=ThreadStatus.FAILED, finished_at=finished_at, failed_at=finished_at, doubt=None
            )
        case _:
            return replace(thread, finished_at=finished_at)
