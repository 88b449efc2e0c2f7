"""Whole durable runs per second, against LangGraph alone: python -m benchmarks.runs [--rounds N] [--runs N] [--json FILE]

Each run is a new thread through a graph of four nodes that do nothing. The contenders take turns, round by round, on the
same server, so that a ratio holds although the machine's speed drifts. Quote medians and ratios.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import resource
import statistics
import time
import uuid
from collections.abc import Awaitable, Callable
from contextlib import AsyncExitStack
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, TypedDict

import asyncpg
from langgraph.checkpoint.memory import InMemorySaver
from langgraph.checkpoint.postgres.aio import AsyncPostgresSaver
from langgraph.graph import END, START, StateGraph
from psycopg.rows import dict_row
from psycopg_pool import AsyncConnectionPool

from aiodurable import Durable
from aiodurable.embedded import embedded_postgres
from benchmarks.machine import describe

Run = Callable[[str], Awaitable[Any]]
BASE = "stock saver"


class State(TypedDict):
    text: str
    count: int


def four_nodes() -> StateGraph[Any, Any, Any, Any]:
    builder = StateGraph(State)

    async def node(state: State) -> dict[str, Any]:
        return {"text": "a few words of state", "count": state["count"] + 1}

    names = ["a", "b", "c", "d"]
    for name in names:
        builder.add_node(name, node)
    for one, next_one in zip([START, *names], [*names, END], strict=True):
        builder.add_edge(one, next_one)
    return builder


async def contenders(dsn: str, stack: AsyncExitStack) -> dict[str, Run]:
    """Each as one awaitable call a thread, everything it needs opened."""
    durable = await stack.enter_async_context(Durable(dsn, graphs={"four": four_nodes()}))
    pool = await stack.enter_async_context(
        AsyncConnectionPool(
            durable.dsn.conninfo,
            min_size=10,
            max_size=10,
            kwargs={"autocommit": True, "row_factory": dict_row, "prepare_threshold": 0},
        )
    )
    stock = four_nodes().compile(checkpointer=AsyncPostgresSaver(pool))  # pyright: ignore[reportArgumentType]
    memory = four_nodes().compile(checkpointer=InMemorySaver())

    async def durably(thread_id: str) -> Any:
        async with durable.run("four", thread_id) as run:
            return await run.ainvoke({"count": 0})

    def plainly(graph: Any) -> Run:
        async def call(thread_id: str) -> Any:
            return await graph.ainvoke({"count": 0}, {"configurable": {"thread_id": thread_id}}, durability="sync")

        return call

    return {"durable_run": durably, BASE: plainly(stock), "in memory": plainly(memory)}


async def measure(run: Run, runs: int, concurrency: int) -> dict[str, float]:
    """Runs per second, latencies in ms, and this process's CPU per run in ms."""
    left = iter(range(runs))
    took: list[float] = []

    async def caller() -> None:
        for _ in left:
            began = time.perf_counter()
            await run(uuid.uuid4().hex)
            took.append((time.perf_counter() - began) * 1000)

    cpu, began = _cpu(), time.perf_counter()
    await asyncio.gather(*(caller() for _ in range(concurrency)))
    seconds = time.perf_counter() - began
    took.sort()
    return {
        "runs_per_s": runs / seconds,
        "p50_ms": took[len(took) // 2],
        "p99_ms": took[min(len(took) - 1, int(len(took) * 0.99))],
        "client_cpu_ms": (_cpu() - cpu) * 1000 / runs,
    }


def _cpu() -> float:
    usage = resource.getrusage(resource.RUSAGE_SELF)
    return usage.ru_utime + usage.ru_stime


async def compete(dsn: str, *, rounds: int, runs: int, concurrencies: list[int]) -> dict[str, Any]:
    figures: dict[str, Any] = {}
    async with AsyncExitStack() as stack:
        all_runs = await contenders(dsn, stack)
        for concurrency in concurrencies:
            count = runs if concurrency > 1 else max(10, runs // 4)
            seen: dict[str, list[dict[str, float]]] = {name: [] for name in all_runs}
            for number in range(rounds + 1):
                for name, run in all_runs.items():
                    figure = await measure(run, count, concurrency)
                    if number:  # the first round warms up
                        seen[name].append(figure)
            figures[str(concurrency)] = {
                name: {
                    **{key: round(statistics.median(figure[key] for figure in rows), 2) for key in rows[0]},
                    "ratio": round(
                        statistics.median(
                            mine["runs_per_s"] / base["runs_per_s"] for mine, base in zip(rows, seen[BASE], strict=True)
                        ),
                        2,
                    ),
                }
                for name, rows in seen.items()
            }
    return figures


def table(figures: dict[str, Any]) -> str:
    lines = [
        "| concurrent runs | contender | runs/s | against the stock saver | p50 ms | p99 ms | client CPU ms a run |",
        "|---|---|---|---|---|---|---|",
    ]
    for concurrency, contestants in figures.items():
        lines += [
            f"| {concurrency} | {name} | {row['runs_per_s']:.0f} | {row['ratio']:.2f}× | {row['p50_ms']:.1f} | "
            f"{row['p99_ms']:.1f} | {row['client_cpu_ms']:.2f} |"
            for name, row in contestants.items()
        ]
    return "\n".join(lines)


async def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=5, help="rounds that count; one more warms up")
    parser.add_argument("--runs", type=int, default=200, help="runs of each contender a round")
    parser.add_argument("--concurrency", type=int, nargs="+", default=[1, 50])
    parser.add_argument("--json", type=Path, help="save the figures and the machine's description here")
    options = parser.parse_args()
    async with AsyncExitStack() as stack:
        dsn = os.environ.get("AIODURABLE_DSN") or await stack.enter_async_context(embedded_postgres(durable=True))
        figures = await compete(dsn, rounds=options.rounds, runs=options.runs, concurrencies=options.concurrency)
        connection = await asyncpg.connect(dsn)
        server = await connection.fetchval("SHOW server_version")
        await connection.close()
    print(table(figures))
    if options.json:
        report = {
            "measured": datetime.now(UTC).isoformat(timespec="seconds"),
            "machine": describe(server),
            "rounds": options.rounds,
            "runs": options.runs,
            "figures": figures,
        }
        options.json.write_text(json.dumps(report, indent=2) + "\n")


if __name__ == "__main__":
    asyncio.run(main())
