"""Every error that aiodurable raises by itself.

A message says what could not be done, why, and what to do; the values are attributes too. All of
them pickle. A node's own exception is never wrapped: it reaches the caller as it was raised.
"""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime
from typing import Any

from aiodurable.models import LockHolder, RunStatus, ThreadStatus

__all__ = [
    "AiodurableError",
    "AlreadyAnsweredError",
    "CheckpointNotFoundError",
    "CircuitOpenError",
    "ClosedError",
    "ConfigurationError",
    "GraphChangedError",
    "GraphNotRegisteredError",
    "HistoryLostError",
    "InvalidArgumentError",
    "LeaseLostError",
    "LockBusyError",
    "LockCapacityError",
    "LockError",
    "LockTimeoutError",
    "NothingToAnswerError",
    "OutOfResourcesError",
    "PostgresUnavailableError",
    "ResultPrunedError",
    "RunCancelledError",
    "RunFailedError",
    "RunInProgressError",
    "RunNotFoundError",
    "SchemaMismatchError",
    "SessionLocksUnsupportedError",
    "ThreadCompleteError",
    "ThreadExistsError",
    "ThreadInterruptedError",
    "ThreadNotFoundError",
    "ThreadPausedError",
    "ThreadQuarantinedError",
    "WorkflowAlreadyRunningError",
    "WorkflowExecutionError",
]


class AiodurableError(Exception):
    """The root of all of them. `thread_id` is the thread it is about, or None."""

    thread_id: str | None

    def __init__(self, message: str, *, thread_id: str | None = None) -> None:
        super().__init__(message)
        self.thread_id = thread_id


class ConfigurationError(AiodurableError, ValueError):
    """What the operator set cannot work: a DSN, a setting, a graph, a right; nothing was done."""


class InvalidArgumentError(AiodurableError, ValueError):
    """What the caller passed cannot be used: a thread_id, a filter, an option of a call; nothing
    was done.

    Attributes:
        argument: the name of the argument that is wrong, where it is one.
    """

    def __init__(
        self, message: str, *, thread_id: str | None = None, argument: str | None = None
    ) -> None:
        super().__init__(message, thread_id=thread_id)
        self.argument = argument


class ClosedError(AiodurableError):
    """The object was used before it was opened or after it was closed: the caller's doing."""


class SchemaMismatchError(AiodurableError):
    """The database's tables are newer than this library, or missing and `setup` is switched off.

    Attributes:
        found: the version in the database, None where there is none.
        wanted: the version this library works with.
    """

    def __init__(
        self, message: str, *, found: int | None = None, wanted: int | None = None
    ) -> None:
        super().__init__(message)
        self.found = found
        self.wanted = wanted


class PostgresUnavailableError(AiodurableError):
    """Postgres could not be reached or refused the connection: the world's doing. The driver's
    error is the cause.
    """


class OutOfResourcesError(PostgresUnavailableError):
    """Postgres, or this process, has run out of what the call needs. The driver's error is the
    cause.

    Attributes:
        resource: `disk`, `memory`, `locks` (the server's lock table), `connections`, or
            `descriptors` (this process's).
    """

    def __init__(
        self, message: str, *, thread_id: str | None = None, resource: str = "memory"
    ) -> None:
        super().__init__(message, thread_id=thread_id)
        self.resource = resource


class CircuitOpenError(PostgresUnavailableError):
    """Postgres failed often enough that calls are refused at once for a while.

    Attributes:
        retry_after_s: seconds until the next try is let through.
    """

    def __init__(self, message: str, *, retry_after_s: float = 0.0) -> None:
        super().__init__(message)
        self.retry_after_s = retry_after_s


class LockError(AiodurableError):
    """A lease could not be had or kept."""


class LockBusyError(LockError):
    """Somebody else holds the lock.

    Attributes:
        holder: who holds it, None where that is unknown (it may be gone already).
        since: when the holder took it, as far as Postgres knows.
    """

    def __init__(
        self,
        message: str,
        *,
        thread_id: str | None = None,
        holder: LockHolder | None = None,
        since: datetime | None = None,
    ) -> None:
        super().__init__(message, thread_id=thread_id)
        self.holder = holder
        self.since = since


class WorkflowAlreadyRunningError(LockBusyError):
    """Another run advances this thread at the moment; nothing was started."""


class LockTimeoutError(LockError, TimeoutError):
    """The lock did not become free within the time given. It is not held."""


class LeaseLostError(LockError):
    """The lease is gone: what ran under it was cancelled and can write no checkpoint any more.

    Attributes:
        taken_over: whether somebody else has had the lease since; None where that is not known.
    """

    def __init__(
        self, message: str, *, thread_id: str | None = None, taken_over: bool | None = None
    ) -> None:
        super().__init__(message, thread_id=thread_id)
        self.taken_over = taken_over


class HistoryLostError(LeaseLostError):
    """The database no longer has the last checkpoint it acknowledged: a failover lost commits.

    The run was ended, because going on would build on history that is not there; a resumption
    begins at what there is.

    Attributes:
        checkpoint_id: the checkpoint that was acknowledged and is missing.
    """

    def __init__(
        self,
        message: str,
        *,
        thread_id: str | None = None,
        taken_over: bool | None = None,
        checkpoint_id: str | None = None,
    ) -> None:
        super().__init__(message, thread_id=thread_id, taken_over=taken_over)
        self.checkpoint_id = checkpoint_id


class LockCapacityError(LockError):
    """One more lock would bring the server's shared lock table near its end, which would be an
    outage for everybody.
    """


class SessionLocksUnsupportedError(LockError, ConfigurationError):
    """The connection cannot hold session locks: a pooler in transaction mode, a standby, or no
    exclusion at all.
    """


class WorkflowExecutionError(AiodurableError):
    """A workflow could not be started or resumed as asked."""


class ThreadNotFoundError(WorkflowExecutionError, LookupError):
    """No checkpoint and no run is known for this thread, and no input was given to start it."""


class CheckpointNotFoundError(WorkflowExecutionError, LookupError):
    """The thread is known, but not the checkpoint of it that was asked for.

    Attributes:
        checkpoint_id: its id, where it was asked for by that.
    """

    def __init__(
        self, message: str, *, thread_id: str | None = None, checkpoint_id: str | None = None
    ) -> None:
        super().__init__(message, thread_id=thread_id)
        self.checkpoint_id = checkpoint_id


class ThreadInterruptedError(WorkflowExecutionError):
    """The thread waits for an answer: `run.answer(value)` gives it.

    Attributes:
        interrupts: the open questions, as LangGraph's `Interrupt` objects.
    """

    def __init__(
        self, message: str, *, thread_id: str | None = None, interrupts: Sequence[Any] = ()
    ) -> None:
        super().__init__(message, thread_id=thread_id)
        self.interrupts = tuple(interrupts)


class ThreadPausedError(WorkflowExecutionError):
    """The thread stopped on purpose, at a gate or because a person cancelled it: only
    `run.ainvoke()` goes on.

    Attributes:
        reason: why it is paused, as the ledger says.
        pending: the nodes that would run next, where the tables tell.
    """

    def __init__(
        self,
        message: str,
        *,
        thread_id: str | None = None,
        reason: str | None = None,
        pending: Sequence[str] = (),
    ) -> None:
        super().__init__(message, thread_id=thread_id)
        self.reason = reason
        self.pending = tuple(pending)


class NothingToAnswerError(WorkflowExecutionError):
    """An answer came for a question that the thread does not ask; it was not delivered to any
    other.

    Attributes:
        status: the status the thread is in.
        interrupt_ids: the questions that this answer named.
    """

    def __init__(
        self,
        message: str,
        *,
        thread_id: str | None = None,
        status: ThreadStatus | None = None,
        interrupt_ids: Sequence[str] = (),
    ) -> None:
        super().__init__(message, thread_id=thread_id)
        self.status = status
        self.interrupt_ids = tuple(interrupt_ids)


class AlreadyAnsweredError(WorkflowExecutionError):
    """The question was answered before; this answer was not delivered to any question.

    Attributes:
        interrupt_ids: the questions that this answer named, or was meant for.
        answered_at: when they were answered, where that is recorded.
    """

    def __init__(
        self,
        message: str,
        *,
        thread_id: str | None = None,
        interrupt_ids: Sequence[str] = (),
        answered_at: datetime | None = None,
    ) -> None:
        super().__init__(message, thread_id=thread_id)
        self.interrupt_ids = tuple(interrupt_ids)
        self.answered_at = answered_at


class RunInProgressError(WorkflowExecutionError):
    """The thread has a run that is not finished, and this call does not go on with it.

    Attributes:
        status: the status that the thread is in.
    """

    def __init__(
        self, message: str, *, thread_id: str | None = None, status: ThreadStatus | None = None
    ) -> None:
        super().__init__(message, thread_id=thread_id)
        self.status = status


class ThreadCompleteError(WorkflowExecutionError):
    """The thread is complete: there is nothing left to try again."""


class ThreadExistsError(WorkflowExecutionError):
    """A new thread cannot have this thread_id: something is known of it already."""


class ThreadQuarantinedError(WorkflowExecutionError):
    """The run failed as often as it may, and is set aside until a person retries it.

    Attributes:
        attempts: how often it was attempted.
    """

    def __init__(self, message: str, *, thread_id: str | None = None, attempts: int = 0) -> None:
        super().__init__(message, thread_id=thread_id)
        self.attempts = attempts


class RunNotFoundError(WorkflowExecutionError, LookupError):
    """The ledger has no run of this run_id.

    Attributes:
        run_id: the run.
    """

    def __init__(
        self, message: str, *, thread_id: str | None = None, run_id: str | None = None
    ) -> None:
        super().__init__(message, thread_id=thread_id)
        self.run_id = run_id


class RunFailedError(WorkflowExecutionError):
    """The run that was waited for is over without a result: it was set aside, or its input refused.

    Attributes:
        run_id: the run.
        status: how it stands.
        error: `repr` of the exception that ended it, where one did.
        traceback: of that exception.
    """

    def __init__(
        self,
        message: str,
        *,
        thread_id: str | None = None,
        run_id: str | None = None,
        status: RunStatus | None = None,
        error: str | None = None,
        traceback: str | None = None,
    ) -> None:
        super().__init__(message, thread_id=thread_id)
        self.run_id = run_id
        self.status = status
        self.error = error
        self.traceback = traceback


class ResultPrunedError(WorkflowExecutionError, LookupError):
    """The run is complete, but the checkpoint that held its result was pruned.

    Attributes:
        run_id: the run.
    """

    def __init__(
        self, message: str, *, thread_id: str | None = None, run_id: str | None = None
    ) -> None:
        super().__init__(message, thread_id=thread_id)
        self.run_id = run_id


class RunCancelledError(WorkflowExecutionError):
    """Somebody cancelled the run (`durable.threads.cancel`); its thread is paused.

    Attributes:
        run_id: the run.
        requested_at: when the cancellation was requested.
    """

    def __init__(
        self,
        message: str,
        *,
        thread_id: str | None = None,
        run_id: str | None = None,
        requested_at: datetime | None = None,
    ) -> None:
        super().__init__(message, thread_id=thread_id)
        self.run_id = run_id
        self.requested_at = requested_at


class GraphChangedError(WorkflowExecutionError):
    """The graph given does not fit what is stored of the unfinished thread; nothing ran, and
    nothing was dropped.

    Attributes:
        graph: the name of the graph that was given.
        recorded: the name of the graph that the run was accepted with.
        missing_nodes: nodes that the thread needs and that the graph lacks, or that would not know
            what they asked.
        missing_channels: channels that start a node of the thread's step, and that nothing in the
            graph writes.
        undecodable: classes of stored values that this process cannot rebuild.
    """

    def __init__(
        self,
        message: str,
        *,
        thread_id: str | None = None,
        graph: str | None = None,
        recorded: str | None = None,
        missing_nodes: Sequence[str] = (),
        missing_channels: Sequence[str] = (),
        undecodable: Sequence[str] = (),
    ) -> None:
        super().__init__(message, thread_id=thread_id)
        self.graph = graph
        self.recorded = recorded
        self.missing_nodes = tuple(missing_nodes)
        self.missing_channels = tuple(missing_channels)
        self.undecodable = tuple(undecodable)


class GraphNotRegisteredError(WorkflowExecutionError, LookupError):
    """No graph of that name was given to `Durable(graphs=…)`."""


for _name in __all__:
    # what a traceback and a pickle name is what people import
    globals()[_name].__module__ = "aiodurable"
