"""Threads that a plain LangGraph app left behind: count them, see why they stopped, finish them,
drop their past.

Run it: python examples/adopt_threads.py
"""

import asyncio
from datetime import timedelta
from typing import TypedDict
from uuid import uuid4

from database import database
from langgraph.checkpoint.postgres.aio import AsyncPostgresSaver
from langgraph.graph import START, StateGraph

from aiodurable import Durable

troubles = {"disk full"}


class Archive(TypedDict):
    name: str
    size: int
    place: str


async def measure(state: Archive) -> dict[str, int]:
    return {"size": len(state["name"])}


async def store(state: Archive) -> dict[str, str]:
    if "disk full" in troubles:
        raise OSError("no space left on device")
    return {"place": f"/archive/{state['name']}"}


archive = StateGraph(Archive).add_sequence([measure, store]).add_edge(START, "measure")


async def the_old_app(dsn: str, *thread_ids: str) -> None:
    """Plain LangGraph, as it was before."""
    async with AsyncPostgresSaver.from_conn_string(dsn) as saver:
        await saver.setup()
        graph = archive.compile(checkpointer=saver)
        for thread_id in thread_ids:
            try:
                await graph.ainvoke(
                    {"name": "letters", "size": 0, "place": ""},
                    {"configurable": {"thread_id": thread_id}},
                )
            except OSError:
                print("the old app failed")


async def count(durable: Durable, prefix: str) -> None:
    counts = await durable.threads.count(prefix=prefix)
    print(
        "threads:",
        ", ".join(f"{number} {status}" for status, number in sorted(counts.by_status.items())),
    )


async def main() -> None:
    async with database() as dsn:
        mine = f"archive-{uuid4()}-"
        await the_old_app(dsn, f"{mine}1", f"{mine}2")
        troubles.clear()
        await the_old_app(dsn, f"{mine}3")
        async with Durable(
            dsn
        ) as durable:  # makes our tables beside LangGraph's, and changes none of its rows
            await count(durable, mine)
            async for thread in durable.threads.resumable(prefix=mine):
                print(f"{thread.status} at {thread.failed_node}: {thread.error}")
                # The tables do not name the graph of such a thread, so we do.
                result = await durable.threads.retry(thread.thread_id, archive)
                print("finished:", result["place"])
            await count(durable, mine)

            # Keep what is needed to go on with a thread, drop its past. In earnest: an age of
            # months, and no dry run.
            prunable = await durable.threads.prune(older_than=timedelta(0), dry_run=True)
            print("pruning would free", prunable.bytes, "bytes of", prunable.threads, "threads")


if __name__ == "__main__":
    asyncio.run(main())
