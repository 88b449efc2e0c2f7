"""Whether memory stays flat: 10,000 durable runs with states of 100 kB, most of which wait for
their place in the write queue.

All runs of a process share a state's text, so what grows is what this library keeps of it:
serialised values that are not committed yet. They are bounded in bytes, however many runs there
are; without the bound, all at once would hold a gigabyte. What LangGraph itself keeps for a run in
flight, tens of kilobytes, is measured first, by as many runs without durability that all wait in
their node: for those that are ahead of their checkpoints wait, too.
"""

from __future__ import annotations

import argparse
import asyncio
import os
import time
from collections.abc import Sequence
from contextlib import AsyncExitStack
from typing import Any

import asyncpg
from langgraph.checkpoint.memory import InMemorySaver
from langgraph.graph import START, StateGraph

from aiodurable import Durable
from aiodurable.dsn import parse_dsn
from aiodurable.embedded import embedded_postgres

from .contenders import State, words
from .machine import describe
from .meter import peak_memory
from .report import parser, save, table
from .runs import crowd

ROOM = {"max_locks_per_transaction": "512"}  # for as many leases

HEADS = {
    "what": "what",
    "state_kb": "kB",
    "runs": "runs",
    "at_once": "at once",
    "states_mb": "MB of all states",
    "before_mb": "peak MB before",
    "peak_mb": "peak MB",
    "seconds": "s",
}


async def in_flight(at_once: int) -> dict[str, Any]:
    """What LangGraph alone takes for so many runs, all in the middle of their node."""
    began, before, left = time.perf_counter(), peak_memory() / 1e6, at_once
    all_there = asyncio.Event()

    async def node(state: State) -> State:
        nonlocal left
        left -= 1
        if not left:
            all_there.set()
        await all_there.wait()
        return {"count": state.get("count", 0) + 1}

    graph = (
        StateGraph(State)
        .add_node("node", node)
        .add_edge(START, "node")
        .compile(checkpointer=InMemorySaver())
    )

    async def run(thread_id: str) -> Any:
        return await graph.ainvoke(
            {"count": 0}, {"configurable": {"thread_id": thread_id}}, durability="sync"
        )

    await crowd(run, at_once, at_once)
    figures = {
        "seconds": time.perf_counter() - began,
        "before_mb": before,
        "peak_mb": peak_memory() / 1e6,
    }
    return {
        "what": "LangGraph alone",
        "state_kb": 0,
        "runs": at_once,
        "at_once": at_once,
        "states_mb": 0.0,
        **figures,
    }


async def one(dsn: str, state_kb: int, runs: int, at_once: int) -> dict[str, Any]:
    """The most that the process ever held: before, after some runs to warm up, and at the end."""
    text = words(state_kb)

    async def node(state: State) -> State:
        return {"text": text, "count": state.get("count", 0) + 1}

    graph = StateGraph(State).add_node("node", node).add_edge(START, "node")
    async with Durable(dsn, graphs={"one": graph}) as durable:

        async def run(thread_id: str) -> Any:
            async with durable.run(thread_id, "one") as opened:
                return await opened.ainvoke({"count": 0})

        await crowd(run, 100, 50)
        before, began = peak_memory() / 1e6, time.perf_counter()
        await crowd(run, runs, at_once)
        figures = {
            "seconds": time.perf_counter() - began,
            "before_mb": before,
            "peak_mb": peak_memory() / 1e6,
        }
    place = {"what": "durable runs", "state_kb": state_kb, "runs": runs, "at_once": at_once}
    return {**place, "states_mb": runs * state_kb / 1000, **figures}


async def run(options: argparse.Namespace) -> None:
    async with AsyncExitStack() as stack:
        dsn = os.environ.get("AIODURABLE_DSN") or await stack.enter_async_context(
            embedded_postgres(durable=False, settings=ROOM)
        )
        # LangGraph alone comes first: what durable runs reach beyond its peak is their share.
        rows = [
            await in_flight(options.at_once),
            await one(dsn, options.state_kb, options.runs, options.at_once),
        ]
        admin = await asyncpg.connect(**parse_dsn(dsn).asyncpg)
        stack.push_async_callback(admin.close)
        machine = describe(await admin.fetchval("SHOW server_version"))
    print(table(rows, HEADS))
    if options.json:
        save(options.json, machine, rows)


def main(argv: Sequence[str] | None = None) -> None:
    options = parser(__doc__, "memory")
    options.add_argument("--runs", type=int, default=10_000)
    options.add_argument("--at-once", type=int, default=10_000)
    options.add_argument("--state-kb", type=int, default=100)
    given = options.parse_args(argv)
    if given.quick:
        given.runs = given.at_once = 1_000
    asyncio.run(run(given))


if __name__ == "__main__":
    main()
