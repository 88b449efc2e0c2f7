"""The decision table of a durable run, line by line, and the outcomes of attempts."""

from __future__ import annotations

import asyncio
from dataclasses import replace
from datetime import UTC, datetime

import pytest
from langgraph.errors import GraphDrained, GraphRecursionError

from aiodurable.errors import (
    AiodurableError,
    InvalidArgumentError,
    PostgresUnavailableError,
    RunInProgressError,
    ThreadInterruptedError,
    ThreadNotFoundError,
    ThreadPausedError,
    ThreadQuarantinedError,
)
from aiodurable.models import PauseReason, RunStatus, ThreadStatus, WorkflowCheckpoint
from aiodurable.runs.decision import Action, OnUnfinished, decide, left_by_its_caller
from aiodurable.runs.outcome import Outcome, outcome_of

S = ThreadStatus


Decided = Action | type[AiodurableError]


def thread(status: ThreadStatus, reason: str | None = None) -> WorkflowCheckpoint:
    asked = ("sure?",) if status is S.INTERRUPTED else ()
    return WorkflowCheckpoint("t", status, interrupts=asked, attempts=3, reason=reason)


@pytest.mark.parametrize(
    ("status", "reason", "bare", "retried", "another"),
    [
        (S.NEW, None, ThreadNotFoundError, Action.START, Action.START),
        (S.COMPLETE, None, Action.RETURN, Action.START, Action.START),
        (S.CRASHED, None, Action.RESUME, Action.RESUME, Action.FINISH_FIRST),
        (S.FAILED, None, Action.RESUME, Action.RESUME, Action.FINISH_FIRST),
        (S.QUEUED, None, Action.RESUME, Action.RESUME, Action.FINISH_FIRST),
        (S.PAUSED, PauseReason.DRAINED, Action.RESUME, Action.RESUME, Action.FINISH_FIRST),
        (S.PAUSED, PauseReason.BREAKPOINT, Action.RESUME, ThreadPausedError, ThreadPausedError),
        (S.PAUSED, PauseReason.CANCELLED, Action.RESUME, ThreadPausedError, ThreadPausedError),
        (S.PAUSED, PauseReason.STREAM_CLOSED, Action.RESUME, ThreadPausedError, ThreadPausedError),
        (
            S.PAUSED,
            PauseReason.RECURSION_LIMIT,
            Action.RESUME,
            ThreadPausedError,
            ThreadPausedError,
        ),
        (
            S.INTERRUPTED,
            None,
            ThreadInterruptedError,
            ThreadInterruptedError,
            ThreadInterruptedError,
        ),
        (
            S.QUARANTINED,
            None,
            ThreadQuarantinedError,
            ThreadQuarantinedError,
            ThreadQuarantinedError,
        ),
    ],
)
def test_a_call_does_what_the_table_says(
    status: ThreadStatus, reason: str | None, bare: Decided, retried: Decided, another: Decided
) -> None:
    calls: list[tuple[dict[str, bool], Decided]] = [
        ({"given": False}, bare),
        ({"given": True, "same": True}, retried),
        ({"given": True}, another),
    ]
    for call, expected in calls:
        if isinstance(expected, Action):
            assert decide(thread(status, reason), **call) is expected
        else:
            with pytest.raises(expected) as refused:
                decide(thread(status, reason), **call)
            assert refused.value.thread_id == "t"


def test_a_call_that_names_the_interrupted_run_gets_its_questions_again() -> None:
    assert decide(thread(S.INTERRUPTED), given=True, same=True, named=True) is Action.RETURN
    assert decide(thread(S.INTERRUPTED), given=False, named=True) is Action.RETURN
    assert decide(thread(S.INTERRUPTED), given=True, on_unfinished="restart") is Action.START


@pytest.mark.parametrize("reason", [PauseReason.CANCELLED, PauseReason.STREAM_CLOSED])
def test_a_call_that_is_repeated_goes_on_with_the_run_that_it_left(reason: PauseReason) -> None:
    left = thread(S.PAUSED, reason)
    assert left_by_its_caller(left, None)
    assert not left_by_its_caller(left, datetime.now(UTC))
    assert not left_by_its_caller(thread(S.PAUSED, PauseReason.BREAKPOINT), None)
    assert decide(left, given=True, same=True, named=True, left=True) is Action.RESUME
    with pytest.raises(ThreadPausedError):
        decide(left, given=True, same=True, named=True)


def test_an_input_does_not_pass_where_plain_langgraph_may_have_stopped_at_a_gate() -> None:
    found = replace(thread(S.CRASHED), maybe_at_gate=True, pending=("pay",))
    with pytest.raises(ThreadPausedError, match="before pay") as refused:
        decide(found, given=True)
    assert refused.value.pending == ("pay",)
    assert decide(found, given=False) is Action.RESUME


@pytest.mark.parametrize("status", [S.CRASHED, S.FAILED, S.PAUSED, S.QUEUED])
def test_unfinished_work_can_be_refused_or_given_up(status: ThreadStatus) -> None:
    assert decide(thread(status), given=True, on_unfinished="restart") is Action.START
    with pytest.raises(RunInProgressError) as refused:
        decide(thread(status), given=True, on_unfinished="raise")
    assert refused.value.status is status


@pytest.mark.parametrize("on_unfinished", ["restart", "raise"])
def test_finished_and_new_threads_do_not_care_about_unfinished_work(
    on_unfinished: OnUnfinished,
) -> None:
    assert decide(thread(S.COMPLETE), given=True, on_unfinished=on_unfinished) is Action.START
    assert decide(thread(S.NEW), given=True, on_unfinished=on_unfinished) is Action.START


def test_a_restart_without_an_input_and_an_unknown_word_are_refused() -> None:
    with pytest.raises(InvalidArgumentError, match="input"):
        decide(thread(S.FAILED), given=False, on_unfinished="restart")
    with pytest.raises(InvalidArgumentError, match="'later'"):
        decide(thread(S.FAILED), given=False, on_unfinished="later")  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("status", "error", "consumed", "expected"),
    [
        (S.COMPLETE, None, True, Outcome(RunStatus.COMPLETE)),
        (S.COMPLETE, OSError(), True, Outcome(RunStatus.COMPLETE)),
        (S.INTERRUPTED, None, True, Outcome(RunStatus.INTERRUPTED)),
        (S.FAILED, ValueError(), True, Outcome(RunStatus.FAILED)),
        (S.CRASHED, ValueError(), True, Outcome(RunStatus.FAILED)),
        (S.CRASHED, None, True, Outcome(RunStatus.PAUSED, "breakpoint")),
        (S.CRASHED, GraphRecursionError(), True, Outcome(RunStatus.PAUSED, "recursion limit")),
        (S.CRASHED, GraphDrained("shutdown"), True, Outcome(RunStatus.PAUSED, "drained")),
        (S.CRASHED, asyncio.CancelledError(), True, Outcome(RunStatus.PAUSED, "cancelled")),
        (S.CRASHED, asyncio.CancelledError(), False, Outcome(RunStatus.PAUSED, "cancelled")),
        (S.CRASHED, GeneratorExit(), True, Outcome(RunStatus.PAUSED, "stream closed")),
        (S.CRASHED, ValueError("bad input"), False, Outcome(RunStatus.REJECTED)),
        (S.COMPLETE, ValueError("bad input"), False, Outcome(RunStatus.REJECTED)),
        (S.CRASHED, PostgresUnavailableError("away"), False, None),
    ],
)
def test_the_outcome_is_what_the_tables_show_and_else_what_the_exception_says(
    status: ThreadStatus, error: BaseException | None, consumed: bool, expected: Outcome | None
) -> None:
    assert outcome_of(thread(status), error, consumed=consumed) == expected


@pytest.mark.parametrize(
    "error", [OSError("disk"), MemoryError(), RuntimeError("a statement was cancelled")]
)
def test_what_passes_never_rejects_an_input(error: BaseException) -> None:
    assert outcome_of(thread(S.CRASHED), error, consumed=False) == Outcome(RunStatus.FAILED)


def test_a_later_attempt_never_rejects_what_an_earlier_one_accepted() -> None:
    error = ValueError("bad input")
    assert outcome_of(thread(S.CRASHED), error, consumed=False, accepting=False) == Outcome(
        RunStatus.FAILED
    )
