"""A route that says where a thread stands."""

from __future__ import annotations

from typing import Any

from fastapi import APIRouter
from fastapi.responses import JSONResponse

from aiodurable.current import current_durable
from aiodurable.integrations.fastapi.problems import problem_response
from aiodurable.jsonable import jsonable
from aiodurable.models import ThreadStatus, WorkflowCheckpoint
from aiodurable.runs.decision import not_found

__all__ = ["status_router"]


def status_router(*, prefix: str = "/threads") -> APIRouter:
    """A router with `GET {prefix}/{thread_id}`: the thread's status as JSON, 404 for an unknown
    thread. It does not show the text of an error and the holder of the lease, which name the
    server's own affairs.

    Include it with your own dependencies for authentication:
    `app.include_router(status_router(), dependencies=[…])`.
    """
    router = APIRouter(prefix=prefix)

    @router.get("/{thread_id}")
    async def thread_status(thread_id: str) -> JSONResponse:
        thread = await current_durable().threads.status(thread_id)
        if thread.status is ThreadStatus.NEW:
            return problem_response(not_found(thread_id))
        return JSONResponse(jsonable(_fields(thread)), headers={"Cache-Control": "no-store"})

    return router


def _fields(thread: WorkflowCheckpoint) -> dict[str, Any]:
    return {
        "thread_id": thread.thread_id,
        "status": thread.status,
        "run_id": thread.run_id,
        "graph": thread.graph,
        "checkpoint_id": thread.checkpoint_id,
        "step": thread.step,
        "pending": thread.pending,
        "failed_node": thread.failed_node,
        "interrupts": [{"id": asked.id, "value": asked.value} for asked in thread.interrupts],
        "reason": thread.reason,
        "attempts": thread.attempts,
        "updated_at": thread.updated_at,
        "started_at": thread.started_at,
        "finished_at": thread.finished_at,
        "resumable": thread.resumable,
    }
