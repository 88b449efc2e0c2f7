"""FastAPI: what aiodurable's errors mean over HTTP. Needs `aiodurable[fastapi]`; nothing else in
aiodurable imports it.

An app opens its `Durable` in its lifespan and installs it, which makes it the current one of all
requests: examples/fastapi_app.py.
"""

from __future__ import annotations

import math
from collections.abc import Awaitable, Callable
from typing import Any

try:
    from fastapi import FastAPI, Request, status
    from fastapi.responses import JSONResponse
except ModuleNotFoundError as error:
    raise ModuleNotFoundError(
        f"aiodurable.fastapi needs FastAPI ({error}): pip install 'aiodurable[fastapi]'",
        name=error.name,
    ) from error

from aiodurable.errors import (
    AiodurableError,
    AlreadyAnsweredError,
    CheckpointNotFoundError,
    CircuitOpenError,
    GraphChangedError,
    InvalidArgumentError,
    LeaseLostError,
    LockCapacityError,
    LockTimeoutError,
    NothingToAnswerError,
    OutOfResourcesError,
    PostgresUnavailableError,
    ResultPrunedError,
    RunCancelledError,
    RunInProgressError,
    ThreadCompleteError,
    ThreadExistsError,
    ThreadInterruptedError,
    ThreadNotFoundError,
    ThreadPausedError,
    ThreadQuarantinedError,
    WorkflowAlreadyRunningError,
)
from aiodurable.jsonable import jsonable

__all__ = ["add_exception_handlers"]

_CONFLICT = status.HTTP_409_CONFLICT
_LATER = status.HTTP_503_SERVICE_UNAVAILABLE
_ANSWERS: dict[type[AiodurableError], tuple[int, str]] = {
    InvalidArgumentError: (422, "an argument cannot be used"),
    ThreadNotFoundError: (status.HTTP_404_NOT_FOUND, "nothing is known of this thread"),
    CheckpointNotFoundError: (status.HTTP_404_NOT_FOUND, "this thread has no such checkpoint"),
    ResultPrunedError: (status.HTTP_410_GONE, "the result of this run is not stored any more"),
    WorkflowAlreadyRunningError: (_CONFLICT, "another run advances this thread at the moment"),
    LockTimeoutError: (_CONFLICT, "another run advances this thread still"),
    ThreadInterruptedError: (_CONFLICT, "this thread waits for an answer"),
    ThreadPausedError: (
        _CONFLICT,
        "this thread was stopped on purpose and goes on only when a person says so",
    ),
    NothingToAnswerError: (_CONFLICT, "this thread asks nothing"),
    AlreadyAnsweredError: (_CONFLICT, "this question was answered before"),
    RunInProgressError: (_CONFLICT, "this thread has a run that is not finished"),
    ThreadCompleteError: (_CONFLICT, "this thread is complete"),
    ThreadExistsError: (_CONFLICT, "this thread exists already"),
    ThreadQuarantinedError: (_CONFLICT, "this thread failed too often and is set aside"),
    RunCancelledError: (_CONFLICT, "this run was cancelled"),
    GraphChangedError: (_CONFLICT, "the graph of this thread has changed since it began"),
    LeaseLostError: (
        _LATER,
        "the run was stopped because its lease was lost; its last checkpoint is kept",
    ),
    LockCapacityError: (_LATER, "the database's lock table is full at the moment"),
    OutOfResourcesError: (
        _LATER,
        "the database, or this server, has run out of something it needs",
    ),
    PostgresUnavailableError: (_LATER, "the database is away"),
    CircuitOpenError: (_LATER, "the database has been away for a while"),
}
"""The errors a caller can cause or wait out. All others are the server's own fault and stay a 500.

Never the error's own text: it names hosts, processes and databases, which are no business of an
HTTP client.
"""


def add_exception_handlers(app: FastAPI) -> None:
    """Answer aiodurable's errors with JSON: `error` (the class), `thread_id`, `detail`.

    422 for a bad argument (named by `argument`); 404 for an unknown thread; 409 for one that is
    busy, or that waits for an answer (then with its open questions as `interrupts`: `id` and
    `value`; what JSON does not have is shown in words); 503 with `Retry-After` (1 second, or what
    the error says) where the same request may succeed in a moment.

    Args:
        app: whose handlers are added; handlers of your own for subclasses of these errors go first.
    """
    for kind, (code, detail) in _ANSWERS.items():
        app.add_exception_handler(kind, _handler(code, detail))


def _handler(code: int, detail: str) -> Callable[[Request, Exception], Awaitable[JSONResponse]]:
    async def handle(_: Request, error: Exception) -> JSONResponse:
        thread_id = error.thread_id if isinstance(error, AiodurableError) else None
        content: dict[str, Any] = {
            "error": type(error).__name__,
            "thread_id": thread_id,
            "detail": detail,
        }
        match error:
            case ThreadInterruptedError():
                content["interrupts"] = [
                    {"id": asked.id, "value": asked.value} for asked in error.interrupts
                ]
            case ThreadPausedError():
                content |= {"reason": error.reason, "pending": list(error.pending)}
            case InvalidArgumentError():
                content["argument"] = error.argument
            case _:
                pass
        after = math.ceil(error.retry_after_s) if isinstance(error, CircuitOpenError) else 0
        by_itself = not isinstance(error, OutOfResourcesError) or error.resource != "disk"
        headers = {"Retry-After": str(max(1, after))} if code == _LATER and by_itself else None
        return JSONResponse(jsonable(content), code, headers=headers)

    return handle
