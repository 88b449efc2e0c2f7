"""What a lock costs: python -m benchmarks.locks [--rounds N] [--seconds S] [--tasks …] [--json FILE]

A pair is one lock and its unlock, of a name nobody else wants. The contenders take turns, round by round, on the same
server, so that a ratio holds although the machine's speed drifts. Redis takes part where `redis` is installed and
`redis-server` is on the path, pgbench where it lies beside the server's programs; who is missing is named.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import json
import shutil
import statistics
import subprocess
import tempfile
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import AsyncExitStack
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import asyncpg
from psycopg_pool import AsyncConnectionPool

from aiodurable.dsn import parse_dsn
from aiodurable.embedded import embedded_postgres, find_bindir
from aiodurable.keys import lock_key
from aiodurable.locks import PostgresLockManager

from .machine import describe

Pair = Callable[[str], Awaitable[Any]]
OURS = "aiodurable, 2 sessions"
POOL = 10
SERVER = {"max_connections": "100", "max_locks_per_transaction": "512"}


async def ours(dsn: str, stack: AsyncExitStack) -> Pair:
    locks = await stack.enter_async_context(PostgresLockManager(dsn))

    async def pair(name: str) -> None:
        async with locks.hold(name):
            pass

    return pair


async def asyncpg_pool(dsn: str, stack: AsyncExitStack) -> Pair:
    pool = await stack.enter_async_context(
        asyncpg.create_pool(**parse_dsn(dsn).asyncpg, min_size=POOL, max_size=POOL, reset=no_reset)
    )

    async def pair(name: str) -> None:
        key = lock_key(name, "bench")
        async with pool.acquire() as connection:
            await connection.fetchval("SELECT pg_try_advisory_lock($1)", key)
            await connection.fetchval("SELECT pg_advisory_unlock($1)", key)

    return pair


async def no_reset(_connection: object) -> None:
    """Spares it a round trip: asyncpg's own would release every lock."""


async def psycopg_pool(dsn: str, stack: AsyncExitStack) -> Pair:
    pool = AsyncConnectionPool(
        parse_dsn(dsn).conninfo,
        min_size=POOL,
        max_size=POOL,
        open=False,
        timeout=600,
        kwargs={"autocommit": True, "prepare_threshold": 0},
    )
    await stack.enter_async_context(pool)

    async def pair(name: str) -> None:
        key = lock_key(name, "bench")
        async with pool.connection() as connection:
            await connection.execute("SELECT pg_try_advisory_lock(%s)", (key,))
            await connection.execute("SELECT pg_advisory_unlock(%s)", (key,))

    return pair


@contextlib.asynccontextmanager
async def redis_server() -> AsyncIterator[str]:
    with tempfile.TemporaryDirectory() as folder:
        path = f"{folder}/redis.sock"
        process = await asyncio.create_subprocess_exec(
            "redis-server",
            "--port",
            "0",
            "--unixsocket",
            path,
            "--save",
            "",
            "--dir",
            folder,
            stdout=subprocess.DEVNULL,
        )
        try:
            while not Path(path).exists():  # noqa: ASYNC110, ASYNC240
                await asyncio.sleep(0.01)
            yield path
        finally:
            process.terminate()
            await process.wait()


async def redis_lock(dsn: str, stack: AsyncExitStack) -> Pair:
    import redis.asyncio as redis  # noqa: PLC0415  # pyright: ignore[reportMissingImports]

    del dsn  # it has a server of its own
    client: Any = redis.Redis(unix_socket_path=await stack.enter_async_context(redis_server()))
    stack.push_async_callback(client.aclose)

    async def pair(name: str) -> None:
        async with client.lock(name, timeout=20):
            pass

    return pair


def pgbench(dsn: str, seconds: float) -> float | None:
    """Pairs a second of ten clients with prepared statements; None where there is no pgbench."""
    program = shutil.which("pgbench", path=str(find_bindir())) or shutil.which("pgbench")
    if program is None:
        return None
    with tempfile.NamedTemporaryFile("w", suffix=".sql") as script:
        script.write(
            "\\set k random(1, 1000000000)\nSELECT pg_try_advisory_lock(:k);\nSELECT pg_advisory_unlock(:k);\n"
        )
        script.flush()
        command = [program, "-n", "-M", "prepared", "-c", "10", "-T", str(max(1, round(seconds))), "-f", script.name]
        done = subprocess.run([*command, parse_dsn(dsn).conninfo], capture_output=True, text=True, check=True)
    return next(float(line.split()[2]) for line in done.stdout.splitlines() if line.startswith("tps"))


async def measure(pair: Pair, tasks: int, seconds: float) -> dict[str, float]:
    """Pairs a second, latency in milliseconds, and this process's CPU in microseconds a pair."""
    took: list[float] = []
    until = time.perf_counter() + seconds

    async def work(number: int) -> None:
        while (began := time.perf_counter()) < until:
            await pair(f"lock {number}")
            took.append(time.perf_counter() - began)

    began, cpu = time.perf_counter(), time.process_time()
    await asyncio.gather(*map(work, range(tasks)))
    wall, cpu = time.perf_counter() - began, time.process_time() - cpu
    took.sort()
    return {
        "pairs_s": len(took) / wall,
        "p50_ms": 1000 * took[len(took) // 2],
        "p99_ms": 1000 * took[len(took) * 99 // 100],
        "client_us": 1e6 * cpu / len(took),
    }


async def run(options: argparse.Namespace) -> dict[str, Any]:
    contenders: dict[str, Callable[[str, AsyncExitStack], Awaitable[Pair]]] = {
        OURS: ours,
        f"asyncpg, pool of {POOL}": asyncpg_pool,
        f"psycopg, pool of {POOL}": psycopg_pool,
    }
    with contextlib.suppress(ImportError):
        import redis  # noqa: F401, PLC0415  # pyright: ignore[reportMissingImports, reportUnusedImport]

        if shutil.which("redis-server"):
            contenders["redis-py Lock"] = redis_lock
    found: dict[tuple[str, int], list[dict[str, float]]] = {}
    async with embedded_postgres(durable=False, settings=SERVER) as dsn:
        for _ in range(options.rounds):
            for tasks in options.tasks:
                for name, open_one in contenders.items():
                    async with AsyncExitStack() as stack:
                        pair = await open_one(dsn, stack)
                        found.setdefault((name, tasks), []).append(await measure(pair, tasks, options.seconds))
            if (tps := await asyncio.to_thread(pgbench, dsn, options.seconds)) is not None:
                found.setdefault(("pgbench, 10 clients", 10), []).append({"pairs_s": tps})
        connection = await asyncpg.connect(**parse_dsn(dsn).asyncpg)
        version = str(await connection.fetchval("SHOW server_version"))
        await connection.close()
    rows = [
        {
            "contender": name,
            "tasks": tasks,
            **{key: statistics.median(each[key] for each in rounds) for key in rounds[0]},
        }
        for (name, tasks), rounds in found.items()
    ]
    missing = [name for name in ("redis-py Lock", "pgbench, 10 clients") if not any(name == key for key, _ in found)]
    return {"at": datetime.now(UTC).isoformat(), "machine": describe(version), "rows": rows, "missing": missing}


def main(argv: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(
        "aiodurable bench locks", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--seconds", type=float, default=3.0)
    parser.add_argument("--tasks", type=int, nargs="+", default=[1, 1000])
    parser.add_argument("--json", type=Path)
    options = parser.parse_args(argv)
    result = asyncio.run(run(options))
    for row in result["rows"]:
        figures = "  ".join(f"{key} {value:10.1f}" for key, value in row.items() if isinstance(value, float))
        print(f"{row['contender']:24} {row['tasks']:5} tasks  {figures}")
    for name in result["missing"]:
        print(f"not measured: {name} is not installed here")
    if options.json:
        options.json.write_text(json.dumps(result, indent=1) + "\n", "utf-8")


if __name__ == "__main__":
    main()
