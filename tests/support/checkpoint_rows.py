"""Checkpoints, graphs and rows for the tests of the saver."""

import asyncio
import operator
from random import random
from typing import Annotated, Any, TypedDict

import asyncpg
from langchain_core.runnables import RunnableConfig
from langgraph.checkpoint.base import Checkpoint, empty_checkpoint
from langgraph.checkpoint.base.id import uuid6
from langgraph.graph import END, START, StateGraph
from langgraph.types import Send

from aiodurable.checkpoints.encoding import Rows, Write, commit
from aiodurable.checkpoints.fences import Fence
from aiodurable.checkpoints.write_session import SESSION_KEY, WriteSession

TABLES = {
    "checkpoints": (
        "thread_id, checkpoint_ns, checkpoint_id, parent_checkpoint_id, type, checkpoint::text,"
        " metadata::text"
    ),
    "checkpoint_blobs": "thread_id, checkpoint_ns, channel, version, type, blob",
    "checkpoint_writes": (
        "thread_id, checkpoint_ns, checkpoint_id, task_id, task_path, idx, channel, type, blob"
    ),
}


def config(thread_id: str, checkpoint_id: str | None = None, ns: str = "") -> RunnableConfig:
    configurable: dict[str, Any] = {"thread_id": thread_id, "checkpoint_ns": ns}
    if checkpoint_id:
        configurable["checkpoint_id"] = checkpoint_id
    return {"configurable": configurable}


def under(fence: Fence) -> RunnableConfig:
    """The config of the holder of this fence."""
    return {"configurable": {SESSION_KEY: WriteSession(fence)}}


def checkpoint(**values: Any) -> tuple[Checkpoint, dict[str, str]]:
    """A checkpoint with these channel values, and their versions: like LangGraph's, no two are
    equal.
    """
    made = empty_checkpoint()
    made["id"] = str(uuid6())
    versions: dict[str, Any] = dict.fromkeys(values, f"{1:032}.{random():016}")
    made["channel_values"] = values
    made["channel_versions"] = versions
    return made, versions


async def write_in_flight(db: asyncpg.Connection, fence: Fence) -> list[str]:
    """Send what a writer sends: until the transaction of `db` ends, its lock is on the fence.
    Returns the threads found.
    """
    write = Write(WriteSession(fence), Rows(), asyncio.get_running_loop().create_future(), 0.0)
    statement, parameters = commit([write])
    return [row[0] for row in await db.fetch(statement, *parameters)]


async def rows(
    db: asyncpg.Connection, thread_id: str, *, renamed: str | None = None
) -> dict[str, list[tuple[Any, ...]]]:
    """Every row of the thread in LangGraph's tables, sorted; with `renamed`, as if that were its
    name.
    """
    found: dict[str, list[tuple[Any, ...]]] = {}
    for table, columns in TABLES.items():
        records = await db.fetch(f"SELECT {columns} FROM {table} WHERE thread_id = $1", thread_id)
        found[table] = sorted(((renamed or row[0], *tuple(row)[1:]) for row in records), key=repr)
    return found


class State(TypedDict, total=False):
    total: Annotated[int, operator.add]
    seen: Annotated[list[str], operator.add]
    topic: str


def step(name: str) -> Any:
    async def node(state: State) -> State:
        return {"total": 1, "seen": [name]}

    return node


def linear(count: int = 4) -> StateGraph:
    builder = StateGraph(State)
    names = [f"step{n}" for n in range(1, count + 1)]
    builder.add_sequence([(name, step(name)) for name in names])
    builder.add_edge(START, names[0])
    builder.add_edge(names[-1], END)
    return builder


def fan_out(width: int = 3) -> StateGraph:
    builder = StateGraph(State)
    builder.add_node("split", step("split"))
    builder.add_node("work", step("work"))
    builder.add_node("join", step("join"))
    builder.add_edge(START, "split")
    builder.add_conditional_edges(
        "split", lambda state: [Send("work", {"topic": str(n)}) for n in range(width)], ["work"]
    )
    builder.add_edge("work", "join")
    builder.add_edge("join", END)
    return builder


async def written(dsn: str) -> list[Any]:
    """Every checkpoint and write of a database, as it stands."""
    connection = await asyncpg.connect(dsn)
    try:
        return [
            await connection.fetch(f"SELECT * FROM {table} ORDER BY 1, 2, 3, 4, 5")
            for table in ("checkpoints", "checkpoint_writes")
        ]
    finally:
        await connection.close()
