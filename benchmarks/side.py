"""One side of `python -m benchmarks compare`: runs a scenario with the library that it finds.

Only what both commits have can be used here: the public names.
"""

from __future__ import annotations

import asyncio
import cProfile
import gc
import uuid
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from contextlib import AbstractAsyncContextManager, AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import asyncpg

import aiodurable
from aiodurable import Durable
from aiodurable.dsn import parse_dsn
from aiodurable.locks import PostgresLockManager
from aiodurable.queue import NewRun

from .child import serve
from .contenders import CONTENDERS, OURS, four_nodes
from .meter import Meter, ServerCpu
from .runs import crowd
from .wire import wire

Work = Callable[[int], Awaitable[object]]
"""Does so many units."""


@dataclass(frozen=True, slots=True)
class Scenario:
    """Attributes:
    part: for `--only`.
    unit: what is counted.
    units: of a round, so many that it takes half a second on two cores.
    opened: takes the DSN and a connection that is not measured.
    """

    part: str
    unit: str
    units: int
    opened: Callable[[str, asyncpg.Connection], AbstractAsyncContextManager[Work]]


@asynccontextmanager
async def _locks(dsn: str, admin: asyncpg.Connection, *, tasks: int) -> AsyncIterator[Work]:
    del admin
    async with PostgresLockManager(dsn) as locks:

        async def pair(name: str) -> None:
            async with locks.hold(name):
                pass

        yield lambda units: crowd(pair, units, min(units, tasks))


@asynccontextmanager
async def _runs(
    dsn: str, admin: asyncpg.Connection, *, at_once: int, state_kb: int = 0
) -> AsyncIterator[Work]:
    del admin
    async with CONTENDERS[OURS](dsn, state_kb) as run:
        yield lambda units: crowd(run, units, at_once)


_SETTLED = "SELECT count(*) FROM aiodurable_runs WHERE run_id = ANY($1) AND finished_at IS NOT NULL"


@asynccontextmanager
async def _worker(dsn: str, admin: asyncpg.Connection) -> AsyncIterator[Work]:
    """Accepted in a batch, executed by a worker in the same process, 50 at once."""
    async with (
        Durable(dsn, graphs={"four": four_nodes(0)}) as durable,
        durable.work(queues=["bench"], concurrency=50),
    ):

        async def work(units: int) -> None:
            records = await durable.runs.create_many(
                NewRun(thread_id=uuid.uuid4().hex, graph="four", input={"count": 0}, queue="bench")
                for _ in range(units)
            )
            run_ids = [record.run_id for record in records]
            async with asyncio.timeout(120):
                while (await admin.fetchval(_SETTLED, run_ids) or 0) < units:  # noqa: ASYNC110 - a worker settles them
                    await asyncio.sleep(0.02)

        yield work


@asynccontextmanager
async def _statuses(dsn: str, admin: asyncpg.Connection, *, page: int = 0) -> AsyncIterator[Work]:
    """Of complete threads: one after the other, or a page of so many."""
    del admin
    async with Durable(dsn, graphs={"four": four_nodes(0)}) as durable:
        known: list[str] = []

        async def complete(thread_id: str) -> None:
            async with durable.run(thread_id, "four") as run:
                await run.ainvoke({"count": 0})
            known.append(thread_id)

        async def look(units: int) -> None:
            for number in range(units):
                if page:
                    await durable.threads.search_page(status="complete", limit=page)
                else:
                    await durable.threads.status(known[number % len(known)])

        await crowd(complete, 100, 50)
        yield look


SCENARIOS: Mapping[str, Scenario] = {
    "locks, one task": Scenario("locks", "pair", 1000, partial(_locks, tasks=1)),
    "locks, 1000 tasks": Scenario("locks", "pair", 20_000, partial(_locks, tasks=1000)),
    "runs, one at a time": Scenario("runs", "run", 50, partial(_runs, at_once=1)),
    "runs, 50 at once": Scenario("runs", "run", 200, partial(_runs, at_once=50)),
    "runs, 50 at once, 100 kB": Scenario(
        "runs", "run", 50, partial(_runs, at_once=50, state_kb=100)
    ),
    "worker, 50 at once": Scenario("worker", "run", 150, _worker),
    "statuses, one at a time": Scenario("statuses", "status", 300, _statuses),
    "statuses, 100 complete": Scenario("statuses", "page", 30, partial(_statuses, page=100)),
}


async def measure(scenario: str, dsn: str, units: int, *, counts: bool) -> dict[str, float]:
    """Of a unit: what it cost, or with `counts` its round trips and Python calls, which are slower
    to take and the same on a busy machine.
    """
    async with AsyncExitStack() as stack:
        admin = await asyncpg.connect(**parse_dsn(dsn).asyncpg)
        stack.push_async_callback(admin.close)
        counted = await stack.enter_async_context(wire(dsn)) if counts else None
        opened = SCENARIOS[scenario].opened(counted.dsn if counted else dsn, admin)
        work = await stack.enter_async_context(opened)
        await work(max(1, units // 5))
        gc.collect()
        if counted:
            calls = cProfile.Profile(builtins=False)
            before = await counted.round_trips()
            calls.enable()
            await work(units)
            calls.disable()
            trips = await counted.round_trips() - before
            called = sum(entry.callcount for entry in calls.getstats())
            return {"round_trips": trips / units, "python_calls": called / units}
        wal = await _wal(admin)
        with Meter(await ServerCpu.of(admin)) as meter:
            await work(units)
        return {
            "wall_us": meter.seconds * 1e6 / units,
            "client_cpu_us": meter.client_s * 1e6 / units,
            "server_cpu_us": meter.server_s * 1e6 / units,
            "wal_bytes": (await _wal(admin) - wal) / units,
        }


async def _wal(admin: asyncpg.Connection) -> float:
    """Bytes of WAL so far."""
    return float(await admin.fetchval("SELECT pg_current_wal_insert_lsn() - '0/0'") or 0)


async def answer(request: Mapping[str, Any]) -> dict[str, Any]:
    if "scenario" not in request:
        return {"library": str(Path(aiodurable.__file__).parent)}
    return await measure(**request)


if __name__ == "__main__":
    asyncio.run(serve(answer))
