"""One attempt of a run: the ledger records its start before the graph runs, and then its end."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import replace
from datetime import datetime
from typing import Any

from langgraph.errors import UnknownInterruptError, is_invalid_resume
from langgraph.runtime import RunControl
from langgraph.types import Command

from aiodurable.checkpoints.finished import Finished
from aiodurable.errors import ClosedError, LeaseLostError, PostgresUnavailableError
from aiodurable.events import AttemptEnded, AttemptStarted, emit
from aiodurable.models import PauseReason, RunRecord, RunStatus, ThreadStatus, WorkflowCheckpoint
from aiodurable.runs.accepted import Loaded
from aiodurable.runs.answer_delivery import AnswerDelivery, of_waits
from aiodurable.runs.durable_time import AttemptClock
from aiodurable.runs.ending import DecideEnding, Ending
from aiodurable.runs.error_text import error_text, traceback_text
from aiodurable.runs.graphs import BoundGraph
from aiodurable.runs.lease import ThreadLease
from aiodurable.runs.outcome import closed, outcome_of
from aiodurable.runs.services import Services
from aiodurable.runs.signals import Due, Sleep

__all__ = ["Attempt"]

_log = logging.getLogger(__name__)

_FAILED = (RunStatus.FAILED, RunStatus.REJECTED, RunStatus.QUARANTINED)

_WRITTEN_WITHIN_S = 1.0
"""Seconds that an attempt which is cancelled waits for the answer to what it has written."""

_DELIVERED_AFTER_S = 0.2
"""Seconds until a worker delivers a signal that an attempt could not."""


class Attempt:
    """An open attempt.

    Attributes:
        run_id: the run.
        number: that of the attempt, from 1.
        resumed: whether it goes on with unfinished work.
        input: the graph's input: the run's, until a checkpoint has consumed it; then None.
        context: the context with which the run was accepted.
        config: the stored part of the config with which the run was accepted.
        graph: the graph that runs it.
        lacking: nodes that would run next and that the graph lacks.
        control: requests the graph to stop at its next superstep.
        clock: by which its nodes sleep.
        decide_ending: says what becomes of the run where the attempt does not complete it.
    """

    def __init__(
        self,
        services: Services,
        lease: ThreadLease,
        record: RunRecord,
        loaded: Loaded,
        *,
        graph: BoundGraph,
        consumed: bool,
        resumed: bool,
        has_stray_answer: bool = False,
        blank: bool = False,
        head: str | None = None,
    ) -> None:
        self._services = services
        self._lease = lease
        self._record = record
        self._delivery = AnswerDelivery(
            services, lease, record.run_id, graph, loaded.answers, has_stray_answer=has_stray_answer
        )
        self._began = time.monotonic()
        self._accepting = not resumed
        self.run_id = record.run_id
        self.number = record.attempts
        self.resumed = resumed
        self.input = None if consumed else loaded.input
        self.context = loaded.context
        self.config = loaded.config
        self.graph = graph
        self.lacking: tuple[str, ...] = ()
        self.decide_ending: DecideEnding | None = None
        self._head = head
        self.control = RunControl()
        self.clock = AttemptClock(record.started_at, self._began)
        self._session = lease.write_with(
            lease.session.of_attempt(
                unconsumed=None if consumed else record.run_id,
                blank=blank,
                holds_input=graph.starts_without_code,
                completes=record.run_id if graph.tells_its_end else None,
            )
        )
        if services.observers:
            emit(
                services.observers,
                AttemptStarted(
                    record.thread_id,
                    run_id=record.run_id,
                    graph=record.graph,
                    attempt=record.attempts,
                    resumed=self.resumed,
                    traceparent=record.traceparent,
                ),
            )

    async def deliver(
        self,
        thread: WorkflowCheckpoint,
        command: Command[Any] | None,
        answers: Mapping[str, Any],
        due: Due | None,
    ) -> None:
        """Store these answers, then pass them to the graph, with those that an earlier attempt
        could not deliver.

        Args:
            thread: the thread.
            command: the command of the answers; the graph gets its update and goto, too.
            answers: the answers by interrupt id; all of these questions are open.
            due: which of the thread's sleeps and waits are over.

        Raises:
            LeaseLostError: the lease is gone; nothing was delivered.
            InvalidArgumentError: an answer cannot be stored; nothing was written.
            ConfigurationError: plain LangGraph left an answer of a class that the graph may not
                build.
        """
        self.clock.open = {wait.id: wait for wait in thread.waits}
        over = due is not None and due.ended
        if not (answers or over or self._delivery.waiting):
            return
        given = await self._delivery.store(command, answers, head=thread.checkpoint_id, due=due)
        delivered = self._delivery.answers
        self.clock.open = {wait.id: wait for wait in thread.waits if wait.id not in delivered}
        if given is not None:
            self.input = given

    def recorded(self) -> WorkflowCheckpoint | None:
        """The thread, if the commit of the run's last checkpoint has recorded its end too, and is
        certainly there: then `close` would wait for nothing.
        """
        session, services = self._session, self._services
        if self._lease.over or session.held is not None or session.finished is None:
            return None
        finished_at = services.ledger.completed(session, session.finished)
        if finished_at is None or not services.checkpoints.has_history(session):
            return None
        return self._completed(session.finished, finished_at)

    async def close(self, error: BaseException | None) -> WorkflowCheckpoint | None:
        """Record the outcome. Bounded in time, so that it can be shielded. Returns the thread; None
        if this attempt does not know its status.
        """
        if self._lease.over:
            return None  # the new holder of the lease records how the run ends
        try:
            return await self._close(error)
        except (PostgresUnavailableError, ClosedError):
            # The committed checkpoints show the outcome. Only the ledger's row stays open until the
            # next call.
            _log.warning(
                "cannot record the outcome of run %s: Postgres cannot be reached or this Durable"
                " is closed",
                self.run_id,
            )
        except LeaseLostError:
            if error is None:
                raise
        except Exception:  # it must not replace the run's own exception
            _log.exception("cannot record the outcome of run %s", self.run_id)
        return None

    async def _close(self, error: BaseException | None) -> WorkflowCheckpoint | None:
        if self._session.held is not None:  # its graph stopped before its first step
            await self._services.checkpoints.get_checkpointer().writer.flush(self._session)
        if isinstance(error, asyncio.CancelledError | GeneratorExit):
            await self._stop_writing()
        finished = self._session.finished
        refused = error is not None and (
            is_invalid_resume(error) or isinstance(error, UnknownInterruptError)
        )
        over = error is None or refused
        delivery = self._delivery
        written = over and bool(delivery.answers or delivery.beside)
        delivered, delivery.answers = (delivery.answers, {}) if over else ({}, delivery.answers)
        kept, withdrawn = await delivery.not_used(delivered) if refused else ({}, ())
        if error is None and finished is not None and (thread := await self._complete(finished)):
            return thread
        if written:
            await delivery.over(withdrawn=withdrawn, kept=kept)
        consumed = self._session.unconsumed is None
        thread, ended = await self._services.ledger.end(
            self.run_id, fence=self._lease.fence, consumed=consumed
        )
        await self._services.checkpoints.check_history(self._session)
        if self._lease.lost:
            return None  # the tables may already show another run's work
        if ended:
            self._announce(RunStatus.COMPLETE, error)
            return thread
        if again := [asked.id for asked in thread.interrupts if asked.id in delivered]:
            await delivery.over(withdrawn=again, kept=kept)
        outcome = outcome_of(
            thread,
            error,
            consumed=consumed,
            accepting=self._accepting,
            stopping=self._services.cancellations.draining,
            lacking=self._lacking(thread, error),
        )
        if outcome is None:
            return thread
        raised = None if refused or outcome.status is RunStatus.COMPLETE else error
        ending = Ending(outcome, raised)
        if self.decide_ending is not None:
            ending = self.decide_ending(outcome, raised, thread.checkpoint_id != self._head)
        if (kept or of_waits(delivery.answers)) and ending.outcome.status is RunStatus.INTERRUPTED:
            # signals that have left the mailbox: a worker delivers them
            ending = self._continued(ending, _DELIVERED_AFTER_S)
        elif ending.outcome.reason == PauseReason.DRAINED and self._services.cancellations.draining:
            ending = self._continued(ending, 0)  # no caller is left here
        return await self._finish(thread, ending, error, consumed=consumed)

    def _continued(self, ending: Ending, after_s: float) -> Ending:
        """The ending, after which a worker goes on with the run, if its graph has a name."""
        return replace(ending, again_after_s=None if self.graph.name is None else after_s)

    async def _finish(
        self,
        thread: WorkflowCheckpoint,
        ending: Ending,
        error: BaseException | None,
        *,
        consumed: bool,
    ) -> WorkflowCheckpoint:
        """Write the ending to the run's row, unless its last checkpoint has completed it since."""
        outcome, raised = ending.outcome, ending.error
        finished_at = await self._services.ledger.finish(
            self.run_id,
            fence=self._lease.fence,
            status=outcome.status,
            error=None if raised is None else error_text(raised),
            traceback=(
                traceback_text(raised) if raised is not None and outcome.status in _FAILED else None
            ),
            reason=outcome.reason,
            checkpoint_id=thread.checkpoint_id,
            consumed=consumed,
            again_after_s=ending.again_after_s,
            failures=ending.failures,
            sleep=Sleep.of(thread.waits) if thread.waits and outcome.waits else None,
        )
        if thread.waits and outcome.waits and self.graph.name is None:
            _log.warning(
                "run %s of thread %r sleeps, and no worker goes on with it, as its graph has no"
                " name: register it with Durable(graphs=…), or call the run again when it is due",
                self.run_id,
                self._lease.thread_id,
            )
        if finished_at is None:  # its last checkpoint has ended it since, or it is another's now
            thread, ended = await self._services.ledger.end(
                self.run_id, fence=self._lease.fence, consumed=self._session.unconsumed is None
            )
            if ended:
                self._announce(RunStatus.COMPLETE, error)
                return thread
        self._announce(outcome.status, error)
        if outcome.status is RunStatus.REJECTED:  # as if it had never been
            return await self._services.threads.status(self._lease.thread_id, ignore_lock=True)
        return closed(thread, outcome, finished_at)

    async def _stop_writing(self) -> None:
        """Refuse what the graph writes from now on, and wait for what it has sent: how the attempt
        ended is read after that.
        """
        self._session.closed = True
        self._lease.write_with(self._session.of_attempt(unconsumed=None, blank=False))
        with suppress(TimeoutError):
            async with asyncio.timeout(_WRITTEN_WITHIN_S):
                await self._services.checkpoints.get_checkpointer().writer.settle(self._session)

    async def _complete(self, finished: Finished) -> WorkflowCheckpoint | None:
        """Record it as complete at the last checkpoint that it wrote. None if the thread has other
        rows after it.
        """
        fence = self._lease.fence
        finished_at = self._services.ledger.completed(self._session, finished)
        if finished_at is None:
            finished_at = await self._services.ledger.complete(
                self.run_id, fence=fence, checkpoint_id=finished.checkpoint_id
            )
        else:  # a failover may have lost it since
            await self._services.checkpoints.check_history(self._session)
        if finished_at is None or self._lease.lost:
            return None
        return self._completed(finished, finished_at)

    def _completed(self, finished: Finished, finished_at: datetime) -> WorkflowCheckpoint:
        self._announce(RunStatus.COMPLETE, None)
        return WorkflowCheckpoint(
            self._lease.thread_id,
            ThreadStatus.COMPLETE,
            finished.checkpoint_id,
            finished.step,
            updated_at=finished.written_at,
            run_id=self.run_id,
            graph=self._record.graph,
            attempts=self._record.attempts,
            started_at=self._record.started_at,
            finished_at=finished_at,
            failed_at=self._record.failed_at,
        )

    def _lacking(self, thread: WorkflowCheckpoint, error: BaseException | None) -> tuple[str, ...]:
        """The pending nodes that the graph lacks, if it ended without an exception."""
        if error is None and thread.status not in (ThreadStatus.COMPLETE, ThreadStatus.INTERRUPTED):
            self.lacking = tuple(
                node for node in thread.pending if node not in self.graph.pregel.nodes
            )
        return self.lacking

    def _announce(self, status: RunStatus, error: BaseException | None) -> None:
        if not self._services.observers:
            return
        emit(
            self._services.observers,
            AttemptEnded(
                self._lease.thread_id,
                run_id=self.run_id,
                graph=self._record.graph,
                status=status,
                duration_s=time.monotonic() - self._began,
                error=None if error is None else type(error).__name__,
                attempt=self.number,
                exception=error,
            ),
        )
