"""aiodurable's errors as HTTP answers, in the form of RFC 9457 (problem+json)."""

from __future__ import annotations

import math
from collections.abc import Mapping
from http import HTTPStatus
from typing import Any, Final

from fastapi import FastAPI, Request, status
from fastapi.responses import JSONResponse
from langgraph.errors import GraphDrained

from aiodurable.errors import (
    AiodurableError,
    AlreadyAnsweredError,
    CheckpointNotFoundError,
    CircuitOpenError,
    GraphChangedError,
    InvalidArgumentError,
    LeaseLostError,
    LockBusyError,
    LockCapacityError,
    LockTimeoutError,
    NothingToAnswerError,
    OutOfResourcesError,
    PostgresUnavailableError,
    ResultPrunedError,
    RunCancelledError,
    RunFailedError,
    RunInProgressError,
    RunNotFoundError,
    ScheduleNotFoundError,
    ThreadCompleteError,
    ThreadExistsError,
    ThreadInterruptedError,
    ThreadNotFoundError,
    ThreadPausedError,
    ThreadQuarantinedError,
    WaitTimeoutError,
    WorkflowAlreadyRunningError,
)
from aiodurable.jsonable import jsonable

__all__ = ["LATER", "add_exception_handlers", "problem", "problem_response"]

_CONFLICT = status.HTTP_409_CONFLICT
LATER: Final = status.HTTP_503_SERVICE_UNAVAILABLE
_ANSWERS: Final[Mapping[type[Exception], tuple[int, str]]] = {
    InvalidArgumentError: (422, "an argument cannot be used"),
    ThreadNotFoundError: (status.HTTP_404_NOT_FOUND, "nothing is known of this thread"),
    RunNotFoundError: (status.HTTP_404_NOT_FOUND, "nothing is known of this run"),
    ScheduleNotFoundError: (status.HTTP_404_NOT_FOUND, "nothing is known of this schedule"),
    CheckpointNotFoundError: (status.HTTP_404_NOT_FOUND, "this thread has no such checkpoint"),
    ResultPrunedError: (status.HTTP_410_GONE, "the result of this run is not stored any more"),
    WorkflowAlreadyRunningError: (_CONFLICT, "another run has this thread now"),
    LockTimeoutError: (_CONFLICT, "another run still has this thread"),
    ThreadInterruptedError: (_CONFLICT, "this thread waits for an answer"),
    ThreadPausedError: (
        _CONFLICT,
        "this thread was stopped on purpose; it resumes on request",
    ),
    NothingToAnswerError: (_CONFLICT, "this thread has no open question"),
    AlreadyAnsweredError: (_CONFLICT, "this question was answered before"),
    RunInProgressError: (_CONFLICT, "this thread has a run that is not finished"),
    ThreadCompleteError: (_CONFLICT, "this thread is complete"),
    ThreadExistsError: (_CONFLICT, "this thread exists already"),
    ThreadQuarantinedError: (_CONFLICT, "this thread failed too often and is set aside"),
    RunCancelledError: (_CONFLICT, "this run was cancelled"),
    RunFailedError: (status.HTTP_500_INTERNAL_SERVER_ERROR, "this run failed for good"),
    WaitTimeoutError: (
        status.HTTP_504_GATEWAY_TIMEOUT,
        "the run was not over in time; it goes on",
    ),
    GraphChangedError: (_CONFLICT, "the graph of this thread has changed since it began"),
    LeaseLostError: (
        LATER,
        "the run was stopped because its lease was lost; its last checkpoint is kept",
    ),
    LockCapacityError: (LATER, "the database's lock table is full at the moment"),
    OutOfResourcesError: (
        LATER,
        "the database, or this server, has run out of something it needs",
    ),
    PostgresUnavailableError: (LATER, "the database is unavailable"),
    CircuitOpenError: (LATER, "the database has been unavailable for a while"),
    GraphDrained: (LATER, "this server stops; the run goes on with the next request, or a worker"),
}
"""The errors that a client can cause or wait out. All others are the server's fault: 500.

Never the error's own text: it names hosts, processes and databases, which are no business of an
HTTP client.
"""


def add_exception_handlers(app: FastAPI, *, show_holder: bool = False) -> None:
    """Answer aiodurable's errors with `application/problem+json`: `title`, `status`, `detail`,
    `error` (the class) and `thread_id`.

    422 for a bad argument (named by `argument`); 404 for an unknown thread, run or checkpoint; 409
    for a thread that is busy (`holder`: `since`), or that waits for an answer (`interrupts`: the
    open questions, `id` and `value`; values that JSON lacks are shown as text); 503 with
    `Retry-After` where the same request may succeed later.

    Args:
        app: whose handlers are added; your own handlers for subclasses of these errors go first.
        show_holder: whether `holder` has `process` too, `host:pid`: for clients inside your own
            network.
    """

    async def handle(_: Request, error: Exception) -> JSONResponse:
        return problem_response(error, show_holder=show_holder)

    for kind in _ANSWERS:
        app.add_exception_handler(kind, handle)


def problem_response(error: Exception, *, show_holder: bool = False) -> JSONResponse:
    """The answer to an error."""
    code, content, headers = problem(error, show_holder=show_holder)
    return JSONResponse(content, code, headers=headers, media_type="application/problem+json")


def problem(
    error: Exception, *, show_holder: bool = False
) -> tuple[int, dict[str, Any], dict[str, str]]:
    """Status, content and headers of the answer to an error; 500 without details for one that is
    the server's own.
    """
    found = next((_ANSWERS[kind] for kind in type(error).__mro__ if kind in _ANSWERS), None)
    if found is None:
        return 500, {"title": HTTPStatus(500).phrase, "status": 500}, {}
    code, detail = found
    content = {
        "title": HTTPStatus(code).phrase,
        "status": code,
        "detail": detail,
        "error": type(error).__name__,
        "thread_id": error.thread_id if isinstance(error, AiodurableError) else None,
        **_members(error, show_holder=show_holder),
    }
    after = math.ceil(error.retry_after_s) if isinstance(error, CircuitOpenError) else 0
    passes = not isinstance(error, OutOfResourcesError) or error.resource != "disk"
    later = code in (LATER, status.HTTP_504_GATEWAY_TIMEOUT)
    headers = {"Retry-After": str(max(1, after))} if later and passes else {}
    return code, jsonable(content), headers


def _members(error: Exception, *, show_holder: bool) -> dict[str, Any]:
    """What a client needs to react to this kind of error."""
    match error:
        case ThreadInterruptedError():
            questions = [{"id": asked.id, "value": asked.value} for asked in error.interrupts]
            return {"interrupts": questions}
        case ThreadPausedError():
            return {"reason": error.reason, "pending": list(error.pending)}
        case RunFailedError():
            return {"run_id": error.run_id, "run_status": error.status}
        case RunNotFoundError() | RunCancelledError() | ResultPrunedError():
            return {"run_id": error.run_id}
        case InvalidArgumentError():
            return {"argument": error.argument}
        case LockBusyError() if error.holder is not None:
            process = {"process": error.holder.process} if show_holder else {}
            return {"holder": {"since": error.since, **process}}
        case _:
            return {}
