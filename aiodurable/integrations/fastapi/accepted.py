"""Routes that accept a run for a worker, with 202, and say what became of it."""

from __future__ import annotations

import logging
import math
from collections.abc import Awaitable, Callable
from datetime import UTC, datetime
from typing import Annotated, Any, Final, Unpack
from urllib.parse import quote

from fastapi import APIRouter, Header, Query, Request
from fastapi.responses import JSONResponse
from starlette.routing import NoMatchFound

from aiodurable.current import current_durable
from aiodurable.errors import (
    GraphNotRegisteredError,
    ResultPrunedError,
    RunNotFoundError,
    WaitTimeoutError,
)
from aiodurable.integrations.fastapi.leased import run_of_key
from aiodurable.integrations.fastapi.problems import problem_response
from aiodurable.jsonable import jsonable
from aiodurable.models import RunRecord, RunStatus
from aiodurable.queue.new_run import CreateOptions
from aiodurable.queue.waiting import is_over
from aiodurable.runs.graphs import Graph

__all__ = ["accepting", "run_router"]

_log = logging.getLogger(__name__)

_STATUS_ROUTE: Final = "aiodurable_run_status"
_LONGEST_WAIT_S: Final = 30.0
_AGAIN_S: Final = (1, 60)
"""Seconds after which a client asks again: at least, and at most."""


def accepting(
    graph: Graph, **options: Unpack[CreateOptions]
) -> Callable[..., Callable[[Any], Awaitable[JSONResponse]]]:
    """A dependency for a route with `{thread_id}` in its path: a function that accepts a run with
    an input, by `durable.runs.create`, and returns the answer 202.

    `Location` is the route of `run_router`, if the app has it. The client's `Idempotency-Key`
    names the run: the same key again gives the same answer and no second run; with another input
    `InvalidArgumentError` (422).

    Args:
        graph: the graph that a worker runs.
        options: those of `Runs.create`; `run_id` comes from the header.
    """

    def accept_run(
        request: Request,
        thread_id: str,
        idempotency_key: Annotated[str | None, Header()] = None,
    ) -> Callable[[Any], Awaitable[JSONResponse]]:
        named: CreateOptions = {**options}
        if idempotency_key:
            named["run_id"] = run_of_key(thread_id, idempotency_key)

        async def accept(input: Any) -> JSONResponse:
            run = await current_durable().runs.create(thread_id, graph, input, **named)
            headers = {"Location": place} if (place := _place(request, run)) else {}
            return _answer(run, 202, headers)

        return accept

    return accept_run


def run_router(*, prefix: str = "/runs", results: bool = False) -> APIRouter:
    """A router with `GET {prefix}/{run_id}`: where a run stands, as JSON; 404 for an unknown one.

    While it is not over, `Retry-After` says when to look again; `?wait=SECONDS`, at most 30, makes
    the route answer as soon as it is. It does not show the text of an error, which names the
    server's own affairs.

    Include it with your own dependencies for authentication:
    `app.include_router(run_router(), dependencies=[…])`.

    Args:
        prefix: of the path.
        results: whether a complete run has its `result`, what the graph returned. It has none
            where this process does not have its graph, which is logged; 410 where the result was
            pruned.
    """
    router = APIRouter(prefix=prefix)

    @router.get("/{run_id:path}", name=_STATUS_ROUTE)
    async def run_status(
        run_id: str, wait: Annotated[float, Query(ge=0, le=_LONGEST_WAIT_S)] = 0
    ) -> JSONResponse:
        runs = current_durable().runs
        try:
            run = await runs.get(run_id)
            if wait and not is_over(run):
                try:
                    run = await runs.wait_first([run_id], timeout=wait)
                except WaitTimeoutError:
                    run = await runs.get(run_id)
        except RunNotFoundError as error:
            return problem_response(error)
        if results and run.status is RunStatus.COMPLETE:
            try:
                return _answer(run, 200, {}, result=await runs.wait(run_id))
            except (ResultPrunedError, RunNotFoundError) as error:  # pruned since it was read
                return problem_response(error)
            except GraphNotRegisteredError as error:
                _log.warning("run %r is shown without its result: %s", run_id, error)
        return _answer(run, 200, {})

    return router


def _place(request: Request, run: RunRecord) -> str | None:
    """The path of the run's status; None: the app has no such route."""
    try:
        path = request.app.url_path_for(_STATUS_ROUTE, run_id=run.run_id)
    except NoMatchFound:
        return None
    return quote(f"{request.scope.get('root_path', '')}{path}", safe="/")


def _answer(run: RunRecord, code: int, headers: dict[str, str], **more: Any) -> JSONResponse:
    if not is_over(run):
        left = run.scheduled_at - datetime.now(UTC) if run.scheduled_at else None
        seconds = 0 if left is None else math.ceil(left.total_seconds())
        headers["Retry-After"] = str(min(max(seconds, _AGAIN_S[0]), _AGAIN_S[1]))
    content = {
        "run_id": run.run_id,
        "thread_id": run.thread_id,
        "graph": run.graph,
        "status": run.status,
        "over": is_over(run),
        "reason": run.reason,
        "attempts": run.attempts,
        "created_at": run.created_at,
        "scheduled_at": run.scheduled_at,
        "started_at": run.started_at,
        "finished_at": run.finished_at,
        **more,
    }
    return JSONResponse(jsonable(content), code, headers={"Cache-Control": "no-store", **headers})
