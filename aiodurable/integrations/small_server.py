"""A small HTTP/1.1 server for probes and scrapes of a worker: GET and HEAD, one answer a
connection. A process with a web server of its own mounts the ASGI apps there.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncGenerator, Mapping, MutableMapping
from contextlib import asynccontextmanager
from http import HTTPStatus
from typing import Any, Final

from aiodurable.errors import ConfigurationError
from aiodurable.integrations.asgi import App

__all__ = ["serving"]

_log = logging.getLogger(__name__)
_REQUEST_S: Final = 5.0
_ANSWER_S: Final = 30.0
_MOST_CONNECTIONS: Final = 20
_GIVEN_UP: Final = (
    TimeoutError,
    OSError,
    asyncio.CancelledError,  # of the task of this connection, which ends here
    asyncio.IncompleteReadError,
    asyncio.LimitOverrunError,
)


@asynccontextmanager
async def serving(
    apps: Mapping[str, App], *, host: str = "127.0.0.1", port: int
) -> AsyncGenerator[int, None]:
    """Serve for the body.

    Args:
        apps: by the path that each answers, such as "/metrics".
        host, port: where; port 0: a free one.

    Yields:
        The port.

    Raises:
        ConfigurationError: the port cannot be had.
    """
    busy = dict[asyncio.Task[None], None]()

    async def connected(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        if len(busy) >= _MOST_CONNECTIONS:
            # The oldest makes way, which has had its time: a probe gets its answer beside clients
            # that connect and say nothing.
            oldest = next(iter(busy))
            del busy[oldest]
            oldest.cancel()
        busy[task] = None
        try:
            await _answer(apps, reader, writer)
        except _GIVEN_UP:
            # A client that says nothing, reads nothing, or went away: close() would wait for it.
            writer.transport.abort()
        except Exception:  # of one answer: the next request is served
            _log.exception("a request for metrics or health failed")
        finally:
            busy.pop(task, None)
            writer.close()

    try:
        server = await asyncio.start_server(connected, host, port, limit=16384)
    except OSError as error:
        raise ConfigurationError(
            f"cannot serve metrics or health on {host}:{port}: {error.strerror or error}; choose"
            " another port"
        ) from error
    try:
        yield server.sockets[0].getsockname()[1]
    finally:
        server.close()
        for task in tuple(busy):
            task.cancel()
        if busy:
            await asyncio.wait(busy, timeout=1.0)


async def _answer(
    apps: Mapping[str, App], reader: asyncio.StreamReader, writer: asyncio.StreamWriter
) -> None:
    async with asyncio.timeout(_REQUEST_S):
        head = await reader.readuntil(b"\r\n\r\n")
    method, _, rest = head.split(b"\r\n", 1)[0].decode("latin-1").partition(" ")
    path = rest.partition(" ")[0].partition("?")[0]
    sent: dict[str, Any] = {"status": 404, "headers": [], "body": b"not found\n"}

    async def send(message: MutableMapping[str, Any]) -> None:
        if message["type"] == "http.response.start":
            sent.update(status=message["status"], headers=message["headers"], body=b"")
        else:
            sent["body"] += message.get("body", b"")

    async def receive() -> MutableMapping[str, Any]:
        return {"type": "http.request", "body": b"", "more_body": False}

    async with asyncio.timeout(_ANSWER_S):
        if path in apps:
            scope = {"type": "http", "method": method, "path": path, "headers": []}
            await apps[path](scope, receive, send)
        status = HTTPStatus(sent["status"])
        lines = [f"HTTP/1.1 {status.value} {status.phrase}".encode(), b"connection: close"]
        headers = sent["headers"] or [
            (b"content-length", str(len(sent["body"])).encode()),
        ]
        lines += [name + b": " + value for name, value in headers]
        writer.write(b"\r\n".join([*lines, b"", sent["body"]]))
        await writer.drain()
