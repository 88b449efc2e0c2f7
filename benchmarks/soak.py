"""Whether anything grows, or is left behind: durable runs for minutes, of which some are cancelled
and some lose their session.

Sampled meanwhile: memory, descriptors, connections, tasks, the sizes of tables and indexes, and how
full the server's queue of notifications is. Afterwards, when all is closed: connections, locks,
tasks and descriptors must be as before, no thread may stand as if it ran, and a sample of the
cancelled ones must go on to their end. Exit code 1 where one of these does not hold.
"""

from __future__ import annotations

import argparse
import asyncio
import ctypes
import gc
import os
import random
import sys
import threading
import time
import uuid
from collections import Counter
from collections.abc import Sequence
from contextlib import AsyncExitStack, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypedDict

import asyncpg
from langgraph.graph import START, StateGraph

from aiodurable import Durable, resume_workflow
from aiodurable.dsn import parse_dsn
from aiodurable.embedded import embedded_postgres

from .machine import describe
from .meter import resident_memory
from .report import parser, save, table

HEADS = {
    "seconds": "s",
    "runs": "runs",
    "memory_mb": "MB",
    "trimmed_mb": "MB trimmed",
    "blocks": "objects",
    "descriptors": "fds",
    "connections": "conns",
    "tasks": "tasks",
    "threads": "threads",
    "tables_mb": "tables MB",
    "indexes_mb": "indexes MB",
    "queue_percent": "queue %",
}
EXPECTED = ("PostgresUnavailableError", "LeaseLostError", "HistoryLostError")
"""What a run may end with whose session was killed."""
RESUMED = 500

SESSIONS = """
SELECT pid FROM pg_catalog.pg_stat_activity
WHERE datname = pg_catalog.current_database() AND application_name LIKE 'aiodurable:%:' || $1::text
"""
"""Those of this process: `aiodurable:lock@host:pid`."""
QUEUE = "SELECT pg_catalog.pg_notification_queue_usage()"
KILL = "SELECT pg_catalog.pg_terminate_backend($1)"
SIZES = """
SELECT c.relname AS name, pg_catalog.pg_table_size(c.oid) AS bytes, pg_catalog.pg_indexes_size(c.oid) AS index_bytes
FROM pg_catalog.pg_class AS c
WHERE c.relkind = 'r' AND (c.relname LIKE 'aiodurable%' OR c.relname LIKE 'checkpoint%')
  AND pg_catalog.pg_table_is_visible(c.oid)
ORDER BY c.relname
"""
LOCKS = """
SELECT count(*) FROM pg_catalog.pg_locks
WHERE locktype = 'advisory'
  AND database = (SELECT oid FROM pg_catalog.pg_database WHERE datname = pg_catalog.current_database())
"""


class State(TypedDict, total=False):
    text: str
    count: int


async def node(state: State) -> State:
    await asyncio.sleep(random.random() * 0.02)
    return {"text": "some words of state " * 20, "count": state.get("count", 0) + 1}


GRAPH = StateGraph(State).add_sequence([(f"n{i}", node) for i in range(4)]).add_edge(START, "n0")


@dataclass(slots=True)
class Soak:
    """What happened so far."""

    runs: int = 0
    complete: int = 0
    cancelled: int = 0
    killed: int = 0
    errors: Counter[str] = field(default_factory=Counter[str])
    to_resume: list[str] = field(default_factory=list[str])

    async def one(self, durable: Durable, cancel: float) -> None:
        """A run on a thread of its own; of `cancel` of them the task is cancelled at some
        moment.
        """
        thread_id = uuid.uuid4().hex
        task = asyncio.create_task(_run(durable, thread_id), name=f"soak {thread_id}")
        if random.random() < cancel:
            await asyncio.wait([task], timeout=random.random() * 0.15)
            task.cancel()
        await asyncio.wait([task])
        self.runs += 1
        if task.cancelled():
            self.cancelled += 1
            if len(self.to_resume) < RESUMED:
                self.to_resume.append(thread_id)
        elif error := task.exception():
            self.errors[type(error).__name__] += 1
        else:
            self.complete += 1


async def _run(durable: Durable, thread_id: str) -> None:
    async with durable.run(thread_id, "soak") as run:
        await run.ainvoke({"count": 0})


def trim() -> None:
    """Give back what is free already, so that what is left is held (glibc keeps fragments of its
    heap).
    """
    gc.collect()
    with suppress(OSError, AttributeError):
        ctypes.CDLL("libc.so.6").malloc_trim(0)


def descriptors() -> int:
    for folder in ("/proc/self/fd", "/dev/fd"):
        if Path(folder).is_dir():
            return sum(1 for _ in Path(folder).iterdir()) - 1  # one is that of the listing
    return -1


class Sampler:
    """Looks at this process and at the server, now and then."""

    def __init__(self, admin: asyncpg.Connection, soak: Soak) -> None:
        self._admin = admin
        self._soak = soak
        self._began = time.monotonic()
        self.samples: list[dict[str, Any]] = []

    async def sample(self, *, trimmed: bool = False) -> None:
        memory = resident_memory()
        if trimmed:
            trim()
        sizes = await self._admin.fetch(SIZES)
        self.samples.append(
            {
                "seconds": round(time.monotonic() - self._began),
                "runs": self._soak.runs,
                "memory_mb": memory / 1e6,
                "trimmed_mb": resident_memory() / 1e6 if trimmed else None,
                "blocks": sys.getallocatedblocks(),
                "descriptors": descriptors(),
                "connections": len(await self._admin.fetch(SESSIONS, str(os.getpid()))),
                "tasks": len(asyncio.all_tasks()),
                "threads": threading.active_count(),
                "locks": await self._admin.fetchval(LOCKS),
                "tables_mb": sum(row["bytes"] for row in sizes) / 1e6,
                "indexes_mb": sum(row["index_bytes"] for row in sizes) / 1e6,
                "queue_percent": 100 * (await self._admin.fetchval(QUEUE) or 0),
                "sizes": {
                    row["name"]: {"table": row["bytes"], "indexes": row["index_bytes"]}
                    for row in sizes
                },
            }
        )

    async def every(self, seconds: float) -> None:
        """The first is of a process that is warm."""
        while True:
            await asyncio.sleep(seconds)
            await self.sample(trimmed=len(self.samples) == 0)


async def kill_sessions(admin: asyncpg.Connection, soak: Soak) -> None:
    """End one of the sessions every 2 to 5 seconds, whatever it is for."""
    while True:
        await asyncio.sleep(random.uniform(2, 5))
        if pids := [row["pid"] for row in await admin.fetch(SESSIONS, str(os.getpid()))]:
            soak.killed += bool(await admin.fetchval(KILL, random.choice(pids)))


async def work(durable: Durable, options: argparse.Namespace, soak: Soak) -> None:
    until = time.monotonic() + options.minutes * 60

    async def caller() -> None:
        while time.monotonic() < until:
            await soak.one(durable, options.cancel)

    async with asyncio.TaskGroup() as group:
        for _ in range(options.at_once):
            group.create_task(caller())


async def soaked(
    dsn: str, options: argparse.Namespace, admin: asyncpg.Connection
) -> tuple[Soak, Sampler]:
    killer = await asyncpg.connect(**parse_dsn(dsn).asyncpg)
    soak = Soak()
    sampler = Sampler(admin, soak)
    try:
        async with Durable(dsn, graphs={"soak": GRAPH}) as durable:
            others = [
                asyncio.create_task(sampler.every(max(1.0, options.minutes * 60 / options.samples)))
            ]
            if options.kill_sessions:
                others.append(asyncio.create_task(kill_sessions(killer, soak)))
            try:
                await work(durable, options, soak)
            finally:
                for other in others:
                    other.cancel()
                await asyncio.wait(others)
            await sampler.sample(trimmed=True)
    finally:
        await killer.close()
    return soak, sampler


async def resumed(dsn: str, soak: Soak) -> tuple[int, dict[str, int]]:
    """How many of the cancelled go on to their end, and where all threads stand then."""
    complete = 0
    async with Durable(dsn, graphs={"soak": GRAPH}) as durable:
        for thread_id in soak.to_resume:
            if (await durable.threads.status(thread_id)).status == "new":
                complete += 1  # it was cancelled before anything was accepted
                continue
            async with durable.run(thread_id, "soak") as run:
                complete += (await run.ainvoke())["count"] == 4
        async for thread in durable.threads.search(status="crashed"):
            await resume_workflow(thread.thread_id)
        counts = await durable.threads.count()
    return complete, {status.value: count for status, count in counts.by_status.items() if count}


async def run(options: argparse.Namespace) -> bool:
    async with AsyncExitStack() as stack:
        dsn = os.environ.get("AIODURABLE_DSN") or await stack.enter_async_context(
            embedded_postgres(durable=False)
        )
        admin = await asyncpg.connect(**parse_dsn(dsn).asyncpg)
        stack.push_async_callback(admin.close)
        before = Sampler(admin, Soak())
        await before.sample()
        soak, sampler = await soaked(dsn, options, admin)
        await sampler.sample()
        first, closed = before.samples[0], sampler.samples[-1]
        complete, by_status = await resumed(dsn, soak)
        machine = describe(await admin.fetchval("SHOW server_version"))
    held = {
        "connections are closed": closed["connections"] <= first["connections"],
        "locks are free": closed["locks"] <= first["locks"],
        "tasks have ended": closed["tasks"] <= first["tasks"],
        "descriptors are closed": (
            closed["descriptors"] <= first["descriptors"] + 2
        ),  # LangChain's threads keep some
        "no run ends with an error of another kind": not set(soak.errors) - set(EXPECTED),
        "no thread stands as if it ran": not {"running", "crashed"} & set(by_status),
        "the cancelled go on to their end": complete == len(soak.to_resume),
    }
    figures = _figures(soak, sampler.samples) | {
        "resumed": complete,
        "statuses": by_status,
        "held": held,
    }
    print(table(sampler.samples, HEADS))
    for name, value in figures.items():
        print(f"{name}: {value}")
    save(options.json, machine, sampler.samples, soak=figures)
    print(f"saved as {options.json}")
    return all(held.values())


def _figures(soak: Soak, samples: Sequence[dict[str, Any]]) -> dict[str, Any]:
    warm, last = samples[0], samples[-2]  # the last one is of the time after closing
    runs = max(1, last["runs"] - warm["runs"])
    return {
        "runs": soak.runs,
        "complete": soak.complete,
        "cancelled": soak.cancelled,
        "errors": dict(soak.errors),
        "sessions_killed": soak.killed,
        "runs_per_s": soak.runs / max(1, last["seconds"]),
        "memory_grew_mb": last["memory_mb"] - warm["memory_mb"],
        "memory_grew_trimmed_mb": last["trimmed_mb"] - warm["trimmed_mb"],
        "trimmed_bytes_a_run": (last["trimmed_mb"] - warm["trimmed_mb"]) * 1e6 / runs,
        "objects_a_run": (last["blocks"] - warm["blocks"]) / runs,
        "tables_kb_a_run": (last["tables_mb"] - warm["tables_mb"]) * 1e3 / runs,
        "indexes_kb_a_run": (last["indexes_mb"] - warm["indexes_mb"]) * 1e3 / runs,
    }


def main(argv: Sequence[str] | None = None) -> None:
    options = parser(__doc__, "soak")
    options.add_argument("--minutes", type=float, default=5.0)
    options.add_argument(
        "--at-once", type=int, default=50, metavar="N", help="runs at the same time"
    )
    options.add_argument(
        "--cancel",
        type=float,
        default=0.0,
        metavar="PART",
        help="cancel this part of the runs: 0.3",
    )
    options.add_argument(
        "--kill-sessions",
        action="store_true",
        help="end a session of Postgres every 2 to 5 seconds",
    )
    options.add_argument(
        "--samples", type=int, default=20, metavar="N", help="so many, spread over the time"
    )
    options.set_defaults(json=Path("soak.json"))
    given = options.parse_args(argv)
    if given.quick:
        given.minutes = min(given.minutes, 1.0)
    if not asyncio.run(run(given)):
        sys.exit(1)


if __name__ == "__main__":
    main()
