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

from starlette.responses import Response
from starlette.types import Receive, Scope, Send

__all__ = ["Away", "EventStream", "events", "rest_after"]

_SHORTEST_REST_S = 1.0
_LONGEST_REST_S = 60.0
_SHARE = 0.02
_LONGEST_S = 30.0
_AWAY_S = 5

Render = Callable[[], Awaitable[str | None]]
"""Makes the block; None: the page is no more. May raise `Away`."""


class Away(Exception):  # noqa: N818 - not a failure of the page
    """The database does not answer at the moment."""


class EventStream(Response):
    """Server-sent events with what `render` returns, each time that it is different; it ends when
    `render` returns None, and when the browser is gone.

    It looks whether the browser is there between two renderings, and cancels none: a cancelled
    query costs its connection.
    """

    media_type = "text/event-stream"

    def __init__(self, render: Render) -> None:
        super().__init__(headers={"X-Accel-Buffering": "no"})
        del self.headers["content-length"]
        self._render = render

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:  # noqa: ARG002
        """Send the events."""
        await send({"type": "http.response.start", "status": 200, "headers": self.raw_headers})
        gone = asyncio.create_task(_gone(receive), name="aiodurable dashboard: browser")
        try:
            async for text in events(self._render, gone):
                await send({"type": "http.response.body", "body": text.encode(), "more_body": True})
            await send({"type": "http.response.body", "body": b"", "more_body": False})
        finally:
            gone.cancel()
            await asyncio.wait([gone])


def rest_after(rendering_s: float) -> float:
    """Seconds until the next rendering."""
    return min(max(rendering_s / _SHARE, _SHORTEST_REST_S), _LONGEST_REST_S)


async def events(render: Render, gone: asyncio.Future[None]) -> AsyncIterator[str]:
    """The events, until `gone` is done."""
    sent: str | None = None
    ends_at = time.monotonic() + _LONGEST_S
    while not gone.done():
        began = time.monotonic()
        try:
            html = await render()
        except Away:
            # Not the end: who watches a failover wants to see what comes after it.
            yield f"event: away\ndata:\nretry: {_AWAY_S * 1000}\n\n"
            return
        if html is None:
            yield "event: end\ndata:\n\n"
            return
        # A comment where nothing changed, so that proxies keep the stream open.
        yield ": same\n\n" if html == sent else _event(html)
        sent = html
        ended = time.monotonic()
        rest_s = rest_after(ended - began)
        if ended + rest_s >= ends_at:
            # The next stream renders at once: the browser rests before it opens that.
            yield f"retry: {round(rest_s * 1000)}\n\n"
            return
        await asyncio.wait([gone], timeout=rest_s)


async def _gone(receive: Receive) -> None:
    while (await receive())["type"] != "http.disconnect":
        pass


def _event(html: str) -> str:
    lines = "\n".join(f"data: {line}" for line in html.splitlines())
    return f"event: page\n{lines}\n\n"
