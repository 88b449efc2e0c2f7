"""Leases beyond pairs: ten thousand at once, five thousand that idle, and one that goes from
process to process.
"""

from __future__ import annotations

import asyncio
import multiprocessing
import statistics
import time
from collections.abc import Sequence
from contextlib import ExitStack
from multiprocessing.process import BaseProcess
from random import uniform
from typing import Any

import asyncpg

from aiodurable.locks import PostgresLockManager

from .meter import on_cpu

MANY = 10_000
IDLE = 5_000
HANDOFFS, KILLS = 120, 24


async def many(dsn: str, admin: asyncpg.Connection) -> dict[str, float]:
    """Seconds to take and to release, and on how many connections the server says they are."""
    async with PostgresLockManager(dsn) as locks:
        began = time.perf_counter()
        leases = await asyncio.gather(*(locks.acquire(f"lease {number}") for number in range(MANY)))
        taken = time.perf_counter()
        connections = len(await _holders(admin, MANY))
        asked = time.perf_counter()
        await asyncio.gather(*(lease.release() for lease in leases))
        return {
            "leases": MANY,
            "connections": connections,
            "take_s": taken - began,
            "release_s": time.perf_counter() - asked,
        }


async def idle(dsn: str, admin: asyncpg.Connection, seconds: float) -> dict[str, float]:
    """What held leases cost while nothing happens, in percent of a core: this process, and the
    backends that hold them.
    """
    async with PostgresLockManager(dsn) as locks:
        leases = await asyncio.gather(*(locks.acquire(f"lease {number}") for number in range(IDLE)))
        backends = await _holders(admin, IDLE)
        await asyncio.sleep(1)  # what follows a burst is not idleness
        client_s, server_s, began = (
            time.process_time(),
            sum(map(_on_cpu, backends)),
            time.perf_counter(),
        )
        await asyncio.sleep(seconds)
        passed = time.perf_counter() - began
        client_s, server_s = time.process_time() - client_s, sum(map(_on_cpu, backends)) - server_s
        await asyncio.gather(*(lease.release() for lease in leases))
    return {
        "leases": IDLE,
        "seconds": passed,
        "client_percent": 100 * client_s / passed,
        "server_percent": 100 * server_s / passed,
    }


async def _holders(admin: asyncpg.Connection, count: int) -> Sequence[int]:
    """The backends that hold leases; no fewer than `count` together."""
    query = (
        "SELECT pid, count(*) FROM pg_locks WHERE locktype = 'advisory' AND mode = 'ExclusiveLock'"
        " GROUP BY pid"
    )
    found = [
        (pid, number) for pid, number in await admin.fetch(query) if number > 1
    ]  # a session's own is one
    if (total := sum(number for _, number in found)) < count:
        raise SystemExit(f"wanted {count} locks in pg_locks, found {total}")
    return [pid for pid, _ in found]


def _on_cpu(pid: int) -> float:
    """Seconds; NaN where the system does not tell."""
    try:
        return on_cpu(pid)
    except OSError:
        return float("nan")


# ---- from process to process --------------------------------------------------------------------


def _other(dsn: str, pipe: Any) -> None:
    """Another process: for each name on stdin it takes that lock, prints when it had it, and keeps
    it until the next line.
    """

    async def serve() -> None:
        async with PostgresLockManager(dsn) as locks:
            pipe.send("ready")
            while name := await asyncio.to_thread(pipe.recv):
                async with locks.hold(name, timeout=60):
                    pipe.send(time.monotonic())  # one clock for all processes of a machine
                    await asyncio.to_thread(pipe.recv)

    asyncio.run(serve())


def _start(dsn: str, stack: ExitStack) -> tuple[BaseProcess, Any]:
    """The process, and this end of the pipe to it."""
    spawn = multiprocessing.get_context("spawn")
    here, there = spawn.Pipe()
    process = spawn.Process(target=_other, args=(dsn, there), daemon=True)
    process.start()
    there.close()
    stack.callback(process.join)
    stack.callback(process.kill)
    return process, here


async def handoff(dsn: str) -> dict[str, float]:
    """From just before a release here until the waiter in another process has the lease."""
    took: list[float] = []
    with ExitStack() as stack:
        _, pipe = _start(dsn, stack)
        async with PostgresLockManager(dsn) as locks:
            await asyncio.to_thread(pipe.recv)
            for number in range(HANDOFFS):
                lease = await locks.acquire(f"handoff {number}")
                pipe.send(f"handoff {number}")
                await asyncio.sleep(
                    uniform(0.02, 0.06)
                )  # it waits by now; and the waiter's tick is at no fixed point
                released = time.monotonic()
                await lease.release()
                took.append(await asyncio.to_thread(pipe.recv) - released)
                pipe.send("release it")
    return _spread(took)


async def kill(dsn: str) -> dict[str, float]:
    """From the SIGKILL of the holder's process until a waiter here has the lease."""
    took: list[float] = []
    with ExitStack() as stack:
        others = [_start(dsn, stack) for _ in range(KILLS)]
        async with PostgresLockManager(dsn) as locks:
            for number, (_, pipe) in enumerate(others):
                await asyncio.to_thread(pipe.recv)
                pipe.send(f"kill {number}")
                await asyncio.to_thread(pipe.recv)
            for number, (process, _) in enumerate(others):
                waiter = asyncio.create_task(locks.acquire(f"kill {number}", timeout=60))
                await asyncio.sleep(uniform(0.1, 0.3))
                if waiter.done():
                    raise SystemExit("the lock of a living holder was granted")
                killed = time.monotonic()
                process.kill()
                lease = await waiter
                took.append(time.monotonic() - killed)
                await lease.release()
    return _spread(took)


def _spread(took: Sequence[float]) -> dict[str, Any]:
    ordered = sorted(took)
    return {
        "times": len(ordered),
        "p50_ms": 1000 * statistics.median(ordered),
        "p99_ms": 1000 * ordered[len(ordered) * 99 // 100],
        "max_ms": 1000 * ordered[-1],
    }
