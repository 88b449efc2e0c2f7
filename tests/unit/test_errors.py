"""Errors travel: between processes with their values, and to people without secrets."""

from __future__ import annotations

import inspect
import pickle
from datetime import UTC, datetime

import pytest

import aiodurable
from aiodurable import errors
from aiodurable.models import LockHolder, RunStatus, ThreadStatus

HOLDER = LockHolder(
    key=7, pid=42, application="aiodurable:lock@host:1", client="10.0.0.1", since=datetime.now(UTC)
)
EXAMPLES = [
    errors.LockBusyError("busy", thread_id="t", holder=HOLDER, since=HOLDER.since),
    errors.WorkflowAlreadyRunningError("busy", thread_id="t", holder=HOLDER, since=HOLDER.since),
    errors.ThreadInterruptedError("asks", thread_id="t", interrupts=["why?"]),
    errors.RunInProgressError("no", thread_id="t", status=ThreadStatus.FAILED),
    errors.ThreadQuarantinedError("no", thread_id="t", attempts=5),
    errors.SchemaMismatchError("newer", found=9, wanted=1),
    errors.CircuitOpenError("open", retry_after_s=1.5),
    errors.StatementRefusedError(
        "no", thread_id="t", sqlstate="23514", constraint="c", table="runs", function="f()"
    ),
    errors.InvalidArgumentError("no", thread_id="t", argument="limit"),
    errors.LeaseLostError("gone", thread_id="t", taken_over=True),
    errors.HistoryLostError("gone", thread_id="t", taken_over=False, checkpoint_id="1ef"),
    errors.ThreadPausedError("gate", thread_id="t", reason="breakpoint", pending=["pay"]),
    errors.NothingToAnswerError("no", thread_id="t", status=ThreadStatus.COMPLETE),
    errors.AlreadyAnsweredError("no", thread_id="t", interrupt_ids=["a"], answered_at=HOLDER.since),
    errors.ResultPrunedError("no", thread_id="t", run_id="r"),
    errors.RunCancelledError("no", thread_id="t", run_id="r", requested_at=HOLDER.since),
    errors.RunNotFoundError("no", run_id="r"),
    errors.RunFailedError(
        "no", thread_id="t", run_id="r", status=RunStatus.QUARANTINED, error="e", traceback="t"
    ),
    errors.GraphChangedError(
        "no", thread_id="t", graph="new", recorded="old", missing_nodes=["pay"]
    ),
]


@pytest.mark.parametrize("error", EXAMPLES, ids=lambda error: type(error).__name__)
def test_a_pickled_error_keeps_its_message_and_its_values(error: errors.AiodurableError) -> None:
    copy = pickle.loads(pickle.dumps(error))
    assert type(copy) is type(error)
    assert (str(copy), vars(copy)) == (str(error), vars(error))


def test_every_error_has_one_root_and_pickles() -> None:
    for name in errors.__all__:
        error = getattr(errors, name)(
            "said",
            **({} if name in {"SchemaMismatchError", "CircuitOpenError"} else {"thread_id": "t"}),
        )
        assert isinstance(error, errors.AiodurableError)
        assert str(pickle.loads(pickle.dumps(error))) == "said"


@pytest.mark.parametrize(
    ("error", "builtin"),
    [
        (errors.ConfigurationError, ValueError),
        (errors.InvalidArgumentError, ValueError),
        (errors.LockTimeoutError, TimeoutError),
        (errors.ThreadNotFoundError, LookupError),
        (errors.GraphNotRegisteredError, LookupError),
    ],
)
def test_errors_are_the_builtin_ones_people_catch(
    error: type[Exception], builtin: type[Exception]
) -> None:
    assert issubclass(error, builtin)


def test_errors_of_the_caller_and_of_the_operator_have_their_own_classes() -> None:
    assert not issubclass(errors.InvalidArgumentError, errors.ConfigurationError)
    assert not issubclass(errors.ConfigurationError, errors.InvalidArgumentError)


def test_every_error_is_named_as_it_is_imported() -> None:
    for name in errors.__all__:
        assert getattr(errors, name).__module__ == "aiodurable"
        assert getattr(aiodurable, name) is getattr(errors, name)


def test_an_open_circuit_is_an_unavailable_postgres() -> None:
    assert issubclass(errors.CircuitOpenError, errors.PostgresUnavailableError)


def test_every_error_says_what_it_means() -> None:
    assert all(inspect.getdoc(getattr(errors, name)) for name in errors.__all__)
