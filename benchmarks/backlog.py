"""What a long queue costs: creating and claiming beside a million queued runs and a million that
are over, and workers that have nothing to do.

The rows are inserted by SQL. A claim is one look of a worker for ten runs, by the worker's own
statement; its runs are put back outside of what is measured. Idle workers are processes of their
own. Postgres syncs each commit.
"""

from __future__ import annotations

import argparse
import asyncio
import time
from collections.abc import Sequence
from contextlib import AsyncExitStack
from typing import Any

import asyncpg

from aiodurable import Durable
from aiodurable.dsn import parse_dsn
from aiodurable.embedded import embedded_postgres
from aiodurable.models import ClaimState
from aiodurable.queue.new_run import NewRun
from aiodurable.worker.claims import Claims
from tests.support.internals import services_of

from .contenders import four_nodes
from .machine import describe
from .meter import Meter, ServerCpu
from .queues import OURS
from .report import parser, save, table
from .worker import cpu_s, worker_processes

_FILL = """
INSERT INTO aiodurable_runs (
    run_id, thread_id, lock_key, graph, status, claim_state, position, queue, priority,
    fairness_key, created_at, finished_at)
SELECT :prefix || n, :prefix || n, n, 'four', :status, :claim_state,
       nextval('aiodurable_run_positions'), 'default', n % 3, 'tenant ' || n % :keys, now(),
       :finished_at
FROM generate_series(1, :rows) n
"""
_KNOWN_S = 15.0
"""Seconds until each worker knows how many others there are, and shares its looks with them."""


async def fill(admin: asyncpg.Connection, *, settled: bool, rows: int, keys: int) -> None:
    """Insert so many runs of so many fairness keys, with three priorities. By their ids, as those
    that the library makes, what waits is newer than what is settled.
    """
    values = {
        "prefix": "'settled-'" if settled else "'waiting-'",
        "status": "'complete'" if settled else "'queued'",
        "claim_state": "NULL" if settled else "'ready'",
        "finished_at": "now()" if settled else "NULL",
        "rows": str(rows),
        "keys": str(keys),
    }
    statement = _FILL
    for name, value in values.items():
        statement = statement.replace(f":{name}", value)
    await admin.execute(statement, timeout=1800)


async def claims(durable: Durable, looks: int) -> dict[str, float]:
    """Milliseconds of a claim of ten runs."""
    mine = Claims(services_of(durable), ["default"])
    took: list[float] = []
    try:
        for number in range(-20, looks):
            began = time.perf_counter()
            found = await mine.claim(10)
            if number >= 0:
                took.append((time.perf_counter() - began) * 1000)
            await mine.put_back(found, ClaimState.READY)
    finally:
        mine.close()
    took.sort()
    return {"claim_p50_ms": took[looks // 2], "claim_p99_ms": took[int(looks * 0.99)]}


async def creates(durable: Durable, runs: int) -> float:
    """Runs accepted a second by one `create_many`."""
    began = time.perf_counter()
    await durable.runs.create_many(
        NewRun(thread_id=f"new-{began}-{number}", graph="four", input={"count": 0}, queue="other")
        for number in range(runs)
    )
    return runs / (time.perf_counter() - began)


async def idle(dsn: str, server: ServerCpu, workers: int, seconds: float) -> dict[str, float]:
    """Per cent of a core that workers of an empty queue take together, on either side."""
    async with worker_processes(OURS, dsn, workers, 10) as processes:
        await asyncio.sleep(_KNOWN_S)
        before = sum(map(cpu_s, processes))
        with Meter(server) as meter:
            await asyncio.sleep(seconds)
        client_s = sum(map(cpu_s, processes)) - before
    return {
        "idle_client_percent": 100 * client_s / meter.seconds,
        "idle_server_percent": 100 * meter.server_s / meter.seconds,
    }


async def run(options: argparse.Namespace) -> None:
    async with AsyncExitStack() as stack:
        dsn = await stack.enter_async_context(embedded_postgres(durable=True))
        durable = await stack.enter_async_context(Durable(dsn, graphs={"four": four_nodes(0)}))
        admin = await asyncpg.connect(**parse_dsn(dsn).asyncpg)
        stack.push_async_callback(admin.close)
        server = await ServerCpu.of(admin)
        machine = describe(await admin.fetchval("SHOW server_version"))
        rows: list[dict[str, Any]] = []
        for number in options.rows:
            if number:
                await fill(admin, settled=True, rows=number, keys=options.keys)
                await fill(admin, settled=False, rows=number, keys=options.keys)
                await admin.execute("VACUUM ANALYZE aiodurable_runs", timeout=1800)
            row: dict[str, Any] = {"queued": number, "settled": number, "keys": options.keys}
            row["created_per_s"] = await creates(durable, options.creates)
            if number:
                row |= await claims(durable, options.looks)
            row |= await idle(dsn, server, options.idle_workers, options.idle_s)
            rows.append(row)
            print(table([row], {name: name for name in row}), end="\n\n", flush=True)
            if options.json:
                save(options.json, machine, rows, idle_workers=options.idle_workers)
            await admin.execute("TRUNCATE aiodurable_runs")


def main(argv: Sequence[str] | None = None) -> None:
    options = parser(__doc__, "backlog")
    options.add_argument("--rows", type=int, nargs="+", default=[0, 1_000_000])
    options.add_argument("--keys", type=int, default=1000, help="fairness keys")
    options.add_argument("--looks", type=int, default=1000, help="claims that are measured")
    options.add_argument("--creates", type=int, default=20_000)
    options.add_argument("--idle-workers", type=int, default=10)
    options.add_argument("--idle-s", type=float, default=30)
    given = options.parse_args(argv)
    if given.quick:
        given.rows, given.creates, given.idle_s = [0, 10_000], 2000, 5
    asyncio.run(run(given))


if __name__ == "__main__":
    main()
