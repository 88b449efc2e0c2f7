"""What statuses, searches and pruning cost, and how the cost grows with the number of threads.

    python -m benchmarks status --threads 10000 100000 1000000

Makes a database for each number of threads, of ten checkpoints each, and drops it again; `--keep`
leaves it on the server, where the next call finds it (a million take ten minutes to make, and 25
GB). The server is an embedded one with the memory that Postgres's manual advises, or
AIODURABLE_DSN. Times are medians in milliseconds through the pool, round trip included. Pruning
runs in a process of its own beside live runs, in turns with LangGraph's own `aprune`, thread by
thread, and with live runs alone. Live runs come at a steady pace, whether or not earlier ones are
done, and a run's time counts from when it was due.
"""

from __future__ import annotations

import argparse
import asyncio
import os
import random
import statistics
import time
import uuid
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from datetime import datetime, timedelta
from functools import partial
from typing import Any

import psycopg
from psycopg import sql
from psycopg.conninfo import make_conninfo

from aiodurable import Durable
from aiodurable.dsn import parse_dsn
from aiodurable.embedded import embedded_postgres
from aiodurable.models import PRUNE_DUTY_CYCLE
from aiodurable.postgres import schema
from aiodurable.threads import NEEDS_ATTENTION
from aiodurable.threads.filters import StatusName

from .chart import Bar, Group, bar_chart
from .crowd import ends, graph, make, thread_name
from .machine import describe, in_words
from .pruner import pruner
from .report import parser, rounded, save, table
from .rounds import Figures, in_turns, medians, ratio

Row = dict[str, Any]

SERVER = (
    "shared_buffers",
    "max_wal_size",
    "checkpoint_timeout",
    "autovacuum",
    "synchronous_commit",
    "full_page_writes",
)
"""Settings that the figures depend on."""
LIVE_PER_S = 40
"""Runs a second beside which is pruned; as much as one process does easily. A turn of 30 s has 1200,
and its p99 is that of the twelfth: in 10 s four runs decide, one wait for the disk more or less."""
PRUNED_PER_S = 2500
"""More than go in a second: half of a crowd is to last for all turns."""
SHORTEST_S = 2.0
"""A turn of pruning; a crowd that would be gone sooner is not pruned."""
PAGE_1000 = 99_900
"""So many come before the thousandth page of a hundred."""

MS = {
    "one": "one thread, for the first time",
    "one_again": "one thread, again",
    "failed": "first 100 failed",
    "failed_deep": "100 failed, the last page",
    "complete": "first 100 complete",
    "complete_deep": "100 complete, page 1000 or the last",
    "any_deep": "100 of any status, from anywhere",
    "attention": "100 that need somebody",
    "orphans": "100 orphaned runs",
    "hour": "100 heads of the last hour",
    "estimate": "counts, estimated",
    "counts": "counts, exact",
}
TARGETS = {"one": 1.0, "one_again": 1.0, "failed": 30.0, "hour": 50.0}
"""Milliseconds at a million threads."""


def settings() -> dict[str, str]:
    """Of the embedded server: a quarter of the memory, and a checkpoint now and then instead of
    every gigabyte.
    """
    quarter = describe("")["memory_gib"] * 1024 // 4
    return {"shared_buffers": f"{quarter}MB", "max_wal_size": "16GB", "checkpoint_timeout": "30min"}


@asynccontextmanager
async def crowd(dsn: str, threads: int, *, keep: bool) -> AsyncIterator[str]:
    """A database with so many threads."""
    name = f"crowd_{threads}"
    own = make_conninfo(dsn, dbname=name)
    async with await psycopg.AsyncConnection.connect(dsn, autocommit=True) as admin:
        there = await (
            await admin.execute("SELECT 1 FROM pg_database WHERE datname = %s", (name,))
        ).fetchone()
        if there is None:
            # Under another name until it is whole: a build that was interrupted is never measured.
            part, whole = sql.Identifier(f"{name}_part"), sql.Identifier(name)
            await admin.execute(sql.SQL("DROP DATABASE IF EXISTS {} WITH (FORCE)").format(part))
            await admin.execute(sql.SQL("CREATE DATABASE {}").format(part))
            await make(make_conninfo(dsn, dbname=f"{name}_part"), threads)
            await admin.execute(sql.SQL("ALTER DATABASE {} RENAME TO {}").format(part, whole))
        await schema.migrate(parse_dsn(own), timeout_s=3600)
        try:
            yield own
        finally:
            if not keep:
                await admin.execute(
                    sql.SQL("DROP DATABASE {} WITH (FORCE)").format(sql.Identifier(name))
                )


async def median(call: Callable[[], Awaitable[Any]], times: int) -> float:
    """The median of so many calls in milliseconds, after some to warm up."""
    taken: list[float] = []
    for n in range(times + 6):  # Postgres weighs a generic plan at the sixth execution
        began = time.perf_counter()
        await call()
        if n >= 6:
            taken.append((time.perf_counter() - began) * 1000)
    return statistics.median(taken)


async def newest(dsn: str, count: int) -> datetime:
    """When the newest thread of a crowd was written: a kept crowd grows older."""
    async with await psycopg.AsyncConnection.connect(dsn) as connection:
        found = await connection.execute(
            "SELECT max(checkpoint ->> 'ts') FROM checkpoints WHERE thread_id = %s",
            (thread_name(count - 1),),
        )
        row = await found.fetchone()
        assert row is not None
        return datetime.fromisoformat(row[0])


async def ask(dsn: str, count: int, *, exactly: bool) -> Row:
    """Milliseconds of each question; `exactly`: also of counting all threads, minutes among a
    million.
    """
    dice = random.Random(7)
    hour = await newest(dsn, count) - timedelta(hours=1)
    async with Durable(dsn) as durable:

        async def deep(status: StatusName) -> str | None:
            """Where the thousandth page of a hundred begins; the last one, where there are
            fewer.
            """
            found = [
                thread.thread_id
                async for thread in durable.threads.search(status=status, limit=PAGE_1000 + 100)
            ]
            return found[-101] if len(found) > 100 else None

        some = [thread_name(dice.randrange(count)) for _ in range(206)]

        def each_of_some() -> Callable[[], Awaitable[Any]]:
            left = iter(some)
            return lambda: durable.threads.status(next(left))

        def page(**filters: Any) -> Callable[[], Awaitable[Any]]:
            return lambda: durable.threads.search_page(**filters)

        counted_ms = None
        if exactly:
            began = time.perf_counter()
            await durable.threads.count()
            counted_ms = (time.perf_counter() - began) * 1000
        return {
            "threads": count,
            "one": await median(each_of_some(), 200),
            "one_again": await median(each_of_some(), 200),
            "failed": await median(page(status="failed"), 30),
            "failed_deep": await median(page(status="failed", after=await deep("failed")), 30),
            "complete": await median(page(status="complete"), 30),
            "complete_deep": await median(
                page(status="complete", after=await deep("complete")), 30
            ),
            "any_deep": await median(
                lambda: durable.threads.search_page(after=f"{dice.randrange(240):02x}"), 30
            ),
            "attention": await median(page(status=NEEDS_ATTENTION), 10),
            "orphans": await median(page(orphaned=True), 10),
            "hour": await median(page(newer_than=hour), 20),
            "estimate": await median(durable.threads.estimate_counts, 3),
            "counts": counted_ms,
        }


async def prune(dsn: str, count: int, *, rounds: int, seconds: float, duty_cycle: float) -> Row:
    """Threads a second and what live runs feel: beside our pruning, beside LangGraph's, beside
    none.
    """
    async with (
        Durable(dsn, graphs={"crowd": graph(ends)}) as durable,
        pruner(dsn, count, duty_cycle) as prune_for,
    ):

        def beside(
            begin: Callable[[], Awaitable[Awaitable[float]]],
        ) -> Callable[[], Awaitable[Figures]]:
            async def measured() -> Figures:
                task = asyncio.ensure_future(await begin())
                latencies = await live(durable, task)
                return {"threads_per_s": await task, **latencies}

            return measured

        async def nothing() -> Awaitable[float]:
            return asyncio.sleep(seconds, 0.0)

        found = await in_turns(
            {
                "alone": beside(nothing),
                "ours": beside(partial(prune_for, "ours", seconds)),
                "stock": beside(partial(prune_for, "stock", seconds)),
            },
            rounds,
            warm_up=1,
        )
    await forget_live(dsn)
    row: Row = {
        f"{name}_{key}": value
        for name, figures in found.items()
        for key, value in medians(figures).items()
    }
    row["prune_times_stock"] = ratio(found["ours"], found["stock"], "threads_per_s")
    for who in ("ours", "stock"):
        row[f"{who}_p99_grows"] = ratio(found[who], found["alone"], "p99_ms")
    return row


async def forget_live(dsn: str) -> None:
    """A kept crowd is to be the same the next time, but for what was pruned."""
    async with await psycopg.AsyncConnection.connect(dsn, autocommit=True) as connection:
        for name in (
            "checkpoints",
            "checkpoint_writes",
            "checkpoint_blobs",
            "aiodurable_runs",
            "aiodurable_fences",
        ):
            which = sql.Identifier(name)
            await connection.execute(
                sql.SQL("DELETE FROM {} WHERE thread_id >= 'live-'").format(which)
            )
            await connection.execute(sql.SQL("VACUUM {}").format(which))


async def live(durable: Durable, until: asyncio.Future[Any]) -> Figures:
    """Durable runs of new threads, at a steady pace until `until` is done: how long after they were
    due each was done.
    """
    took: list[float] = []

    async def one(due: float) -> None:
        async with durable.run(f"live-{uuid.uuid4()}", "crowd") as run:
            await run.ainvoke({"xs": []})
        took.append((time.perf_counter() - due) * 1000)

    began = due = time.perf_counter()
    async with asyncio.TaskGroup() as tasks:
        while not until.done():
            tasks.create_task(one(due))
            due += 1 / LIVE_PER_S
            await asyncio.sleep(due - time.perf_counter())
    took.sort()
    return {
        "runs_per_s": len(took) / (time.perf_counter() - began),
        "p50_ms": took[len(took) // 2],
        "p99_ms": took[len(took) * 99 // 100],
    }


def judge(rows: Sequence[Row]) -> list[Row]:
    """What was aimed at, for the largest crowd."""
    row = rows[-1]
    found: list[Row] = [
        {
            "what": MS[name],
            "wanted": f"≤ {limit:g} ms",
            "measured": f"{row[name]:.2g} ms",
            "met": row[name] <= limit,
        }
        for name, limit in TARGETS.items()
    ]
    for status, which in (("failed", "last page of failed"), ("complete", "page 1000 of complete")):
        deep = row[f"{status}_deep"] / row[status]
        found.append(
            {
                "what": which,
                "wanted": "≤ first page",
                "measured": f"{deep:.2f}×",
                "met": deep <= 1.1,
            }
        )
    if "prune_times_stock" in row:
        times, grows = row["prune_times_stock"], row["ours_p99_grows"]
        found += [
            {
                "what": "prune, threads/s",
                "wanted": "≥ 5× stock",
                "measured": f"{times:.1f}×",
                "met": times >= 5,
            },
            {
                "what": "p99 of live runs",
                "wanted": "≤ 1.25×",
                "measured": f"{grows:.2f}×",
                "met": grows <= 1.25,
            },
        ]
    return [{"threads": row["threads"], **each} for each in found]


def chart(rows: Sequence[Row], machine: dict[str, Any]) -> str:
    """How each question grows; and pruning in the largest crowd."""
    groups = [
        Group(
            f"{MS[name]}, ms",
            [Bar(f"{row['threads']:,} threads", row[name], ours=True) for row in rows],
        )
        for name in (
            "one",
            "one_again",
            "failed",
            "failed_deep",
            "complete",
            "complete_deep",
            "hour",
            "orphans",
            "estimate",
        )
    ]
    if "prune_times_stock" in (row := rows[-1]):
        groups += [
            Group(
                f"pruned, threads/s beside live runs, {row['threads']:,}",
                [
                    Bar(
                        "aiodurable",
                        row["ours_threads_per_s"],
                        f"{row['prune_times_stock']:.1f}×",
                        ours=True,
                    ),
                    Bar("stock aprune", row["stock_threads_per_s"], "1×"),
                ],
            ),
            Group(
                f"p99 of {LIVE_PER_S} live runs a second meanwhile, ms",
                [
                    Bar("nobody prunes", row["alone_p99_ms"]),
                    Bar("aiodurable prunes", row["ours_p99_ms"], ours=True),
                    Bar("stock aprune", row["stock_p99_ms"]),
                ],
            ),
        ]
    return bar_chart(
        "Statuses, searches and pruning", [in_words(machine, "langgraph")], groups, columns=2
    )


async def run(given: argparse.Namespace) -> None:
    counts = [1000] if given.quick else given.threads
    rows: list[Row] = []
    async with AsyncExitStack() as stack:
        dsn = os.environ.get("AIODURABLE_DSN")
        if dsn is None:
            dsn = await stack.enter_async_context(
                embedded_postgres(durable=True, settings=settings())
            )
        dsn = parse_dsn(dsn).conninfo
        async with await psycopg.AsyncConnection.connect(dsn) as connection:
            machine = describe(connection.info.parameter_status("server_version") or "")
            shown = await connection.execute(
                "SELECT name, current_setting(name) FROM unnest(%s::text[]) AS s (name)",
                (list(SERVER),),
            )
            server = dict(await shown.fetchall())
        for count in counts:
            async with crowd(dsn, count, keep=given.keep) as own:
                row = await ask(own, count, exactly=given.count_all or count <= 100_000)
                seconds = (
                    2.0
                    if given.quick
                    else min(given.seconds, count / PRUNED_PER_S / 2 / (given.rounds + 1))
                )
                if seconds >= SHORTEST_S:
                    row.update(
                        await prune(
                            own,
                            count,
                            rounds=given.rounds,
                            seconds=seconds,
                            duty_cycle=given.duty_cycle,
                        )
                    )
            rows.append(row)
            print(
                table(
                    [
                        {"question, ms": MS[name], **{str(r["threads"]): r[name] for r in rows}}
                        for name in MS
                    ],
                    {"question, ms": "milliseconds"}
                    | {str(r["threads"]): f"{r['threads']:,} threads" for r in rows},
                )
            )
    print()
    print(
        table(
            judge(rows),
            {"what": "aimed at", "wanted": "wanted", "measured": "measured", "met": "met"},
        )
    )
    if given.json:
        save(given.json, machine, rows, server=server, targets=judge(rounded(rows)))
    if given.svg:
        given.svg.write_text(chart(rows, machine), "utf-8")


def main(argv: Sequence[str] | None = None) -> None:
    """Measure, and print tables."""
    options = parser(__doc__, "status")
    options.add_argument("--threads", type=int, nargs="+", default=[10_000, 100_000])
    options.add_argument("--keep", action="store_true", help="leave the databases on the server")
    options.add_argument(
        "--count-all", action="store_true", help="count exactly also where it takes minutes"
    )
    options.add_argument("--rounds", type=int, default=3, help="of pruning beside live runs")
    options.add_argument(
        "--seconds", type=float, default=30.0, help="of each of its turns, at most"
    )
    options.add_argument(
        "--duty-cycle", type=float, default=PRUNE_DUTY_CYCLE, help="the part of the time it prunes"
    )
    asyncio.run(run(options.parse_args(argv)))


if __name__ == "__main__":
    main()
