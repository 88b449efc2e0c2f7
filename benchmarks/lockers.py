"""Who takes part in the benchmark of locks, and how each takes and gives back one lock; 10
connections where it has a pool.
"""

from __future__ import annotations

import asyncio
import math
import resource
import shutil
import subprocess
import tempfile
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Mapping
from contextlib import AbstractAsyncContextManager, asynccontextmanager, contextmanager
from dataclasses import dataclass
from functools import partial
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path
from threading import Thread
from typing import Any

import asyncpg
from psycopg_pool import AsyncConnectionPool

from aiodurable.dsn import parse_dsn
from aiodurable.embedded import find_bindir
from aiodurable.lock_keys import lock_key
from aiodurable.locks import PostgresLockManager

from .meter import ServerCpu

Pair = Callable[[str], Awaitable[Any]]
OURS = "aiodurable, 2 sessions"
OURS_UVLOOP = "aiodurable on uvloop"
ASYNCPG = "asyncpg, pool of 10"
ASYNCPG_NO_RESET = "asyncpg, pool, no reset"
ONE_ASYNCPG = "asyncpg, 1 connection"
PSYCOPG = "psycopg, pool of 10"
PSYCOPG2 = "psycopg2, ≤ 10 threads"
PGBENCH = "pgbench, ≤ 10 clients"
REDIS = "redis-py Lock"
ROW = "row lease, pool of 10"
POOL = 10
WARM_UP_S = 0.2
LOCK, UNLOCK = "SELECT pg_try_advisory_lock($1)", "SELECT pg_advisory_unlock($1)"
ROW_TABLE = (
    "CREATE TABLE bench_leases (name text PRIMARY KEY, owner text NOT NULL, expires timestamptz NOT"
    " NULL)"
)
TAKE_ROW = """
INSERT INTO bench_leases VALUES ($1, $2, now() + interval '20 seconds')
ON CONFLICT (name) DO UPDATE SET owner = excluded.owner, expires = excluded.expires WHERE bench_leases.expires < now()
RETURNING name"""
DROP_ROW = "DELETE FROM bench_leases WHERE name = $1 AND owner = $2"


@dataclass(frozen=True, slots=True)
class Place:
    """The two servers, and for how many seconds each contender is measured."""

    dsn: str
    postgres: ServerCpu
    redis_socket: Path | None
    redis: ServerCpu
    seconds: float


Measure = Callable[[Place, int], Mapping[str, float]]
"""With so many tasks (threads, clients)."""


# ---- what a pair is -----------------------------------------------------------------------------


@asynccontextmanager
async def ours(place: Place) -> AsyncIterator[Pair]:
    async with PostgresLockManager(place.dsn) as locks:

        async def pair(name: str) -> None:
            async with locks.hold(name):
                pass

        yield pair


@asynccontextmanager
async def asyncpg_pool(place: Place, reset: Any = None) -> AsyncIterator[Pair]:
    """As it comes the pool resets a connection that is given back (`None`), which is a third round
    trip a pair.
    """
    async with _pool(place, reset) as pool:

        async def pair(name: str) -> None:
            key = lock_key(name, "bench")
            async with pool.acquire() as connection:
                await connection.fetchval(LOCK, key)
                await connection.fetchval(UNLOCK, key)

        yield pair


@asynccontextmanager
async def one_asyncpg(place: Place) -> AsyncIterator[Pair]:
    connection = await asyncpg.connect(**parse_dsn(place.dsn).asyncpg)

    async def pair(name: str) -> None:
        key = lock_key(name, "bench")
        await connection.fetchval(LOCK, key)
        await connection.fetchval(UNLOCK, key)

    try:
        yield pair
    finally:
        await connection.close()


@asynccontextmanager
async def row_lease(place: Place) -> AsyncIterator[Pair]:
    async with _pool(place, _no_reset) as pool:

        async def pair(name: str) -> None:
            async with pool.acquire() as connection:
                await connection.fetchval(TAKE_ROW, name, "me")
            async with (
                pool.acquire() as connection
            ):  # such a lease needs no connection while it is held
                await connection.execute(DROP_ROW, name, "me")

        yield pair


@asynccontextmanager
async def psycopg_pool(place: Place) -> AsyncIterator[Pair]:
    async with AsyncConnectionPool(
        parse_dsn(place.dsn).conninfo,
        min_size=POOL,
        max_size=POOL,
        open=False,
        timeout=600,
        kwargs={"autocommit": True, "prepare_threshold": 0},
    ) as pool:

        async def pair(name: str) -> None:
            key = lock_key(name, "bench")
            async with pool.connection() as connection:
                await connection.execute("SELECT pg_try_advisory_lock(%s)", (key,))
                await connection.execute("SELECT pg_advisory_unlock(%s)", (key,))

        yield pair


@asynccontextmanager
async def redis_lock(place: Place) -> AsyncIterator[Pair]:
    redis: Any = import_module("redis.asyncio")
    connection = redis.UnixDomainSocketConnection
    pool = redis.BlockingConnectionPool(
        POOL, None, connection_class=connection, path=str(place.redis_socket)
    )
    client = redis.Redis.from_pool(pool)

    async def pair(name: str) -> None:
        async with client.lock(name, timeout=20):
            pass

    try:
        yield pair
    finally:
        await client.aclose()


def _pool(place: Place, reset: Any) -> asyncpg.Pool:
    return asyncpg.create_pool(
        **parse_dsn(place.dsn).asyncpg, min_size=POOL, max_size=POOL, reset=reset
    )


async def _no_reset(_connection: object) -> None:
    """A lock that was unlocked, or a row, leaves nothing to reset."""


# ---- how it is measured -------------------------------------------------------------------------


def in_tasks(
    opened: Callable[[Place], AbstractAsyncContextManager[Pair]], *, uvloop: bool = False
) -> Measure:
    """In an event loop of its own."""

    def measure(place: Place, tasks: int) -> Mapping[str, float]:
        factory = import_module("uvloop").new_event_loop if uvloop else None
        with asyncio.Runner(loop_factory=factory) as runner:
            return runner.run(_in_tasks(opened, place, tasks))

    return measure


async def _in_tasks(
    opened: Callable[[Place], AbstractAsyncContextManager[Pair]], place: Place, tasks: int
) -> Mapping[str, float]:
    async def work(number: int, until: float, took: list[float]) -> None:
        name = f"lock {number}"
        while (began := time.perf_counter()) < until:
            await pair(name)
            took.append(time.perf_counter() - began)

    async with opened(place) as pair:
        server = place.redis if opened is redis_lock else place.postgres
        for seconds in (WARM_UP_S, place.seconds):
            took: list[float] = []
            with _metered(server, took) as figures:
                until = time.perf_counter() + seconds
                await asyncio.gather(*(work(number, until, took) for number in range(tasks)))
        return figures


def in_threads(place: Place, tasks: int) -> Mapping[str, float]:
    """psycopg2: a connection a thread."""
    psycopg2: Any = import_module("psycopg2")
    took: list[float] = []

    def work(number: int, connection: Any) -> None:
        cursor, key = connection.cursor(), lock_key(f"lock {number}", "bench")
        while (began := time.perf_counter()) < until:
            cursor.execute("SELECT pg_try_advisory_lock(%s)", (key,))
            cursor.fetchone()
            cursor.execute("SELECT pg_advisory_unlock(%s)", (key,))
            cursor.fetchone()
            took.append(time.perf_counter() - began)

    connections = [psycopg2.connect(parse_dsn(place.dsn).conninfo) for _ in range(min(tasks, POOL))]
    for connection in connections:
        connection.autocommit = True
    threads = [Thread(target=work, args=each) for each in enumerate(connections)]
    with _metered(place.postgres, took) as figures:
        until = time.perf_counter() + place.seconds
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    for connection in connections:
        connection.close()
    return figures


def pgbench(place: Place, tasks: int) -> Mapping[str, float]:
    """Prepared statements; whole seconds, for it knows no others. Each tenth latency is looked
    at.
    """
    took: list[float] = []
    with tempfile.TemporaryDirectory() as folder, _metered(place.postgres, took) as figures:
        script = Path(folder, "pair.sql")
        script.write_text(
            "\\set k random(1, 1000000000)\nSELECT pg_try_advisory_lock(:k);\nSELECT"
            " pg_advisory_unlock(:k);\n",
            "utf-8",
        )
        command = [
            str(_pgbench()),
            "-n",
            "-M",
            "prepared",
            "-c",
            str(min(tasks, POOL)),
            "-f",
            str(script),
            "-l",
        ]
        command += [
            "--sampling-rate=0.1",
            f"--log-prefix={folder}/log",
            "-T",
            str(math.ceil(place.seconds)),
        ]
        command.append(parse_dsn(place.dsn).conninfo)
        said = subprocess.run(
            command, capture_output=True, text=True, check=True
        ).stdout.splitlines()
        logged = [
            line.split()
            for log in Path(folder).glob("log*")
            for line in log.read_text("utf-8").splitlines()
        ]
        took += [int(line[2]) / 1e6 for line in logged]
        figures["pairs"] = float(
            next(line for line in said if "actually processed" in line).split()[5].partition("/")[0]
        )
        figures["pairs_s"] = float(next(line for line in said if line.startswith("tps")).split()[2])
    return figures


def _pgbench() -> str | None:
    return shutil.which("pgbench", path=str(find_bindir())) or shutil.which("pgbench")


@contextmanager
def _metered(server: ServerCpu, took: list[float]) -> Iterator[dict[str, float]]:
    """Figures from the latencies in `took`. Only those that it made itself; who knows `pairs`
    better says so in the body.
    """
    figures: dict[str, float] = {}
    server_s, client_s, began = server.seconds(), _client_cpu(), time.perf_counter()
    yield figures
    seconds, client_s, server_s = (
        time.perf_counter() - began,
        _client_cpu() - client_s,
        server.seconds() - server_s,
    )
    took.sort()
    pairs = figures.pop("pairs", len(took))
    figures.setdefault("pairs_s", pairs / seconds)
    figures["p50_ms"] = 1000 * took[len(took) // 2]
    figures["p99_ms"] = 1000 * took[len(took) * 99 // 100]
    figures["client_us"] = 1e6 * client_s / pairs
    figures["server_us"] = 1e6 * server_s / pairs


def _client_cpu() -> float:
    """Seconds of this process and of its children that have ended."""
    children = resource.getrusage(resource.RUSAGE_CHILDREN)
    return time.process_time() + children.ru_utime + children.ru_stime


CONTENDERS: Mapping[str, Measure] = {
    OURS: in_tasks(ours),
    OURS_UVLOOP: in_tasks(ours, uvloop=True),
    PGBENCH: pgbench,
    PSYCOPG2: in_threads,
    ASYNCPG: in_tasks(asyncpg_pool),
    ASYNCPG_NO_RESET: in_tasks(partial(asyncpg_pool, reset=_no_reset)),
    PSYCOPG: in_tasks(psycopg_pool),
    ROW: in_tasks(row_lease),
    REDIS: in_tasks(redis_lock),
    ONE_ASYNCPG: in_tasks(one_asyncpg),
}


def missing(name: str) -> str:
    """What the contender lacks here; nothing: an empty string."""
    packages = {OURS_UVLOOP: ["uvloop"], PSYCOPG2: ["psycopg2"], REDIS: ["redis"]}
    programs = {
        PGBENCH: {"pgbench": _pgbench()},
        REDIS: {"redis-server": shutil.which("redis-server")},
    }
    lacks = [package for package in packages.get(name, []) if not find_spec(package)]
    lacks += [
        f"the program {program}" for program, found in programs.get(name, {}).items() if not found
    ]
    return " and ".join(lacks)


@contextmanager
def redis_server() -> Iterator[tuple[Path, ServerCpu]]:
    """One that keeps nothing, on a unix socket."""
    with tempfile.TemporaryDirectory() as folder:
        socket = Path(folder, "redis.sock")
        command = [
            "redis-server",
            "--port",
            "0",
            "--unixsocket",
            str(socket),
            "--save",
            "",
            "--dir",
            folder,
        ]
        process = subprocess.Popen(command, stdout=subprocess.DEVNULL)
        try:
            while not socket.exists():
                if process.poll() is not None:
                    raise SystemExit(
                        f"redis-server ended with {process.returncode} before it listened"
                    )
                time.sleep(0.01)
            yield socket, ServerCpu(process.pid)
        finally:
            process.terminate()
            process.wait()
