"""A page that follows what it shows: server-sent events with its `live` block, when that changed.

A stream renders its page again and again, with the same checks as a request, and sends what is
different. It rests fifty times as long as rendering took, so that an open page costs at most 2 % of
a core of the database, and never less than a second. A stream ends after half a minute, and the
browser opens the next: so a server that shuts down waits no longer, and a login that ended is seen.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Awaitable, Callable

from starlette.responses import StreamingResponse

__all__ = ["events", "rest_after", "stream"]

_SHORTEST_REST_S = 1.0
_LONGEST_REST_S = 60.0
_SHARE = 0.02
_LONGEST_S = 30.0


def stream(render: Callable[[], Awaitable[str | None]]) -> StreamingResponse:
    """Server-sent events with what `render` returns, each time that it is different; it ends when
    `render` returns None.
    """
    return StreamingResponse(
        events(render),
        media_type="text/event-stream",
        headers={"X-Accel-Buffering": "no"},
    )


def rest_after(rendering_s: float) -> float:
    """Seconds until the next rendering."""
    return min(max(rendering_s / _SHARE, _SHORTEST_REST_S), _LONGEST_REST_S)


async def events(render: Callable[[], Awaitable[str | None]]) -> AsyncIterator[str]:
    """The lines of a stream; see `stream`."""
    sent: str | None = None
    ends_at = time.monotonic() + _LONGEST_S
    while True:
        began = time.monotonic()
        html = await render()
        if html is None:
            yield "event: end\ndata:\n\n"
            return
        # A comment where nothing changed: a browser that is gone is seen.
        yield ": same\n\n" if html == sent else _event(html)
        sent = html
        ended = time.monotonic()
        rest_s = rest_after(ended - began)
        if ended + rest_s >= ends_at:
            # The next stream renders at once: the browser rests before it opens that.
            yield f"retry: {round(rest_s * 1000)}\n\n"
            return
        await asyncio.sleep(rest_s)


def _event(html: str) -> str:
    lines = "\n".join(f"data: {line}" for line in html.splitlines())
    return f"event: page\n{lines}\n\n"
