"""A TCP proxy whose wires can be cut, in each direction: bytes vanish, nobody is told."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from urllib.parse import urlencode

from psycopg.conninfo import conninfo_to_dict


class Cuttable:
    """Attributes: `to_server` and `to_client` are set while bytes may pass that way."""

    def __init__(self, dsn: str) -> None:
        self.to_server, self.to_client = asyncio.Event(), asyncio.Event()
        self._parts = conninfo_to_dict(dsn)
        self._writers: list[asyncio.StreamWriter] = []
        self._tasks: set[asyncio.Task[None]] = set()
        self.dsn = ""
        self.mend()

    def cut(self, *directions: str) -> None:
        for direction in directions or ("to_server", "to_client"):
            getattr(self, direction).clear()

    def mend(self) -> None:
        self.to_server.set()
        self.to_client.set()

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        host, port = str(self._parts["host"]), str(self._parts["port"])
        if host.startswith("/"):
            there, back = await asyncio.open_unix_connection(f"{host}/.s.PGSQL.{port}")
        else:
            there, back = await asyncio.open_connection(host, int(port))
        self._writers += [writer, back]
        for source, sink, passes in ((reader, back, self.to_server), (there, writer, self.to_client)):
            task = asyncio.create_task(self._pump(source, sink, passes))
            self._tasks.add(task)
            task.add_done_callback(self._tasks.discard)

    async def _pump(self, source: asyncio.StreamReader, sink: asyncio.StreamWriter, passes: asyncio.Event) -> None:
        try:
            while data := await source.read(65536):
                await passes.wait()
                sink.write(data)
                await sink.drain()
            await passes.wait()  # a closed connection is news, too
        except OSError:
            pass
        finally:
            sink.close()


@asynccontextmanager
async def cuttable(dsn: str) -> AsyncIterator[Cuttable]:
    proxy = Cuttable(dsn)
    listener = await asyncio.start_server(proxy._serve, "127.0.0.1", 0)
    port = listener.sockets[0].getsockname()[1]
    parts = {key: value for key, value in proxy._parts.items() if key in ("user", "password", "dbname")}
    proxy.dsn = "postgresql://?" + urlencode({**parts, "host": "127.0.0.1", "port": port})
    try:
        yield proxy
    finally:
        listener.close()
        for task in list(proxy._tasks):
            task.cancel()
        await asyncio.gather(*proxy._tasks, return_exceptions=True)
        for writer in proxy._writers:
            writer.close()
