"""A wire to Postgres with a fixed delay, in a process of its own so that it costs the client no CPU.

python -m benchmarks.wire SOCKET_OR_HOST PORT DELAY_MS: prints the port it listens on, then forwards until stdin ends.
"""

from __future__ import annotations

import asyncio
import sys
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager, suppress

from aiodurable.dsn import parse_dsn


async def _pump(reader: asyncio.StreamReader, writer: asyncio.StreamWriter, delay_s: float) -> None:
    """Every piece arrives `delay_s` after it was sent; pieces follow each other as they came."""
    loop = asyncio.get_running_loop()
    pieces: asyncio.Queue[tuple[float, bytes]] = asyncio.Queue()

    async def receive() -> None:
        data = b"-"
        while data:
            data = await reader.read(1 << 16)
            pieces.put_nowait((loop.time() + delay_s, data))

    receiving = asyncio.create_task(receive())
    try:
        while True:
            at, data = await pieces.get()
            if (wait := at - loop.time()) > 0:
                await asyncio.sleep(wait)
            if not data:
                return
            writer.write(data)
            await writer.drain()
    finally:
        receiving.cancel()
        writer.close()


async def main(host: str, port: str, delay_ms: str) -> None:
    delay_s = float(delay_ms) / 1000 / 2  # there and back

    async def accept(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        if host.startswith("/"):
            up_reader, up_writer = await asyncio.open_unix_connection(f"{host}/.s.PGSQL.{port}")
        else:
            up_reader, up_writer = await asyncio.open_connection(host, int(port))
        with suppress(ConnectionError, asyncio.CancelledError):  # either side went away, or the measurement is over
            await asyncio.gather(_pump(reader, up_writer, delay_s), _pump(up_reader, writer, delay_s))

    server = await asyncio.start_server(accept, "127.0.0.1", 0)
    print(server.sockets[0].getsockname()[1], flush=True)
    await asyncio.to_thread(sys.stdin.read)
    server.close()


@asynccontextmanager
async def delayed(dsn: str, delay_ms: float) -> AsyncGenerator[str, None]:
    """The DSN with `delay_ms` milliseconds added to each round trip; 0: the DSN itself."""
    if not delay_ms:
        yield dsn
        return
    target = parse_dsn(dsn).asyncpg
    host, port = (value[0] if isinstance(value, list) else value for value in (target["host"], target["port"]))
    pipe = asyncio.subprocess.PIPE
    command = [sys.executable, "-m", __name__, str(host), str(port), str(delay_ms)]
    process = await asyncio.create_subprocess_exec(*command, stdin=pipe, stdout=pipe)
    try:
        assert process.stdout is not None
        listening = int(await process.stdout.readline())
        password = target.get("password")
        login = f"{target['user']}:{password}" if password else target["user"]
        yield f"postgresql://{login}@127.0.0.1:{listening}/{target['database']}"
    finally:
        assert process.stdin is not None
        process.stdin.close()
        await process.wait()


if __name__ == "__main__":
    asyncio.run(main(*sys.argv[1:]))
