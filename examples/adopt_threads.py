"""Threads that a plain LangGraph app left behind: find them, see why they stopped, finish them.

Run it: python examples/adopt_threads.py
"""

import asyncio
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


async def the_old_app(dsn: str, thread_id: str) -> None:
    """Plain LangGraph, as it was before."""
    async with AsyncPostgresSaver.from_conn_string(dsn) as saver:
        await saver.setup()
        graph = archive.compile(checkpointer=saver)
        try:
            await graph.ainvoke({"name": "letters", "size": 0, "place": ""}, {"configurable": {"thread_id": thread_id}})
        except OSError:
            print("the old app failed and was switched off")


async def main() -> None:
    async with database() as dsn:
        await the_old_app(dsn, f"archive-{uuid4()}")
        troubles.clear()
        async with Durable(dsn) as durable:  # makes our tables beside LangGraph's, and changes none of its rows
            async for thread in durable.find_failed_workflows(error="no space left"):
                print(f"{thread.status} at {thread.failed_node}: {thread.error}")
                # The tables do not name the graph of such a thread, so we do.
                result = await durable.resume_workflow(thread.thread_id, archive)
                print("finished:", result["place"])


if __name__ == "__main__":
    asyncio.run(main())
