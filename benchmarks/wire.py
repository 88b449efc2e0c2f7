"""A wire to Postgres with a fixed delay, in a process of its own so that it costs the client no
CPU.

python -m benchmarks.wire SOCKET_OR_HOST PORT DELAY_MS: prints the port it listens on, then forwards
until stdin ends. For each line on stdin it prints how many round trips there were so far.
"""

from __future__ import annotations

import asyncio
import select
import socket
import statistics
import sys
import time
from collections import deque
from collections.abc import AsyncGenerator, Callable
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TextIO

import asyncpg

from aiodurable.dsn import parse_dsn


class DelayLine:
    """Sockets in pairs: what one receives, the other sends `delay_s` seconds later.

    One delay for all, so one queue in order of time serves them all. Bare sockets, because an event
    loop's own work is a tenth of a millisecond a piece; and select(2), which waits in microseconds
    where poll and epoll_wait round up to whole milliseconds.
    """

    def __init__(
        self, listener: socket.socket, upstream: Callable[[], socket.socket], delay_s: float
    ) -> None:
        self._listener, self._upstream, self._delay_s = listener, upstream, delay_s
        self._peer: dict[socket.socket, socket.socket] = {}
        self._reading: set[socket.socket] = set()
        self._travelling: deque[tuple[float, socket.socket, bytes]] = deque()
        self._arrived: dict[socket.socket, bytes] = {}
        """What a socket could not take at once."""
        self._clients: set[socket.socket] = set()
        self._asking: set[socket.socket] = set()
        """The clients that have sent something since they last received."""
        self._round_trips = 0

    def forward_until_end(self, requests: TextIO) -> None:
        """Blocks until `requests` ends. Pieces are kept without bound: what travels is what was
        sent within the delay.
        """
        while True:
            wait = max(0.0, self._travelling[0][0] - time.monotonic()) if self._travelling else None
            readable: list[Any]
            readable, writable, _ = select.select(
                [self._listener, requests, *self._reading], list(self._arrived), [], wait
            )
            now = time.monotonic()
            for ready in readable:
                if ready is requests:
                    if not requests.readline():
                        return
                    print(self._round_trips, flush=True)
                    continue
                self._accept() if ready is self._listener else self._receive(ready, now)
            for ready in writable:
                self._send(ready, b"")
            while self._travelling and self._travelling[0][0] <= now:
                _, target, piece = self._travelling.popleft()
                if target in self._peer:
                    self._send(target, piece) if piece else self._close(target)

    def _accept(self) -> None:
        client, _ = self._listener.accept()
        try:
            server = self._upstream()
        except OSError:  # the client sees a closed connection, as it would without the wire
            client.close()
            return
        for one, other in ((client, server), (server, client)):
            one.setblocking(False)
            if one.family != socket.AF_UNIX:
                one.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            self._peer[one] = other
            self._reading.add(one)
        self._clients.add(client)

    def _receive(self, source: socket.socket, now: float) -> None:
        try:
            piece = source.recv(1 << 20)
        except OSError:
            piece = b""
        if source not in self._clients:
            self._asking.discard(self._peer[source])
        elif source not in self._asking:
            self._asking.add(source)
            self._round_trips += 1
        self._travelling.append((now + self._delay_s, self._peer[source], piece))
        if not piece:
            self._reading.discard(source)

    def _send(self, target: socket.socket, piece: bytes) -> None:
        waiting = self._arrived.pop(target, b"") + piece
        try:
            sent = target.send(waiting)
        except BlockingIOError:
            sent = 0
        except OSError:
            return
        if sent < len(waiting):
            self._arrived[target] = waiting[sent:]

    def _close(self, target: socket.socket) -> None:
        for one in (target, self._peer[target]):
            del self._peer[one]
            self._reading.discard(one)
            self._arrived.pop(one, None)
            self._clients.discard(one)
            self._asking.discard(one)
            one.close()


def main(host: str, port: str, delay_ms: str) -> None:
    with suppress(OSError):  # Linux rounds a wait up by 50 µs by default: proc_pid_timerslack_ns(5)
        Path("/proc/self/timerslack_ns").write_text("1")

    def upstream() -> socket.socket:
        if not host.startswith("/"):
            return socket.create_connection((host, int(port)))
        reached = socket.socket(socket.AF_UNIX)
        reached.connect(f"{host}/.s.PGSQL.{port}")
        return reached

    with socket.create_server(("127.0.0.1", 0), backlog=128) as listener:
        print(listener.getsockname()[1], flush=True)
        DelayLine(listener, upstream, float(delay_ms) / 1000 / 2).forward_until_end(sys.stdin)


@dataclass(frozen=True, slots=True)
class Wire:
    """A running wire; `dsn` leads through it."""

    dsn: str
    _process: asyncio.subprocess.Process

    async def round_trips(self) -> int:
        """How many there were so far on all connections: pieces of a client that follow a piece of
        the server, whatever the driver.
        """
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.write(b"\n")
        return int(await self._process.stdout.readline())


@asynccontextmanager
async def wire(dsn: str, delay_ms: float = 0) -> AsyncGenerator[Wire, None]:
    """A wire to that server, with `delay_ms` milliseconds added to each round trip."""
    target = parse_dsn(dsn).asyncpg
    host, port = (
        value[0] if isinstance(value, list) else value for value in (target["host"], target["port"])
    )
    pipe = asyncio.subprocess.PIPE
    command = [sys.executable, "-m", __name__, str(host), str(port), str(delay_ms)]
    process = await asyncio.create_subprocess_exec(*command, stdin=pipe, stdout=pipe)
    try:
        assert process.stdout is not None
        listening = int(await process.stdout.readline())
        password = target.get("password")
        login = f"{target['user']}:{password}" if password else target["user"]
        yield Wire(f"postgresql://{login}@127.0.0.1:{listening}/{target['database']}", process)
    finally:
        assert process.stdin is not None
        process.stdin.close()
        await process.wait()


@asynccontextmanager
async def delayed(dsn: str, delay_ms: float) -> AsyncGenerator[str, None]:
    """The DSN with `delay_ms` milliseconds added to each round trip; 0: the DSN itself."""
    if not delay_ms:
        yield dsn
        return
    async with wire(dsn, delay_ms) as added:
        yield added.dsn


async def round_trip_ms(dsn: str, times: int = 200) -> float:
    """The median of the smallest question there is."""
    connection = await asyncpg.connect(**parse_dsn(dsn).asyncpg)
    try:
        took: list[float] = []
        for _ in range(times):
            began = time.perf_counter()
            await connection.fetchval("SELECT 1")
            took.append(time.perf_counter() - began)
        return 1000 * statistics.median(took)
    finally:
        await connection.close()


if __name__ == "__main__":
    main(*sys.argv[1:])
