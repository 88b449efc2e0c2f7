"""The decision table of a durable run, line by line, and how an attempt's end is told."""

from __future__ import annotations

import asyncio

import pytest
from langgraph.errors import GraphDrained, GraphRecursionError

from aiodurable.errors import (
    AiodurableError,
    InvalidArgumentError,
    NotResumableError,
    PostgresUnavailableError,
    ResumeLimitError,
    ThreadInterruptedError,
    ThreadNotFoundError,
)
from aiodurable.model import RunStatus, ThreadStatus, WorkflowCheckpoint
from aiodurable.runs.resume import Action, OnUnfinished, Outcome, decide, outcome_of

S = ThreadStatus


def thread(status: ThreadStatus) -> WorkflowCheckpoint:
    return WorkflowCheckpoint("t", status, interrupts=("sure?",) if status is S.INTERRUPTED else (), attempts=3)


@pytest.mark.parametrize(
    ("status", "given", "expected"),
    [
        (S.NEW, True, Action.START),
        (S.NEW, False, ThreadNotFoundError),
        (S.COMPLETE, True, Action.START),
        (S.COMPLETE, False, Action.RETURN),
        (S.CRASHED, True, Action.RESUME),
        (S.CRASHED, False, Action.RESUME),
        (S.FAILED, True, Action.RESUME),
        (S.FAILED, False, Action.RESUME),
        (S.PAUSED, True, Action.RESUME),
        (S.PAUSED, False, Action.RESUME),
        (S.QUEUED, True, Action.RESUME),
        (S.QUEUED, False, Action.RESUME),
        (S.INTERRUPTED, True, ThreadInterruptedError),
        (S.INTERRUPTED, False, ThreadInterruptedError),
        (S.QUARANTINED, True, ResumeLimitError),
        (S.QUARANTINED, False, ResumeLimitError),
    ],
)
def test_a_call_does_what_the_table_says(
    status: ThreadStatus, given: bool, expected: Action | type[AiodurableError]
) -> None:
    if isinstance(expected, Action):
        assert decide(thread(status), given=given) is expected
    else:
        with pytest.raises(expected) as refused:
            decide(thread(status), given=given)
        assert refused.value.thread_id == "t"


@pytest.mark.parametrize("status", [S.CRASHED, S.FAILED, S.PAUSED, S.QUEUED])
def test_unfinished_work_can_be_refused_or_given_up(status: ThreadStatus) -> None:
    assert decide(thread(status), given=True, on_unfinished="restart") is Action.START
    with pytest.raises(NotResumableError) as refused:
        decide(thread(status), given=True, on_unfinished="raise")
    assert refused.value.status is status


@pytest.mark.parametrize("on_unfinished", ["restart", "raise"])
def test_finished_and_new_threads_do_not_care_about_unfinished_work(on_unfinished: OnUnfinished) -> None:
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
