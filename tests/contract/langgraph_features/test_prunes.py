"""Pruning beside what LangGraph keeps: the memory of a subgraph, and its own pruning beside runs of
ours.
"""

from __future__ import annotations

import asyncio
import operator
from datetime import timedelta
from typing import Annotated, Any, TypedDict

import psycopg
from langgraph.checkpoint.postgres.aio import AsyncPostgresSaver
from langgraph.graph import END, START, StateGraph
from psycopg.errors import DeadlockDetected, SerializationFailure

from aiodurable.durable import Durable
from tests.support.feature_graphs import EMPTY
from tests.support.graphs import STEPS, Story, four_nodes


class Memory(TypedDict):
    words: list[str]
    turns: Annotated[int, operator.add]


def remembering() -> StateGraph[Any, Any, Any, Any]:
    """Its subgraph counts the turns of the thread in a channel of its own."""

    async def count(state: Memory) -> dict[str, Any]:
        return {"turns": 1, "words": [f"turn {state['turns'] + 1}"]}

    inner = (
        StateGraph(Memory)
        .add_node("count", count)
        .add_edge(START, "count")
        .compile(checkpointer=True)
    )
    builder = StateGraph(Story).add_node("inner", inner)
    return builder.add_edge(START, "inner").add_edge("inner", END)


async def test_pruning_keeps_the_memory_of_a_subgraph(durable: Durable) -> None:
    for turn in range(1, 4):
        async with durable.run("t", remembering()) as run:
            result = await run.ainvoke(EMPTY)
        assert result["words"] == [f"turn {n}" for n in range(1, turn + 1)]
        await durable.threads.prune(strategy="keep_latest", older_than=timedelta(0))


async def test_langgraphs_pruning_beside_runs_and_beside_ours_takes_nothing_that_is_needed(
    dsn: str, durable: Durable
) -> None:
    """It takes no lease and shows no fence: it may fail, and runs must not."""
    ended = False

    async def theirs() -> None:
        async with AsyncPostgresSaver.from_conn_string(dsn) as stock:
            while not ended:
                try:
                    await stock.aprune(["t"], strategy="keep_latest")
                except (SerializationFailure, DeadlockDetected):
                    await asyncio.sleep(0)

    async def ours() -> None:
        while not ended:
            await durable.threads.prune(strategy="keep_latest", older_than=timedelta(0))
            await asyncio.sleep(0)

    async with asyncio.TaskGroup() as group:
        for prune in (theirs, ours):
            group.create_task(prune())
        for turn in range(5):
            async with durable.run("t", four_nodes()) as run:
                result = await run.ainvoke(EMPTY)
            assert result["words"] == list(STEPS) * (turn + 1)
        ended = True
    async with durable.run("t", four_nodes()) as run:
        assert (await run.ainvoke())["words"] == list(STEPS) * 5
    async with await psycopg.AsyncConnection.connect(dsn) as connection:
        blobless = await connection.execute(
            "SELECT c.checkpoint_id, v.key FROM checkpoints c, jsonb_each_text(c.checkpoint ->"
            " 'channel_versions') v WHERE v.key = 'words' AND NOT EXISTS (SELECT FROM"
            " checkpoint_blobs b WHERE b.thread_id = c.thread_id AND b.checkpoint_ns ="
            " c.checkpoint_ns AND b.channel = v.key AND b.version = v.value)"
        )
        assert await blobless.fetchall() == []
