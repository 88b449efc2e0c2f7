"""A chat that lives long: a turn of it reads its head, and nothing of its history."""

from __future__ import annotations

import os
from collections.abc import Awaitable, Callable
from typing import Annotated, Any, TypedDict

import psycopg
import pytest
from langchain_core.messages import AIMessage, HumanMessage
from langgraph.graph import START, StateGraph
from langgraph.graph.message import add_messages

from aiodurable import Durable
from tests.support.waiting import wait_until

AGE = 10_000
"""Checkpoints that an old thread has."""

SIZE = 2_000_000
"""Bytes of its messages."""

OLDER = (
    """INSERT INTO checkpoint_blobs (thread_id, checkpoint_ns, channel, version, type, blob)
    SELECT 'chat', '', 'messages', n || '.old', 'msgpack', decode(repeat(md5(n::text), 100), 'hex')
    FROM generate_series(1, %(age)s) n""",
    """INSERT INTO checkpoint_writes (thread_id, checkpoint_ns, checkpoint_id, task_id, task_path, idx, channel, type, blob)
    SELECT 'chat', '', '0-' || lpad(n::text, 8, '0'), 'task', '', i, 'messages', 'msgpack', md5(n::text)::bytea
    FROM generate_series(1, %(age)s) n, generate_series(0, 1) i""",
    """INSERT INTO checkpoints (thread_id, checkpoint_ns, checkpoint_id, parent_checkpoint_id, checkpoint, metadata)
    SELECT thread_id, '', '0-' || lpad(n::text, 8, '0'), '0-' || lpad((n - 1)::text, 8, '0'),
           jsonb_set(checkpoint, '{channel_versions,messages}', to_jsonb(n || '.old')),
           metadata || jsonb_build_object('aiodurable_run_id', 'run-' || n / 3)
    FROM (SELECT * FROM checkpoints ORDER BY checkpoint_id DESC LIMIT 1) head, generate_series(1, %(age)s) n""",
)
PAGES = """SELECT sum(heap_blks_read + heap_blks_hit + idx_blks_read + idx_blks_hit)::int
FROM pg_statio_user_tables WHERE relname LIKE 'checkpoint%'"""
OTHERS = """SELECT count(*) FROM pg_stat_activity
WHERE datname = current_database() AND backend_type = 'client backend' AND pid <> pg_backend_pid()"""


class Chat(TypedDict):
    messages: Annotated[list[Any], add_messages]


async def answers(state: Chat) -> dict[str, Any]:
    return {"messages": [AIMessage("an answer")]}


def chat() -> StateGraph[Any, Any, Any, Any]:
    return StateGraph(Chat).add_node("answers", answers).add_edge(START, "answers")


def said(text: str) -> dict[str, Any]:
    return {"messages": [HumanMessage(text)]}


async def here(durable: Durable) -> None:
    async with durable.run("chat", "chat") as run:
        await run.ainvoke(said("more"))


async def by_a_worker(durable: Durable) -> None:
    created = await durable.runs.create("chat", "chat", said("more"))
    assert (await durable.runs.get(created.run_id)).status == "queued"
    async with durable.work():
        await durable.runs.wait(created.run_id)


async def status(durable: Durable) -> None:
    assert (await durable.threads.status("chat")).status == "complete"


async def newest_steps(durable: Durable) -> None:
    assert len([step async for step in durable.threads.history("chat", limit=3)]) == 3


@pytest.mark.parametrize("verb", [here, by_a_worker, status, newest_steps])
async def test_what_it_costs_does_not_grow_with_the_age_of_the_thread(
    dsn: str, verb: Callable[[Durable], Awaitable[None]]
) -> None:
    async with await psycopg.AsyncConnection.connect(dsn, autocommit=True) as reader:

        async def one(query: str) -> int:
            row = await (await reader.execute(query.encode())).fetchone()
            assert row is not None
            return int(row[0])

        async def nobody_else() -> bool:
            return not await one(OTHERS)

        async def pages() -> int:
            await wait_until(nobody_else)  # a backend hands in its counts when it ends
            return await one(PAGES)

        async def cost() -> int:
            before = await pages()
            async with Durable(dsn, graphs={"chat": chat()}) as durable:
                await verb(durable)
            return await pages() - before

        for table in ("checkpoints", "checkpoint_blobs", "checkpoint_writes"):
            await reader.execute(f"ALTER TABLE {table} SET (autovacuum_enabled = off)".encode())
        async with (
            Durable(dsn, graphs={"chat": chat()}) as durable,
            durable.run("chat", "chat") as run,
        ):
            await run.ainvoke(said(os.urandom(SIZE // 2).hex()))
        await cost()
        young = await cost()
        most = 2 * young + 50
        async with await psycopg.AsyncConnection.connect(dsn, autocommit=True) as writer:
            for statement in OLDER:
                await writer.execute(statement.encode(), {"age": AGE})
            await writer.execute(b"VACUUM ANALYZE")
        if (old := await cost()) > most:  # once a minute autovacuum looks for what to summarise
            old = min(old, await cost())
        assert old <= most
