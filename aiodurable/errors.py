"""The errors that aiodurable raises.

A message says what failed, why, and what to do; the values are attributes, too. All errors pickle.
A node's own exception is never wrapped: it reaches the caller as the node raised it.
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
    "RunTimeoutError",
    "ScheduleNotFoundError",
    "SchemaMismatchError",
    "SessionLocksUnsupportedError",
    "StatementRefusedError",
    "ThreadCompleteError",
    "ThreadExistsError",
    "ThreadInterruptedError",
    "ThreadNotFoundError",
    "ThreadPausedError",
    "ThreadQuarantinedError",
    "WaitTimeoutError",
    "WorkflowAlreadyRunningError",
    "WorkflowExecutionError",
]


class AiodurableError(Exception):
    """The base class of all these errors. `thread_id` is the thread it is about, or None."""

    thread_id: str | None

    def __init__(self, message: str, *, thread_id: str | None = None) -> None:
        super().__init__(message)
        self.thread_id = thread_id


class ConfigurationError(AiodurableError, ValueError):
    """The operator's configuration cannot work: a DSN, a setting, a graph, a right. Nothing was
    done.
    """


class InvalidArgumentError(AiodurableError, ValueError):
    """The caller passed an invalid argument: a thread_id, a filter, an option of a call. Nothing
    was done.

    Attributes:
        argument: the name of the invalid argument; None if several together are invalid.
    """

    def __init__(
        self, message: str, *, thread_id: str | None = None, argument: str | None = None
    ) -> None:
        super().__init__(message, thread_id=thread_id)
        self.argument = argument


class ClosedError(AiodurableError):
    """The caller used the object before opening or after closing it."""


class SchemaMismatchError(AiodurableError):
    """The database's tables are newer than this library, or are older or missing and this process
    may not migrate.

    Attributes:
        found: the version in the database; None if there is none.
        wanted: the version that this library needs.
    """

    def __init__(
        self, message: str, *, found: int | None = None, wanted: int | None = None
    ) -> None:
        super().__init__(message)
        self.found = found
        self.wanted = wanted


class PostgresUnavailableError(AiodurableError):
    """Postgres cannot be reached or refuses the connection. `__cause__` is the driver's error."""


class OutOfResourcesError(PostgresUnavailableError):
    """Postgres or this process has run out of a resource. `__cause__` is the driver's error.

    Attributes:
        resource: `disk`, `memory`, `locks` (the server's lock table), `connections`, or
            `descriptors` (of this process).
    """

    def __init__(
        self, message: str, *, thread_id: str | None = None, resource: str = "memory"
    ) -> None:
        super().__init__(message, thread_id=thread_id)
        self.resource = resource


class StatementRefusedError(AiodurableError):
    """Postgres refused a statement: by a constraint or a trigger of the operator's own, a timeout,
    a conflict. The statement wrote nothing.

    It has no `__cause__`: the driver's error quotes the row. The server's log has that, too.

    Attributes:
        sqlstate: Postgres's code of the error; None: the driver did not send the statement.
        constraint: the constraint or unique index that refused it; None: none did.
        table: the table of that constraint; None: unknown.
        function: the function that raised the error, as that of a trigger; None: unknown.
    """

    def __init__(
        self,
        message: str,
        *,
        thread_id: str | None = None,
        sqlstate: str | None = None,
        constraint: str | None = None,
        table: str | None = None,
        function: str | None = None,
    ) -> None:
        super().__init__(message, thread_id=thread_id)
        self.sqlstate = sqlstate
        self.constraint = constraint
        self.table = table
        self.function = function


class CircuitOpenError(PostgresUnavailableError):
    """Postgres failed repeatedly, so calls fail at once for a while.

    Attributes:
        retry_after_s: seconds until a call may reach Postgres again.
    """

    def __init__(self, message: str, *, retry_after_s: float = 0.0) -> None:
        super().__init__(message)
        self.retry_after_s = retry_after_s


class LockError(AiodurableError):
    """A lease could not be acquired or kept."""


class LockBusyError(LockError):
    """Somebody else holds the lock.

    Attributes:
        holder: the holder; None if unknown, for example because it has released the lock.
        since: when the holder's run started; None if unknown.
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
    """Another run holds this thread. Nothing was started."""


class LockTimeoutError(LockError, TimeoutError):
    """The lock did not become free in time. The caller does not hold it."""


class LeaseLostError(LockError):
    """The lease is gone: its body was cancelled and can no longer write checkpoints.

    Attributes:
        taken_over: whether somebody else has acquired the lease since; None if unknown.
    """

    def __init__(
        self, message: str, *, thread_id: str | None = None, taken_over: bool | None = None
    ) -> None:
        super().__init__(message, thread_id=thread_id)
        self.taken_over = taken_over


class HistoryLostError(LeaseLostError):
    """The database no longer has the last checkpoint that it acknowledged: a failover lost commits.

    The run was ended, because it would build on missing history. A resumption starts at the last
    checkpoint that exists.

    Attributes:
        checkpoint_id: the acknowledged checkpoint that is missing.
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
    """One more lock could fill the server's shared lock table, which would be an outage for all of
    its clients.
    """


class SessionLocksUnsupportedError(LockError, ConfigurationError):
    """The connection cannot hold session locks: it leads to a pooler in transaction mode, a standby
    or an engine whose locks do not exclude.
    """


class WorkflowExecutionError(AiodurableError):
    """A thread could not be started, resumed, answered, forked or deleted."""


class ThreadNotFoundError(WorkflowExecutionError, LookupError):
    """The thread has no checkpoint and no run."""


class CheckpointNotFoundError(WorkflowExecutionError, LookupError):
    """The thread exists, but the requested checkpoint does not.

    Attributes:
        checkpoint_id: its id; None if it was requested in another way.
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
    """The thread stopped on purpose, at a gate or because a person cancelled it. Only
    `run.ainvoke()` without input resumes it.

    Attributes:
        reason: why it is paused, from the ledger.
        pending: the nodes that would run next, if the tables show them.
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
    """The answer is for a question that is not open. It was not delivered to any question.

    Attributes:
        status: the thread's status.
        interrupt_ids: the questions that the answer names.
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
    """The question was answered before. This answer was not delivered to any question.

    Attributes:
        interrupt_ids: the questions that the answer names or was meant for.
        answered_at: when they were answered, if that is recorded.
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
    """The thread has an unfinished run that this call does not resume.

    Attributes:
        status: the thread's status.
    """

    def __init__(
        self, message: str, *, thread_id: str | None = None, status: ThreadStatus | None = None
    ) -> None:
        super().__init__(message, thread_id=thread_id)
        self.status = status


class ThreadCompleteError(WorkflowExecutionError):
    """The thread is complete: there is nothing to retry."""


class ThreadExistsError(WorkflowExecutionError):
    """A new thread cannot have this thread_id: a thread with checkpoints or runs has it."""


class ThreadQuarantinedError(WorkflowExecutionError):
    """The run failed too often. Only a person retries it.

    Attributes:
        attempts: how many attempts it had.
    """

    def __init__(self, message: str, *, thread_id: str | None = None, attempts: int = 0) -> None:
        super().__init__(message, thread_id=thread_id)
        self.attempts = attempts


class _OneRunError(WorkflowExecutionError):
    """An error that is about one run."""

    def __init__(
        self, message: str, *, thread_id: str | None = None, run_id: str | None = None
    ) -> None:
        super().__init__(message, thread_id=thread_id)
        self.run_id = run_id


class ScheduleNotFoundError(AiodurableError, LookupError):
    """There is no schedule of this schedule_id.

    Attributes:
        schedule_id: the schedule.
    """

    def __init__(
        self, message: str, *, thread_id: str | None = None, schedule_id: str | None = None
    ) -> None:
        super().__init__(message, thread_id=thread_id)
        self.schedule_id = schedule_id


class RunNotFoundError(_OneRunError, LookupError):
    """The ledger has no run of this run_id.

    Attributes:
        run_id: the run.
    """


class RunFailedError(_OneRunError):
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
        super().__init__(message, thread_id=thread_id, run_id=run_id)
        self.status = status
        self.error = error
        self.traceback = traceback


class RunTimeoutError(WorkflowExecutionError, TimeoutError):
    """An attempt of a run took longer than its `timeout`. It counts as a failed attempt."""


class WaitTimeoutError(WorkflowExecutionError, TimeoutError):
    """The run was not over in time; it goes on."""


class ResultPrunedError(_OneRunError, LookupError):
    """The run is complete, but the checkpoint that held its result was pruned.

    Attributes:
        run_id: the run.
    """


class RunCancelledError(_OneRunError):
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
        super().__init__(message, thread_id=thread_id, run_id=run_id)
        self.requested_at = requested_at


class GraphChangedError(WorkflowExecutionError):
    """The graph does not fit the stored state of the unfinished thread. Nothing ran, and nothing
    was dropped.

    Attributes:
        graph: the name of the given graph.
        recorded: the name of the graph that the run was accepted with.
        missing_nodes: nodes of the thread that the graph lacks, or that could no longer match an
            answer to their question.
        missing_channels: channels that trigger a node of the thread's step and that nothing in the
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
    """`Durable(graphs=…)` has no graph of that name."""


for _name in __all__:
    # tracebacks and pickles then show the name that people import
    globals()[_name].__module__ = "aiodurable"
