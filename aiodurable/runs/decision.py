"""The decision: what a call does with a thread, by the thread's status and the call's arguments.
Pure.

| thread is | with input | without |
|---|---|---|
| new | start | `ThreadNotFoundError` |
| complete | start (a new turn) | return what is stored |
| crashed, failed, drained | its own: resume; another: finish that run, then start this | resume |
| asleep, waits for a signal | `ThreadPausedError` until due; then as crashed | the same |
| left by its own caller | the same run_id and input: resume; else `ThreadPausedError` | resume |
| paused otherwise | `ThreadPausedError` | resume |
| interrupted | the same run_id: its result so far; else `ThreadInterruptedError` | the same |
| quarantined | `ThreadQuarantinedError` | `ThreadQuarantinedError` |

`on_unfinished="raise"` refuses instead of resuming; `"restart"` gives up the unfinished run, open
questions included, and starts the input; `"retry"` resumes a quarantined thread. An interrupted
thread is never resumed without an answer: LangGraph can take the first answer for a second question
(langgraph#8837).
"""

from __future__ import annotations

from datetime import datetime
from enum import Enum, auto
from typing import Literal

from aiodurable.errors import (
    InvalidArgumentError,
    RunInProgressError,
    ThreadCompleteError,
    ThreadInterruptedError,
    ThreadNotFoundError,
    ThreadPausedError,
    ThreadQuarantinedError,
)
from aiodurable.models import PauseReason, ThreadStatus, WorkflowCheckpoint
from aiodurable.waits import first_due

__all__ = [
    "Action",
    "OnUnfinished",
    "asleep",
    "decide",
    "interrupted",
    "left_by_its_caller",
    "may_go_on",
    "may_retry",
    "not_found",
    "paused",
    "sleeping",
]

OnUnfinished = Literal["resume", "raise", "restart", "retry"]

_LEFT = (PauseReason.CANCELLED, PauseReason.STREAM_CLOSED)
_ON_PURPOSE = (PauseReason.BREAKPOINT, *_LEFT)
"""Why a thread pauses on purpose."""


class Action(Enum):
    """What a call does."""

    START = auto()
    RESUME = auto()
    BEGIN = auto()
    """Begin a run that was accepted before and has waited since."""
    FINISH_FIRST = auto()
    """Resume the unfinished run to its end, then decide again."""
    RETURN = auto()


def decide(
    thread: WorkflowCheckpoint,
    *,
    given: bool,
    same: bool = False,
    named: bool = False,
    due: bool = False,
    left: bool = False,
    on_unfinished: OnUnfinished = "resume",
) -> Action:
    """What a call does with `thread`, read under its lease.

    Args:
        thread: the thread's status.
        given: whether the call has an input.
        same: whether that input is the unfinished run's: a retry.
        named: whether the call's run_id is the unfinished run's.
        due: whether a sleep or a wait of the thread is over.
        left: whether the call repeats the one that left the run (see `left_by_its_caller`).
        on_unfinished: see above.

    Raises:
        ThreadNotFoundError, ThreadInterruptedError, ThreadPausedError, ThreadQuarantinedError,
            RunInProgressError: see the table above.
        InvalidArgumentError: an unknown `on_unfinished`, or "restart" without an input.
    """
    if on_unfinished not in ("resume", "raise", "restart", "retry"):
        raise InvalidArgumentError(
            f'on_unfinished must be "resume", "raise", "restart" or "retry", got {on_unfinished!r}'
        )
    if thread.status is ThreadStatus.NEW:
        if not given:
            raise not_found(thread.thread_id, cure="check the id, or pass an input to start it")
        return Action.START
    if thread.status is ThreadStatus.COMPLETE:
        return Action.START if given else Action.RETURN
    if on_unfinished == "restart":
        if not given:
            raise InvalidArgumentError(
                'on_unfinished="restart" wants an input to start with, got none'
            )
        return Action.START
    if thread.status is ThreadStatus.INTERRUPTED:
        if due and (same or not given) and on_unfinished != "raise":
            return Action.RESUME
        if named and on_unfinished != "raise":
            return Action.RETURN
        raise interrupted(thread)
    if not due and asleep(thread) and on_unfinished != "raise":
        if named:
            return Action.RETURN
        raise sleeping(thread)
    goes_on = thread.resumable or (due and asleep(thread)) or (left and same)
    return _unfinished(thread, given=given, same=same, goes_on=goes_on, on_unfinished=on_unfinished)


def _unfinished(
    thread: WorkflowCheckpoint,
    *,
    given: bool,
    same: bool,
    goes_on: bool,
    on_unfinished: OnUnfinished,
) -> Action:
    if thread.status is ThreadStatus.QUARANTINED and on_unfinished != "retry":
        raise ThreadQuarantinedError(
            f"cannot go on with thread {thread.thread_id!r}: it failed {thread.attempts} times and"
            " is quarantined; mend the cause, then threads.retry(thread_id) tries it again,"
            ' on_unfinished="restart" with an input gives the work up',
            thread_id=thread.thread_id,
            attempts=thread.attempts,
        )
    if on_unfinished == "raise":
        raise RunInProgressError(
            f"cannot start thread {thread.thread_id!r}: it is {thread.status} with work left, and"
            ' on_unfinished is "raise"; call with on_unfinished="resume" to go on with it, or'
            ' "restart" to give it up',
            thread_id=thread.thread_id,
            status=thread.status,
        )
    if not given:
        return Action.RESUME
    if (thread.status is ThreadStatus.PAUSED and not goes_on) or thread.maybe_at_gate:
        raise paused(thread)
    return Action.RESUME if same else Action.FINISH_FIRST


def paused(thread: WorkflowCheckpoint) -> ThreadPausedError:
    """The error for a thread that goes on only when a person says so."""
    at = f" before {', '.join(thread.pending)}" if thread.pending else ""
    why = (
        "plain LangGraph may have stopped it on purpose"
        if thread.maybe_at_gate
        else thread.reason or "paused"
    )
    return ThreadPausedError(
        f"cannot give thread {thread.thread_id!r} another input: it is stopped{at} ({why});"
        ' run.ainvoke() without input goes on, on_unfinished="restart" with an input gives the work'
        " up",
        thread_id=thread.thread_id,
        reason=thread.reason,
        pending=thread.pending,
    )


def left_by_its_caller(thread: WorkflowCheckpoint, cancel_requested_at: datetime | None) -> bool:
    """Whether the call of the thread's unfinished run was cancelled, or its stream left, and nobody
    asked for that run to end: a client that disconnected, a timeout, a server that stopped.
    """
    return (
        thread.status is ThreadStatus.PAUSED
        and thread.reason in _LEFT
        and cancel_requested_at is None
    )


def asleep(thread: WorkflowCheckpoint) -> bool:
    """Whether the thread does nothing but sleep, or wait for signals."""
    reasons = (PauseReason.SLEEPING, PauseReason.WAITING)
    return thread.status is ThreadStatus.PAUSED and thread.reason in reasons


def sleeping(thread: WorkflowCheckpoint) -> ThreadPausedError:
    """The error for a thread that goes on by itself, later."""
    names = sorted({wait.name for wait in thread.waits if wait.name is not None})
    until = first_due(thread.waits)
    what = [
        *([f"waits for signal {', '.join(map(repr, names))}"] if names else ["sleeps"]),
        *([f"until {until.isoformat(timespec='seconds')}"] if until is not None else []),
    ]
    return ThreadPausedError(
        f"cannot go on with thread {thread.thread_id!r}: it {' '.join(what)}. A worker goes on with"
        " it then, and run.ainvoke() too; threads.signal(thread_id, name, value) sends a signal,"
        ' on_unfinished="restart" with an input gives the work up',
        thread_id=thread.thread_id,
        reason=thread.reason,
        pending=thread.pending,
    )


def may_retry(thread: WorkflowCheckpoint) -> None:
    """Refuse to try again what has nothing left to do.

    Raises:
        ThreadCompleteError: it is complete.
    """
    if thread.status is ThreadStatus.COMPLETE:
        raise ThreadCompleteError(
            f"cannot retry thread {thread.thread_id!r}: it is already complete;"
            " threads.fork(thread_id, before=…) runs a step of it again, on a new thread",
            thread_id=thread.thread_id,
        )


def may_go_on(thread: WorkflowCheckpoint) -> None:
    """Refuse what stopped on purpose, where no person has said to go on.

    Raises:
        ThreadPausedError: it is at a gate, or plain LangGraph may have stopped it at one, or it was
            cancelled.
    """
    if thread.status is ThreadStatus.PAUSED and thread.reason in _ON_PURPOSE:
        why = f"it is paused ({thread.reason})"
    elif thread.maybe_at_gate:
        why = "plain LangGraph may have stopped it on purpose"
    else:
        return
    pending = f" before {', '.join(thread.pending)}" if thread.pending else ""
    raise ThreadPausedError(
        f"cannot resume thread {thread.thread_id!r} without a person: {why}{pending}; if a person"
        " has decided, run.ainvoke() or resume_workflow(thread_id, past_gate=True) goes on",
        thread_id=thread.thread_id,
        reason=thread.reason,
        pending=thread.pending,
    )


def not_found(thread_id: str, *, cure: str = "check the id") -> ThreadNotFoundError:
    """The error for a thread of which nothing is known."""
    return ThreadNotFoundError(
        f"cannot find thread {thread_id!r}: nothing is known of it; {cure}", thread_id=thread_id
    )


def interrupted(thread: WorkflowCheckpoint) -> ThreadInterruptedError:
    """The error that carries the open questions of a thread."""
    count = len(thread.interrupts)
    return ThreadInterruptedError(
        f"cannot go on with thread {thread.thread_id!r}: it waits for {count}"
        f" answer{'' if count == 1 else 's'}; .interrupts has the questions, run.answer(value)"
        " answers one",
        thread_id=thread.thread_id,
        interrupts=thread.interrupts,
    )
