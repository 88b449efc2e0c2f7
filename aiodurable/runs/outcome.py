"""The outcome: how an attempt ended, from the thread's tables and the exception that came out."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass, replace
from datetime import datetime

from langgraph.errors import EmptyInputError, GraphDrained, GraphRecursionError, InvalidUpdateError

from aiodurable.errors import PostgresUnavailableError
from aiodurable.models import PauseReason, RunStatus, ThreadStatus, WorkflowCheckpoint
from aiodurable.threads.status import pause_reason

__all__ = ["Outcome", "closed", "closing", "outcome_of"]

_OF_THE_INPUT = (ValueError, TypeError, LookupError, EmptyInputError, InvalidUpdateError)
"""What LangGraph or a state schema raises for a bad input before the first checkpoint."""


@dataclass(frozen=True, slots=True)
class Outcome:
    """How an attempt ended, as the ledger records it."""

    status: RunStatus
    reason: str | None = None

    @property
    def waits(self) -> bool:
        """Whether the attempt ended only until what its thread waits for."""
        return self.status is RunStatus.INTERRUPTED or (
            self.status is RunStatus.PAUSED
            and self.reason in (PauseReason.SLEEPING, PauseReason.WAITING)
        )


def outcome_of(
    thread: WorkflowCheckpoint,
    error: BaseException | None,
    *,
    consumed: bool,
    accepting: bool = True,
    stopping: bool = False,
    lacking: Sequence[str] = (),
) -> Outcome | None:
    """How an attempt ended.

    The tables decide first. An exception does not prove that the thread failed: an error that is
    reported late can follow a complete run. The absence of one does not prove that it completed.
    What leaves no trace in the tables (a gate, the recursion limit, a drain, a cancellation) is
    read from the exception.

    Args:
        thread: the thread's status after the attempt.
        error: the exception that came out; None: none did.
        consumed: whether a checkpoint has taken the run's input.
        accepting: whether this attempt accepted the run. Only that one may reject it because of its
            input: later attempts must not lose an input that nobody else has.
        stopping: whether the process stops: then a cancellation says nothing of the run.
        lacking: pending nodes that the graph does not have; LangGraph ends there without an error.

    Returns:
        The outcome; None: unknown. The row then stays `running`, which without a lease reads as
        crashed.
    """
    match thread.status:
        case ThreadStatus.COMPLETE if consumed:
            return Outcome(RunStatus.COMPLETE)
        case ThreadStatus.INTERRUPTED if consumed:
            return Outcome(RunStatus.INTERRUPTED)
        case ThreadStatus.FAILED if consumed:
            return Outcome(RunStatus.FAILED)
        case ThreadStatus.PAUSED if consumed and error is None and thread.waits:
            return Outcome(RunStatus.PAUSED, pause_reason(thread.waits))
        case _:
            pass
    match error:
        case None if lacking:
            return Outcome(RunStatus.FAILED, f"the graph lacks {', '.join(lacking)}")
        case None:
            return Outcome(RunStatus.PAUSED, PauseReason.BREAKPOINT)
        case GraphRecursionError():
            return Outcome(RunStatus.PAUSED, PauseReason.RECURSION_LIMIT)
        case GraphDrained():
            return Outcome(RunStatus.PAUSED, PauseReason.DRAINED)
        case asyncio.CancelledError() | GeneratorExit() if stopping:
            return Outcome(RunStatus.PAUSED, PauseReason.DRAINED)
        case asyncio.CancelledError():
            return Outcome(RunStatus.PAUSED, PauseReason.CANCELLED)
        case GeneratorExit():
            return Outcome(RunStatus.PAUSED, PauseReason.STREAM_CLOSED)
        case PostgresUnavailableError():
            return None
        case _:
            rejects = accepting and not consumed and isinstance(error, _OF_THE_INPUT)
            return Outcome(RunStatus.REJECTED if rejects else RunStatus.FAILED)


def closing(thread: WorkflowCheckpoint) -> RunStatus | None:
    """What a start makes of the runs that the thread has left."""
    match thread.status:
        case ThreadStatus.NEW:
            return None
        case ThreadStatus.COMPLETE | ThreadStatus.QUEUED:
            return RunStatus.COMPLETE
        case _:
            return RunStatus.SUPERSEDED


def closed(
    thread: WorkflowCheckpoint, outcome: Outcome, finished_at: datetime | None
) -> WorkflowCheckpoint:
    """The thread after its run was closed; it was read just before."""
    if finished_at is None:
        return thread
    match outcome.status:
        case RunStatus.PAUSED:
            return replace(
                thread,
                status=ThreadStatus.PAUSED,
                reason=outcome.reason,
                finished_at=finished_at,
                doubt=None,
            )
        case RunStatus.FAILED | RunStatus.QUARANTINED:
            return replace(
                thread,
                status=ThreadStatus(outcome.status),
                finished_at=finished_at,
                failed_at=finished_at,
                doubt=None,
            )
        case _:
            return replace(thread, finished_at=finished_at)
