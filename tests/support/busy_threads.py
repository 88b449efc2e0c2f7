"""A thread with a run at work on it, and what LangGraph's tables hold of it."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from typing import Any

import psycopg

from aiodurable.durable import Durable
from aiodurable.errors import RunCancelledError
from tests.support.scenario_graphs import asks, chain, ok

INPUT: dict[str, Any] = {"xs": ["in"]}
NEW: dict[str, Any] = {"xs": ["new"]}
TABLES = ("checkpoints", "checkpoint_writes", "checkpoint_blobs")


class Held:
    """A node that waits until its event is set."""

    def __init__(self) -> None:
        self.entered = asyncio.Event()
        self.open = asyncio.Event()

    async def __call__(self, state: Any) -> dict[str, Any]:
        self.entered.set()
        await self.open.wait()
        return {"xs": ["held"]}


def graphs(held: Held) -> dict[str, Any]:
    """A chain that holds at its second node, one that does so in a subgraph, one that asks, and
    one that fails.
    """

    async def fails(state: Any) -> Any:
        if "new" in state["xs"]:
            return {"xs": ["b"]}
        raise ValueError("broken")

    inner = chain(c=ok("c"), d=held).compile(checkpointer=True)
    return {
        "held": chain(a=ok("a"), b=held),
        "nested": chain(a=ok("a"), b=inner),
        "asking": chain(a=ok("a"), b=asks("which?")),
        "failing": chain(a=ok("a"), b=fails),
        "chain": chain(a=ok("a"), b=ok("b")),
    }


@asynccontextmanager
async def at_work(
    durable: Durable, held: Held, name: str = "held"
) -> AsyncIterator[asyncio.Task[Any]]:
    """A run of thread "t" that holds; it is cancelled at the end at the latest."""

    async def work() -> Any:
        async with durable.run("t", name, run_id="old") as run:
            return await run.ainvoke(INPUT)

    task = asyncio.create_task(work())
    await asyncio.wait_for(held.entered.wait(), 20)
    try:
        yield task
    finally:
        task.cancel()
        with suppress(asyncio.CancelledError, RunCancelledError):
            await task


def stored(dsn: str, thread_id: str = "t") -> dict[str, set[tuple[str, ...]]]:
    """All that LangGraph's tables have of a thread."""
    with psycopg.connect(dsn) as connection:
        return {
            table: {
                tuple(map(str, row))
                for row in connection.execute(
                    f"SELECT * FROM {table} WHERE thread_id = %s".encode(), [thread_id]
                )
            }
            for table in TABLES
        }
