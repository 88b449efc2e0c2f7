"""A TCP proxy before Postgres, whose wires can be cut: silently in each direction, or so that both
ends learn it; or whose connections are forgotten, as a NAT or a load balancer forgets them."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Literal
from urllib.parse import quote, urlencode

from psycopg.conninfo import conninfo_to_dict

Direction = Literal["to_server", "to_client"]


class Proxy:
    """Passes bytes to the server of `target` and back; its own address is `dsn`. `sent` counts
    those to the server, `opened` the connections.
    """

    def __init__(self, target: str) -> None:
        self.dsn = ""
        self.sent = 0
        self._target = conninfo_to_dict(target)
        self._passes: dict[Direction, asyncio.Event] = {
            "to_server": asyncio.Event(),
            "to_client": asyncio.Event(),
        }
        self._refusing = False
        self._writers: list[asyncio.StreamWriter] = []
        self._pumps: set[asyncio.Task[None]] = set()
        self._forgotten = self.opened = self._ends = 0
        self._listener: asyncio.Server | None = None
        self.mend()

    async def start(self) -> None:
        self._listener = await asyncio.start_server(self._serve, "127.0.0.1", 0)
        port = self._listener.sockets[0].getsockname()[1]
        login = {
            key: value
            for key, value in self._target.items()
            if key in ("user", "password", "dbname")
        }
        self.dsn = "postgresql://?" + urlencode(
            {**login, "host": "127.0.0.1", "port": port}, quote_via=quote
        )

    async def aclose(self) -> None:
        assert self._listener is not None
        self._listener.close()
        pumps = list(self._pumps)
        self.down()
        await asyncio.gather(*pumps, return_exceptions=True)

    def cut(self, *directions: Direction) -> None:
        """Make bytes vanish that way (both ways by default), without a message to either end."""
        for direction in directions or self._passes:
            self._passes[direction].clear()

    def mend(self) -> None:
        """What vanished arrives, as TCP would send it again."""
        for passes in self._passes.values():
            passes.set()

    def forget(self) -> None:
        """Lose whatever is sent on the connections that are open now; neither end learns it, new
        ones work.
        """
        self._forgotten = self.opened

    def end(self) -> None:
        """Every connection ends; what was under way is lost."""
        self._ends += 1
        for pump in self._pumps:
            pump.cancel()
        for writer in self._writers:
            writer.transport.abort()
        self._writers.clear()

    def down(self) -> None:
        """Every connection ends, and new ones end at once, until `up`."""
        self._refusing = True
        self.end()

    def up(self) -> None:
        self._refusing = False

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        if self._refusing:
            writer.transport.abort()
            return
        self.opened += 1
        number, ends = self.opened, self._ends
        host, port = str(self._target["host"]), str(self._target["port"])
        if host.startswith("/"):
            there, back = await asyncio.open_unix_connection(f"{host}/.s.PGSQL.{port}")
        else:
            there, back = await asyncio.open_connection(host, int(port))
        if self._ends > ends:  # meanwhile
            writer.transport.abort()
            back.transport.abort()
            return
        self._writers += [writer, back]
        for source, sink, direction in ((reader, back, "to_server"), (there, writer, "to_client")):
            pump = asyncio.create_task(self._pump(source, sink, self._passes[direction], number))
            self._pumps.add(pump)
            pump.add_done_callback(self._pumps.discard)

    async def _pump(
        self,
        source: asyncio.StreamReader,
        sink: asyncio.StreamWriter,
        passes: asyncio.Event,
        number: int,
    ) -> None:
        try:
            while data := await source.read(65536):
                await passes.wait()
                if number <= self._forgotten:
                    continue
                sink.write(data)
                await sink.drain()
                if passes is self._passes["to_server"]:
                    self.sent += len(data)
            await passes.wait()  # a closed connection is news, too
            if number <= self._forgotten:
                await asyncio.Event().wait()  # until the proxy ends
        except OSError:
            pass
        finally:
            sink.close()


@asynccontextmanager
async def proxy(dsn: str) -> AsyncIterator[Proxy]:
    """A proxy to the server of `dsn`, for the body."""
    opened = Proxy(dsn)
    await opened.start()
    try:
        yield opened
    finally:
        await opened.aclose()
