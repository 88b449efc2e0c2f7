"""What a lock costs: pairs of lock and unlock against its peers, ten thousand leases, handoff
between processes, idleness.

A pair is one lock and its unlock, of a name nobody else wants. The contenders take turns, round by
round, so that a ratio, the median of the ratios of each round, holds although the machine's speed
drifts. Postgres is an embedded one that syncs each commit; Redis, which keeps nothing, stands on a
unix socket, too. CPU is that of whole processes on both sides, pgbench's included. psycopg2 and
pgbench take at most 10 threads or clients whatever the number of tasks.
"""

from __future__ import annotations

import argparse
import asyncio
from collections.abc import Sequence
from contextlib import ExitStack
from functools import partial
from typing import Any

import asyncpg

from aiodurable.dsn import parse_dsn
from aiodurable.embedded import embedded_postgres

from . import leases
from .ceiling import LAYERS, room
from .chart import Bar, Group, bar_chart
from .lock_targets import TIMES, Measured, judge
from .lockers import (
    CONTENDERS,
    ONE_ASYNCPG,
    OURS,
    OURS_UVLOOP,
    REDIS,
    ROW_TABLE,
    Measure,
    Place,
    missing,
    redis_server,
)
from .machine import describe, in_words
from .meter import ServerCpu
from .report import Row, parser, rounded, save, table
from .rounds import Figures, in_turns, medians, ratio

SERVER = {"max_connections": "100", "max_locks_per_transaction": "512"}
HEADS = {
    "tasks": "tasks",
    "contender": "contender",
    "pairs_s": "pairs/s",
    "ratio": "ours ×",
    "p50_ms": "p50 ms",
    "p99_ms": "p99 ms",
    "client_us": "client CPU µs",
    "server_us": "server CPU µs",
    "server_ratio": "ours, server CPU ×",
}

ROOM = {
    "target": "pairs/s aimed at",
    "pairs_s": "that is",
    "us": "µs a pair",
    "left_asyncio": "left for ours",
    "ours_asyncio": "ours takes",
    "left_uvloop": "uvloop: left",
    "ours_uvloop": "ours takes",
}


async def compete(
    place: Place, contenders: Sequence[str], options: argparse.Namespace
) -> list[dict[str, Any]]:
    """A row for each number of tasks and contender."""
    rows: list[dict[str, Any]] = []
    for tasks in options.tasks:
        here = [
            name for name in contenders if tasks == 1 or name != ONE_ASYNCPG
        ]  # which is one task's
        turns = {name: partial(_apart, CONTENDERS[name], place, tasks) for name in here}
        seen = await in_turns(turns, options.rounds, warm_up=0)  # each warms up by itself
        rows += [{"tasks": tasks, "contender": name, **_middle(seen, name)} for name in here]
    return rows


async def ceiling(options: argparse.Namespace) -> None:
    """A row for each layer of `ceiling.py` and for each peer with a target, at the largest number
    of tasks; and what the targets leave."""
    tasks = max(options.tasks)
    peers = {name: CONTENDERS[name] for name in TIMES if not missing(name)}
    with ExitStack() as stack:
        socket, redis = (
            stack.enter_context(redis_server()) if REDIS in peers else (None, ServerCpu(None))
        )
        async with embedded_postgres(durable=True, settings=SERVER) as dsn:
            admin = await asyncpg.connect(**parse_dsn(dsn).asyncpg)
            place = Place(dsn, await ServerCpu.of(admin), socket, redis, options.seconds)
            await admin.close()
            turns = {
                name: partial(_apart, measure, place, tasks)
                for name, measure in {**LAYERS, **peers}.items()
            }
            seen = await in_turns(turns, options.rounds, warm_up=0)
    middle = {name: medians(figures) for name, figures in seen.items()}
    rows = [{"tasks": tasks, "contender": name, **figures} for name, figures in middle.items()]
    print(
        table(rows, {name: head for name, head in HEADS.items() if "ratio" not in name}), end="\n\n"
    )
    print(table(room(middle), ROOM))


async def _apart(measure: Measure, place: Place, tasks: int) -> Figures:
    """In a thread of its own, where it starts the event loop, or the program, that it wants."""
    return await asyncio.to_thread(measure, place, tasks)


def _middle(seen: dict[str, list[Figures]], name: str) -> dict[str, float]:
    compared = {"ratio": "pairs_s", "server_ratio": "server_us", "p50_ratio": "p50_ms"}
    return {
        **medians(seen[name]),
        **{key: ratio(seen[OURS], seen[name], figure) for key, figure in compared.items()},
    }


async def beyond(dsn: str, admin: asyncpg.Connection, idle_s: float) -> dict[str, Any]:
    """What pairs do not show; printed as soon as it is known."""

    async def measured(name: str, part: Any) -> dict[str, Any]:
        found = await part
        print(
            f"{name}: {', '.join(f'{key} {value:.4g}' for key, value in found.items())}", flush=True
        )
        return found

    return {
        "many": await measured("many leases", leases.many(dsn, admin)),
        "handoff": await measured("handoff", leases.handoff(dsn)),
        "kill": await measured("kill -9", leases.kill(dsn)),
        "idle": await measured("idle leases", leases.idle(dsn, admin, idle_s)),
    }


async def run(options: argparse.Namespace) -> None:
    absent = {name: lacks for name in CONTENDERS if (lacks := missing(name))}
    for name, lacks in absent.items():
        print(
            f"not measured: {name}, for {lacks} is not installed (packages: pip install -e"
            " '.[bench]')"
        )
    with ExitStack() as stack:
        socket, redis = (
            (None, ServerCpu(None)) if REDIS in absent else stack.enter_context(redis_server())
        )
        async with embedded_postgres(durable=True, settings=SERVER) as dsn:
            admin = await asyncpg.connect(**parse_dsn(dsn).asyncpg)
            await admin.execute(ROW_TABLE)
            machine = describe(
                await admin.fetchval("SHOW server_version"), ("uvloop", "redis", "psycopg2-binary")
            )
            place = Place(dsn, await ServerCpu.of(admin), socket, redis, options.seconds)
            rows = await compete(
                place, [name for name in CONTENDERS if name not in absent], options
            )
            print(table(rows, HEADS), end="\n\n", flush=True)
            more = await beyond(dsn, admin, options.idle)
            await admin.close()
    targets = judge(Measured(rounded(rows), rounded(more)))  # of what is saved
    print("", table(targets, {name: name for name in targets[0]}), sep="\n")
    if options.json:
        how = {"rounds": options.rounds, "seconds": options.seconds}
        save(options.json, machine, rows, **how, **more, targets=targets, not_measured=absent)
    if options.svg:
        options.svg.write_text(chart(rows, machine), "utf-8")


def chart(rows: Sequence[Row], machine: dict[str, Any]) -> str:
    groups: list[Group] = []
    for tasks in sorted({row["tasks"] for row in rows}, reverse=True):
        bars = [
            Bar(
                row["contender"],
                row["pairs_s"],
                "" if row["contender"] == OURS else f"{1 / row['ratio']:.2f}×",
                row["contender"] in (OURS, OURS_UVLOOP),
            )
            for row in sorted(rows, key=lambda row: -row["pairs_s"])
            if row["tasks"] == tasks
        ]
        groups.append(Group(f"{tasks:,} tasks" if tasks > 1 else "one task", bars))
    says = (
        "Lock and unlock of a free name. × = times aiodurable on asyncio, median of the rounds'"
        " ratios."
    )
    return bar_chart(
        "Locks taken and given back, per second",
        [says, in_words(machine, "asyncpg", "redis")],
        groups,
    )


def main(argv: Sequence[str] | None = None) -> None:
    options = parser(__doc__, "locks")
    options.add_argument("--rounds", type=int, default=5)
    options.add_argument("--seconds", type=float, default=3.0, help="of each contender in a round")
    options.add_argument("--tasks", type=int, nargs="+", default=[1, 1000])
    options.add_argument(
        "--idle", type=float, default=20.0, help="seconds for which idle leases are watched"
    )
    options.add_argument(
        "--ceiling", action="store_true", help="only what a pair passes on its way, layer by layer"
    )
    given = options.parse_args(argv)
    if given.quick:
        given.rounds, given.seconds, given.idle = 1, 1.0, 5.0
    asyncio.run(ceiling(given) if given.ceiling else run(given))


if __name__ == "__main__":
    main()
