"""A run as server-sent events."""

from __future__ import annotations

import logging
from collections.abc import AsyncGenerator, Sequence
from contextlib import aclosing
from typing import Any

from fastapi import Request
from fastapi.sse import ServerSentEvent
from langgraph.types import StreamMode

from aiodurable.current import current_durable
from aiodurable.errors import RunCancelledError
from aiodurable.integrations.fastapi.leased import ENDED, event_id, run_of
from aiodurable.integrations.fastapi.problems import LATER, problem
from aiodurable.jsonable import jsonable
from aiodurable.models import PauseReason
from aiodurable.runs.durable_run import DurableRun

__all__ = ["server_sent_events"]

_log = logging.getLogger(__name__)


async def server_sent_events(
    request: Request,
    run: DurableRun[Any, Any, Any],
    input: Any = None,
    *,
    stream_mode: StreamMode | Sequence[StreamMode] = "updates",
    retry_ms: int = 1000,
) -> AsyncGenerator[ServerSentEvent, None]:
    """`run.astream` as server-sent events, for a route with `response_class=EventSourceResponse`.

    Each chunk is an event named after its stream mode. The last event is `end`, with the thread's
    `status` and open `interrupts`, or `problem`, with what `add_exception_handlers` answers; an
    error of a node is logged. With an event's id a client that reconnects goes on with this run,
    see `leased`: it gets the events of the steps that are left, or the stored result.

    Args:
        request: the request that is answered.
        run: a run, as `leased` gives it.
        input: as for `DurableRun.astream`; a client that reconnects sends the same.
        stream_mode: LangGraph's own.
        retry_ms: after how many milliseconds a browser reconnects.
    """
    number = 0
    mode = stream_mode if isinstance(stream_mode, str) else list(stream_mode)
    try:
        await _stays_cancelled(request, run)
        async with aclosing(run.astream(input, stream_mode=mode)) as chunks:
            async for chunk in chunks:
                number += 1
                name, data = (mode, chunk) if isinstance(mode, str) else chunk
                yield ServerSentEvent(
                    event=name,
                    data=jsonable(data),
                    id=event_id(run.run_id, number),
                    retry=retry_ms,
                )
    except Exception as error:  # the status line is sent: only an event can say so now
        status, content, _ = problem(error)
        if status == 500:  # raised, it would end the response before the event is sent
            _log.exception("the run of thread %r failed while it was streamed", run.thread_id)
        last = number if status == LATER else ENDED  # the same request may succeed in a moment
        yield ServerSentEvent(event="problem", data=content, id=event_id(run.run_id, last))
    else:
        thread = run.checkpoint
        questions = [{"id": asked.id, "value": asked.value} for asked in thread.interrupts]
        yield ServerSentEvent(
            event="end",
            data=jsonable({"status": thread.status, "interrupts": questions}),
            id=event_id(run.run_id, ENDED),
        )


async def _stays_cancelled(request: Request, run: DurableRun[Any, Any, Any]) -> None:
    """A browser that reconnects is no person who goes on with what another one has cancelled.

    Raises:
        RunCancelledError: somebody cancelled the run of its stream.
    """
    last, thread = request.headers.get("last-event-id"), run.checkpoint
    if last is None or thread.reason != PauseReason.CANCELLED or thread.run_id != run_of(last)[0]:
        return
    found = await current_durable().runs.get(run.run_id)
    if found.cancel_requested_at is not None:
        raise RunCancelledError(
            f"cannot go on with the stream of thread {run.thread_id!r}: its run was cancelled",
            thread_id=run.thread_id,
            run_id=run.run_id,
            requested_at=found.cancel_requested_at,
        )
