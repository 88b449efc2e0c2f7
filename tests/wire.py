"""A wire to Postgres that can be cut."""

import asyncio
from typing import Self

from aiodurable.dsn import parse_dsn


class Wire:
    """A proxy before Postgres. `deaf`: answers are swallowed. `cut()`: every connection ends."""

    def __init__(self, dsn: str) -> None:
        self._target = parse_dsn(dsn).asyncpg
        self._pipes: list[asyncio.StreamWriter] = []
        self._refusing = False
        self.deaf = False

    async def __aenter__(self) -> Self:
        self._server = await asyncio.start_server(self._accept, "127.0.0.1", 0)
        port = self._server.sockets[0].getsockname()[1]
        password = self._target.get("password")
        login = f"{self._target['user']}{f':{password}' if password else ''}"
        self.dsn = f"postgresql://{login}@127.0.0.1:{port}/{self._target['database']}"
        return self

    async def __aexit__(self, *exc_info: object) -> None:
        self._server.close()
        self.cut()

    def down(self) -> None:
        """Every connection ends, and new ones end at once."""
        self._refusing = True
        self.cut()

    def up(self) -> None:
        self._refusing = False

    def cut(self) -> None:
        self.deaf = False
        pipes, self._pipes = self._pipes, []
        for pipe in pipes:
            pipe.transport.abort()

    async def _accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        if self._refusing:
            writer.transport.abort()
            return
        host, port = self._target["host"], self._target["port"]
        host = host[0] if isinstance(host, list) else host
        port = port[0] if isinstance(port, list) else port
        if str(host).startswith("/"):
            up_reader, up_writer = await asyncio.open_unix_connection(f"{host}/.s.PGSQL.{port}")
        else:
            up_reader, up_writer = await asyncio.open_connection(host, port)
        self._pipes += [writer, up_writer]
        await asyncio.gather(self._pump(reader, up_writer, answers=False), self._pump(up_reader, writer, answers=True))

    async def _pump(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, *, answers: bool) -> None:
        try:
            while data := await reader.read(1 << 16):
                if answers and self.deaf:
                    continue
                writer.write(data)
                await writer.drain()
        except ConnectionError:
            pass
        finally:
            writer.close()
