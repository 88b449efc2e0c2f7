"""What durability costs: python -m benchmarks.checkpoints [--rounds N] [--concurrency …] [--state-kb …] [--delay-ms …]

Each run is a new thread through four nodes that do nothing but carry a state. The contenders take turns, round by round,
on the same server, so that a ratio holds although the machine's speed drifts. WAL and commits are counted in a pass of
their own, which closes its connections before it reads: only then has Postgres counted them all.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import json
import os
import statistics
import time
import uuid
from collections.abc import Awaitable, Callable, Sequence
from contextlib import AsyncExitStack
from datetime import UTC, datetime
from pathlib import Path
from random import Random
from typing import Any, Self, TypedDict

import asyncpg
from langgraph.checkpoint.memory import InMemorySaver
from langgraph.checkpoint.postgres.aio import AsyncPostgresSaver
from langgraph.graph import END, START, StateGraph
from psycopg.rows import dict_row
from psycopg_pool import AsyncConnectionPool

from aiodurable import Durable
from aiodurable.dsn import parse_dsn
from aiodurable.embedded import embedded_postgres

from .machine import describe
from .wire import delayed

Run = Callable[[str], Awaitable[Any]]
BASE = "stock saver, sync"
OURS = "durable_run"
CONTENDERS = (OURS, BASE, "stock saver, async", "stock saver, exit", "stock saver, no lock", "in memory")
TICKS = os.sysconf("SC_CLK_TCK")
PAGE = os.sysconf("SC_PAGE_SIZE")


class Words(TypedDict, total=False):
    text: list[str]
    count: int


def four_nodes(state_kb: int) -> StateGraph[Any, Any, Any, Any]:
    builder = StateGraph(Words)
    text = [
        Random(number).randbytes(512).hex() for number in range(state_kb)
    ]  # compresses to about a half, as prose does

    async def node(state: Words) -> Words:
        return {"text": text or ["a few words of state"], "count": state.get("count", 0) + 1}

    names = ["a", "b", "c", "d"]
    for name in names:
        builder.add_node(name, node)
    for one, next_one in zip([START, *names], [*names, END], strict=True):
        builder.add_edge(one, next_one)
    return builder


class NoLock:
    """In the place of the stock saver's lock."""

    async def __aenter__(self) -> None: ...

    async def __aexit__(self, *exc_info: object) -> None: ...


async def contender(name: str, dsn: str, state_kb: int, stack: AsyncExitStack) -> Run:
    """One awaitable call a thread, everything it needs opened."""
    builder = four_nodes(state_kb)
    if name == OURS:
        durable = await stack.enter_async_context(Durable(dsn, graphs={"four": builder}))

        async def durably(thread_id: str) -> Any:
            async with durable.run("four", thread_id) as run:
                return await run.ainvoke({"count": 0})

        return durably
    saver: Any = InMemorySaver()
    if name != "in memory":
        options = {"autocommit": True, "row_factory": dict_row, "prepare_threshold": 0}
        conninfo = parse_dsn(dsn).conninfo
        pool = await stack.enter_async_context(AsyncConnectionPool(conninfo, min_size=10, max_size=10, kwargs=options))
        saver = AsyncPostgresSaver(pool)  # pyright: ignore[reportArgumentType]
        if name == "stock saver, no lock":
            saver.lock = NoLock()
    graph = builder.compile(checkpointer=saver)
    durability: Any = {"stock saver, async": "async", "stock saver, exit": "exit"}.get(name, "sync")

    async def plainly(thread_id: str) -> Any:
        result = await graph.ainvoke({"count": 0}, {"configurable": {"thread_id": thread_id}}, durability=durability)
        if isinstance(saver, InMemorySaver):
            saver.delete_thread(thread_id)  # it would fill the memory, and then measure that
        return result

    return plainly


class Meter:
    """CPU of both sides and this process's memory, between two moments."""

    def __init__(self, backends: list[int]) -> None:
        self._backends = backends

    async def __aenter__(self) -> Self:
        self.peak = self._first = self._memory()
        self._server, self._client, self._began = self._server_cpu(), time.process_time(), time.perf_counter()
        self._watching = asyncio.create_task(self._watch())
        return self

    async def __aexit__(self, *exc_info: object) -> None:
        self.seconds = time.perf_counter() - self._began
        self.client_s = time.process_time() - self._client
        self.server_s = self._server_cpu() - self._server
        self.peak_mb = (max(self.peak, self._memory()) - self._first) / 1e6
        self._watching.cancel()

    async def _watch(self) -> None:
        while True:
            self.peak = max(self.peak, self._memory())
            await asyncio.sleep(0.02)

    def _memory(self) -> int:
        return int(Path("/proc/self/statm").read_text().split()[1]) * PAGE

    def _server_cpu(self) -> float:
        """Seconds of the given backends; none of them on this machine: 0."""
        ticks = 0
        for pid in self._backends:
            with contextlib.suppress(OSError):
                fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
                ticks += int(fields[11]) + int(fields[12])
        return ticks / TICKS


async def crowd(run: Run, runs: int, concurrency: int) -> list[float]:
    """Milliseconds of each run, sorted."""
    left = iter(range(runs))
    took: list[float] = []

    async def caller() -> None:
        for _ in left:
            began = time.perf_counter()
            await run(uuid.uuid4().hex)
            took.append((time.perf_counter() - began) * 1000)

    await asyncio.gather(*(caller() for _ in range(concurrency)))
    return sorted(took)


async def measure(run: Run, admin: asyncpg.Connection, runs: int, concurrency: int) -> dict[str, float]:
    backends = "SELECT pid FROM pg_stat_activity WHERE datname = current_database() AND pid <> pg_backend_pid()"
    async with Meter([row["pid"] for row in await admin.fetch(backends)]) as meter:
        took = await crowd(run, runs, concurrency)
    return {
        "runs_per_s": runs / meter.seconds,
        "p50_ms": took[len(took) // 2],
        "p99_ms": took[min(len(took) - 1, int(len(took) * 0.99))],
        "client_cpu_ms": meter.client_s * 1000 / runs,
        "server_cpu_ms": meter.server_s * 1000 / runs,
        "peak_mb": meter.peak_mb,
    }


async def log_cost(name: str, dsn: str, admin: asyncpg.Connection, state_kb: int, runs: int) -> dict[str, float]:
    """WAL bytes and commits of one run, 50 at a time."""
    count = "SELECT xact_commit, pg_current_wal_lsn() - '0/0' AS wal FROM pg_stat_database WHERE datname = current_database()"
    async with AsyncExitStack() as stack:
        run = await contender(name, dsn, state_kb, stack)
        await crowd(run, 5, 5)
    await _all_gone(admin)
    before = await admin.fetchrow(count)
    async with AsyncExitStack() as stack:
        run = await contender(name, dsn, state_kb, stack)
        await crowd(run, runs, 50)
    await _all_gone(admin)
    after = await admin.fetchrow(count)
    assert before is not None
    assert after is not None
    return {
        "commits": (after["xact_commit"] - before["xact_commit"]) / runs,
        "wal_kb": float(after["wal"] - before["wal"]) / 1000 / runs,
    }


async def _all_gone(admin: asyncpg.Connection) -> None:
    """A backend hands its counts in when it ends."""
    others = (
        "SELECT count(*) FROM pg_stat_activity WHERE datname = current_database() AND backend_type = 'client backend'"
    )
    while (await admin.fetchval(others) or 0) > 1:  # noqa: ASYNC110  # Postgres sends no event for it
        await asyncio.sleep(0.02)


async def compete(
    dsn: str, admin: asyncpg.Connection, state_kb: int, options: argparse.Namespace
) -> list[dict[str, Any]]:
    """One row a contender and concurrency: medians, and ratios taken round by round."""
    rows: list[dict[str, Any]] = []
    costs = {name: await log_cost(name, dsn, admin, state_kb, options.runs) for name in options.contenders}
    async with AsyncExitStack() as stack:
        runs = {name: await contender(name, dsn, state_kb, stack) for name in options.contenders}
        for concurrency in options.concurrency:
            count = max(options.runs, concurrency) if concurrency > 1 else max(10, options.runs // 4)
            seen: dict[str, list[dict[str, float]]] = {name: [] for name in runs}
            for number in range(options.rounds + 1):
                for name, run in runs.items():
                    figure = await measure(run, admin, count, concurrency)
                    if number:  # the first round warms up
                        seen[name].append(figure)
            for name, figures in seen.items():
                middle = {key: round(statistics.median(figure[key] for figure in figures), 2) for key in figures[0]}
                against = (
                    statistics.median(
                        mine["runs_per_s"] / base["runs_per_s"] for mine, base in zip(figures, seen[BASE], strict=True)
                    )
                    if BASE in seen
                    else 0.0
                )
                cost = {key: round(value, 2) for key, value in costs[name].items()}
                rows.append(
                    {"concurrency": concurrency, "contender": name, **middle, "ratio": round(against, 2), **cost}
                )
    return rows


def table(rows: list[dict[str, Any]]) -> str:
    heads = list(rows[0])
    lines = ["| " + " | ".join(heads) + " |", "|" + "---|" * len(heads)]
    return "\n".join([*lines, *("| " + " | ".join(str(row[head]) for head in heads) + " |" for row in rows)])


def chart(rows: list[dict[str, Any]]) -> str:
    """Runs per second as bars, for the README."""
    fastest = max(row["runs_per_s"] for row in rows)
    parts: list[str] = []
    for number, row in enumerate(rows):
        y, width = 20 + number * 24, 420 * row["runs_per_s"] / fastest
        label = f"{row['contender']}, {row['concurrency']} at once, {row['state_kb']} kB, +{row['delay_ms']:g} ms"
        colour = "#2f6f4f" if row["contender"] == OURS else "#9aa5a0"
        parts.append(
            f'<text x="330" y="{y + 13}" text-anchor="end">{label}</text>'
            f'<rect x="340" y="{y}" width="{width:.1f}" height="18" fill="{colour}"/>'
            f'<text x="{346 + width:.1f}" y="{y + 13}">{row["runs_per_s"]:.0f}</text>'
        )
    size = f'width="840" height="{len(rows) * 24 + 40}"'
    style = 'font-family="sans-serif" font-size="12"'
    return f'<svg xmlns="http://www.w3.org/2000/svg" {size} {style}>\n' + "\n".join(parts) + "\n</svg>\n"


async def run_all(argv: Sequence[str] | None) -> None:
    parser = argparse.ArgumentParser(
        "aiodurable bench checkpoints", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--rounds", type=int, default=5, help="rounds that count; one more warms up")
    parser.add_argument("--runs", type=int, default=200, help="runs of each contender a round")
    parser.add_argument("--concurrency", type=int, nargs="+", default=[1, 50, 500])
    parser.add_argument("--state-kb", type=int, nargs="+", default=[0, 100])
    parser.add_argument("--delay-ms", type=float, nargs="+", default=[0, 2], help="added to each round trip")
    parser.add_argument("--contenders", nargs="+", default=CONTENDERS, choices=CONTENDERS)
    parser.add_argument("--json", type=Path, help="save the figures and the machine's description here")
    parser.add_argument("--svg", type=Path, help="save a chart here")
    options = parser.parse_args(argv)
    rows: list[dict[str, Any]] = []
    async with AsyncExitStack() as stack:
        dsn = os.environ.get("AIODURABLE_DSN") or await stack.enter_async_context(embedded_postgres(durable=True))
        async with Durable(dsn):
            pass  # makes the tables
        admin = await asyncpg.connect(**parse_dsn(dsn).asyncpg)
        stack.push_async_callback(admin.close)
        for delay_ms in options.delay_ms:
            async with delayed(dsn, delay_ms) as reached:
                for state_kb in options.state_kb:
                    found = await compete(reached, admin, state_kb, options)
                    rows += [{"delay_ms": delay_ms, "state_kb": state_kb, **row} for row in found]
        version = await admin.fetchval("SHOW server_version")
    print(table(rows))
    if options.json:
        report = {
            "measured": datetime.now(UTC).isoformat(timespec="seconds"),
            "machine": describe(version),
            "figures": rows,
        }
        options.json.write_text(json.dumps(report, indent=2) + "\n")
    if options.svg:
        options.svg.write_text(chart(rows))


def main(argv: Sequence[str] | None = None) -> None:
    asyncio.run(run_all(argv))


if __name__ == "__main__":
    main()
