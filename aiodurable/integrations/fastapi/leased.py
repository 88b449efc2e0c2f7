"""A dependency that holds a thread's lease for a request."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from typing import Annotated, Any
from urllib.parse import quote, unquote

from fastapi import Header, HTTPException

from aiodurable.current import current_durable, durable_run
from aiodurable.errors import RunNotFoundError
from aiodurable.models import ThreadStatus
from aiodurable.runs.busy import OnBusy
from aiodurable.runs.decision import interrupted
from aiodurable.runs.durable_run import DurableRun
from aiodurable.runs.graphs import Graph

__all__ = ["ENDED", "event_id", "leased", "run_of", "run_of_key"]

ENDED = "end"
"""The number of a stream's last event: a client that has it has everything."""
BEFORE_FIRST = "0"
"""The number of an event that a stream sends in place of its first one."""


def leased(
    graph: Graph,
    *,
    on_busy: OnBusy = "reject",
    timeout: float | None = None,
    answers: bool = False,
) -> Callable[..., AsyncIterator[DurableRun[Any, Any, Any]]]:
    """A dependency for a route with `{thread_id}` in its path. It acquires the thread's lease
    before the response starts, so that a busy thread is answered with 409, and releases it after
    the response.

    The request's headers can name the run: `Idempotency-Key` names a run of this thread, which
    never runs twice; `Last-Event-ID`, which a browser sends when it reconnects, names the run of
    `server_sent_events`, which then goes on. A client that has the last event of a stream already
    gets 204, which ends its reconnecting.

    Args:
        graph: as for `Durable.run`.
        on_busy, timeout: as for `Durable.run`.
        answers: whether the route answers questions; otherwise a thread with open questions is
            refused with `ThreadInterruptedError`.

    Raises (in the request):
        RunNotFoundError: `Last-Event-ID` names no run of this thread.
    """

    async def leased_run(
        thread_id: str,
        idempotency_key: Annotated[str | None, Header()] = None,
        last_event_id: Annotated[str | None, Header()] = None,
    ) -> AsyncIterator[DurableRun[Any, Any, Any]]:
        run_id = run_of_key(thread_id, idempotency_key) if idempotency_key else None
        if last_event_id:
            streamed, number = run_of(last_event_id)
            if number == ENDED:
                raise HTTPException(204)
            if streamed is not None and await _is_known(streamed, thread_id, number):
                run_id = streamed
        async with durable_run(
            thread_id, graph, run_id=run_id, on_busy=on_busy, timeout=timeout
        ) as run:
            if run.status is ThreadStatus.INTERRUPTED and not answers:
                raise interrupted(run.checkpoint)
            yield run

    return leased_run


def run_of_key(thread_id: str, key: str) -> str:
    """The run of an `Idempotency-Key`; no other thread and key give the same."""
    return f"{thread_id.replace('%', '%25').replace('/', '%2F')}/{key}"


async def _is_known(run_id: str, thread_id: str, number: str) -> bool:
    """Whether a client that reconnects names a run of this thread. Not if the stream ended before
    its run was accepted: then the request starts one.

    A client must not choose the id of a run that is not its own: it could occupy the one that
    another client's `Idempotency-Key` will give.

    Raises:
        RunNotFoundError: the thread has no such run, and the client had events of it.
    """
    try:
        run = await current_durable().runs.get(run_id)
    except RunNotFoundError:
        run = None
    if run is not None and run.thread_id == thread_id:
        return True
    if number == BEFORE_FIRST:
        return False
    raise RunNotFoundError(
        f"cannot go on with run {run_id!r} of thread {thread_id!r}: the thread has no such run, or"
        " no more; start another one",
        thread_id=thread_id,
        run_id=run_id,
    )


def event_id(run_id: str, number: int | str) -> str:
    """The id of an event in a run's stream."""
    return f"{quote(run_id, safe='/')}:{number}"


def run_of(id: str) -> tuple[str | None, str]:
    """The run of an event's id, and the event's number."""
    run_id, _, number = id.rpartition(":")
    return unquote(run_id) or None, number
