"""What statuses, searches and pruning cost, and how the cost grows with the number of threads.

    python -m benchmarks.status --dsn postgresql://… --threads 10000 100000

Makes a database of its own for each number of threads and drops it again. Times in milliseconds: the median of several
calls through the pool, round trip included.
"""

from __future__ import annotations

import argparse
import asyncio
import itertools
import json
import os
import platform
import random
import statistics
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager
from datetime import timedelta
from typing import Any

import psycopg
from langgraph.checkpoint.postgres.aio import AsyncPostgresSaver
from langgraph.checkpoint.serde.jsonplus import JsonPlusSerializer
from psycopg import sql
from psycopg.conninfo import make_conninfo

from aiodurable.dsn import parse_dsn
from aiodurable.postgres import schema
from aiodurable.postgres.connections import Database
from aiodurable.threads import NEEDS_ATTENTION, Threads

from .crowd import make

Measure = dict[str, float]


@asynccontextmanager
async def crowd(dsn: str, threads: int) -> AsyncIterator[str]:
    """A database of its own with so many threads."""
    name = f"aiodurable_bench_{os.getpid()}_{threads}"
    async with await psycopg.AsyncConnection.connect(dsn, autocommit=True) as admin:
        await admin.execute(sql.SQL("CREATE DATABASE {}").format(sql.Identifier(name)))
        try:
            own = make_conninfo(dsn, dbname=name)
            await schema.migrate(parse_dsn(own))
            await make(own, threads)
            yield own
        finally:
            await admin.execute(sql.SQL("DROP DATABASE {} WITH (FORCE)").format(sql.Identifier(name)))


async def median(call: Callable[[], Awaitable[Any]], times: int) -> float:
    """The median of so many calls in milliseconds, after some to warm up."""
    taken: list[float] = []
    for n in range(times + 6):  # Postgres weighs a generic plan at the sixth execution
        began = time.perf_counter()
        await call()
        if n >= 6:
            taken.append((time.perf_counter() - began) * 1000)
    return statistics.median(taken)


async def measure(dsn: str, count: int) -> Measure:
    database = Database(parse_dsn(dsn))
    await database.open()
    threads = Threads(database, namespace="aiodurable", serde=JsonPlusSerializer())
    dice = random.Random(7)

    async def page(**filters: Any) -> int:
        return len([thread async for thread in threads.find(**filters, limit=100)])

    def deep() -> str:
        return f"thread-{dice.randrange(count - count // 10):08d}"

    try:
        found: Measure = {
            "one thread": await median(lambda: threads.status(f"thread-{dice.randrange(count):08d}"), 200),
            "first 100": await median(page, 20),
            "any later 100": await median(lambda: page(after=deep()), 20),
            "first 100 failed": await median(lambda: page(status="failed"), 20),
            "any later 100 failed": await median(lambda: page(status="failed", after=deep()), 20),
            "first 100 that need somebody": await median(lambda: page(status=NEEDS_ATTENTION), 5),
            "first 100 of the last hour": await median(lambda: page(newer_than=timedelta(hours=1)), 10),
            "count failed": await median(lambda: threads.counts(status="failed"), 3),
        }
        began = time.perf_counter()
        await threads.counts()
        found["count all"] = (time.perf_counter() - began) * 1000
        found.update(await prune(dsn, threads, count))
        return found
    finally:
        await database.aclose()


async def prune(dsn: str, threads: Threads, count: int) -> Measure:
    """Threads a second, ours and LangGraph's own one by one, each on its own part of the crowd."""
    some = [f"thread-{n:08d}" for n in range(count) if n % 100 not in (7, 33, 50, 90)][-200:]
    async with AsyncPostgresSaver.from_conn_string(dsn) as saver:
        began = time.perf_counter()
        for thread_id in some:
            await saver.aprune([thread_id], strategy="keep_latest")
        stock = len(some) / (time.perf_counter() - began)
    began = time.perf_counter()
    seen: list[int] = []
    await threads.prune(older_than=timedelta(days=15), share=1, progress=lambda told: seen.append(told.threads))
    ours = seen[-1] / (time.perf_counter() - began)
    return {"prune, threads/s": ours, "stock aprune, threads/s": stock, "prune, times stock": ours / stock}


def table(figures: dict[int, Measure]) -> str:
    names = list(next(iter(figures.values())))
    lines = [["", *(f"{count:,} threads" for count in figures)]]
    lines += [[name, *(f"{figures[count][name]:,.1f}" for count in figures)] for name in names]
    widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
    ruled = itertools.chain(lines[:1], [["-" * width for width in widths]], lines[1:])
    return "\n".join(
        "| " + " | ".join(cell.ljust(w) for cell, w in zip(line, widths, strict=True)) + " |" for line in ruled
    )


async def run(argv: Sequence[str] | None) -> None:
    parser = argparse.ArgumentParser(
        "aiodurable bench status", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--dsn", default=None, help="a server where databases may be created")
    parser.add_argument("--threads", type=int, nargs="+", default=[10_000, 100_000])
    parser.add_argument("--json", action="store_true", help="print figures and machine as JSON")
    given = parser.parse_args(argv)
    dsn = parse_dsn(given.dsn).conninfo
    figures: dict[int, Measure] = {}
    for count in given.threads:
        async with crowd(dsn, count) as own:
            figures[count] = await measure(own, count)
    if given.json:
        machine = {"platform": platform.platform(), "cpus": os.cpu_count(), "python": platform.python_version()}
        print(json.dumps({"machine": machine, "figures": figures}, indent=2))
    else:
        print(table(figures))


def main(argv: Sequence[str] | None = None) -> None:
    asyncio.run(run(argv))


if __name__ == "__main__":
    main()
