"""A thread whose subgraphs have run thousands of times: what is done with it reads the newest step
and its subgraphs, and no older ones.

Each call of a subgraph leaves a namespace of its own, with its task's id. So most namespaces of the
database have few rows, and those of the thread itself and of a subgraph with a memory have many.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from contextvars import ContextVar
from typing import Annotated, Any, TypedDict

import psycopg
import pytest
from langgraph.graph import END, START, StateGraph
from langgraph.types import Send, interrupt

from aiodurable import Durable
from tests.support.waiting import wait_until

AGE = 2_000
"""Turns that an old thread has had; each called three subgraphs."""

OLDER = (
    """INSERT INTO checkpoints (thread_id, checkpoint_ns, checkpoint_id, checkpoint, metadata)
    SELECT 'team', checkpoint_ns, '0-' || lpad(n::text, 8, '0'), checkpoint, metadata
    FROM (SELECT * FROM checkpoints WHERE checkpoint_ns = '' ORDER BY checkpoint_id DESC LIMIT 1) head,
         generate_series(1, %(age)s) n""",
    """INSERT INTO checkpoints (thread_id, checkpoint_ns, checkpoint_id, checkpoint, metadata)
    SELECT 'team', CASE call WHEN 1 THEN 'remember' ELSE 'research:' || md5(n || '-' || call)::uuid END,
           '0-' || lpad(n::text, 8, '0') || '-' || step, checkpoint,
           jsonb_set(metadata, '{parents,""}', to_jsonb('0-' || lpad(n::text, 8, '0')))
    FROM (SELECT * FROM checkpoints WHERE checkpoint_ns > '' ORDER BY checkpoint_id DESC LIMIT 1) inside,
         generate_series(1, %(age)s) n, generate_series(1, 3) call, generate_series(1, 3) step""",
    """INSERT INTO checkpoint_writes (thread_id, checkpoint_ns, checkpoint_id, task_id, task_path, idx, channel, type, blob)
    SELECT thread_id, checkpoint_ns, checkpoint_id, 'task', '~__pregel_pull, looks', idx, 'notes', 'msgpack', '\\x90'::bytea
    FROM checkpoints, generate_series(0, 1) idx WHERE checkpoint_id < '1'""",
    """INSERT INTO checkpoint_blobs (thread_id, checkpoint_ns, channel, version, type, blob)
    SELECT thread_id, checkpoint_ns, 'notes', checkpoint_id, 'msgpack', '\\x90'::bytea
    FROM checkpoints WHERE checkpoint_id < '1'""",
)
AS_MANY = """INSERT INTO checkpoints (thread_id, checkpoint_ns, checkpoint_id, checkpoint, metadata)
SELECT 'others', checkpoint_ns, checkpoint_id, checkpoint, metadata FROM checkpoints
WHERE thread_id = 'team'"""
PAGES = """SELECT sum(heap_blks_read + heap_blks_hit + idx_blks_read + idx_blks_hit)::int
FROM pg_statio_user_tables WHERE relname LIKE 'checkpoint%'"""
UNSEEN = "SELECT relpages - relallvisible FROM pg_class WHERE relname = 'checkpoints'"
OTHERS = """SELECT count(*) FROM pg_stat_activity
WHERE datname = current_database() AND backend_type = 'client backend' AND pid <> pg_backend_pid()"""


asking = ContextVar("asking", default=False)


def newest(old: list[str], new: list[str]) -> list[str]:
    return (old + new)[-5:]


class Notes(TypedDict, total=False):
    notes: Annotated[list[str], newest]


async def looks(state: Notes) -> Notes:
    return {"notes": ["looked"]}


async def writes(state: Notes) -> Notes:
    if asking.get():
        interrupt("which one?")
    return {"notes": ["wrote"]}


def fans_out(state: Notes) -> list[Send]:
    return [Send("research", {"notes": []}), Send("research", {"notes": []})]


def team() -> StateGraph[Any, Any, Any, Any]:
    """Two subgraphs at once, by Sends, then one with a memory."""
    research = StateGraph(Notes).add_sequence([("looks", looks), ("writes", writes)])
    remember = StateGraph(Notes).add_node("looks", looks).add_edge(START, "looks")
    return (
        StateGraph(Notes)
        .add_node("plan", looks)
        .add_node("research", research.add_edge(START, "looks").compile())
        .add_node("remember", remember.compile(checkpointer=True))
        .add_edge(START, "plan")
        .add_conditional_edges("plan", fans_out, ["research"])
        .add_edge("research", "remember")
        .add_edge("remember", END)
    )


async def turn(durable: Durable) -> None:
    async with durable.run("team", "team") as run:
        await run.ainvoke({"notes": ["more"]})


async def turn_of_a_worker(durable: Durable) -> None:
    created = await durable.runs.create("team", "team", {"notes": ["more"]})
    async with durable.work():
        await durable.runs.wait(created.run_id)


async def status(durable: Durable) -> None:
    assert (await durable.threads.status("team")).status == "complete"


async def newest_steps(durable: Durable) -> None:
    assert len([step async for step in durable.threads.history("team", limit=3)]) == 3


async def state_with_subgraphs(durable: Durable) -> None:
    graph = durable.graphs["team"]
    await graph.aget_state({"configurable": {"thread_id": "team"}}, subgraphs=True)


async def question_and_answer(durable: Durable) -> None:
    asking.set(True)
    await turn(durable)
    async with durable.run("team", "team") as run:
        await run.answer({one.id: "this one" for one in run.checkpoint.interrupts})
    asking.set(False)


async def fork(durable: Durable) -> None:
    await durable.threads.fork("team")


@pytest.mark.parametrize(
    ("verb", "walks"),
    [
        (turn, 0),
        (turn_of_a_worker, 0),
        (status, 0),
        (newest_steps, 0),
        (state_with_subgraphs, 0),
        (question_and_answer, 3),
        (fork, 2),
    ],
)
async def test_what_it_costs_does_not_grow_with_the_calls_of_subgraphs(
    dsn: str, verb: Callable[[Durable], Awaitable[None]], walks: int
) -> None:
    """A resumption walks the thread's entries of checkpoints_pkey, whatever Postgres knows of the
    tables. So does a fork, which looks for the memory of subgraphs by a part of the key: at rows,
    too, until a vacuum has seen them.
    """
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

        async def write(*statements: str) -> None:
            async with await psycopg.AsyncConnection.connect(dsn, autocommit=True) as writer:
                for statement in statements:
                    await writer.execute(
                        statement.encode(), {"age": AGE} if "%" in statement else None
                    )

        async def once() -> int:
            before = await pages()
            async with Durable(dsn, graphs={"team": team()}) as durable:
                await verb(durable)
            return await pages() - before

        async def cost(most: int) -> int:
            """If it is more than `most`, the less of two: once a minute, which may be within what
            is counted, autovacuum reads what was written for the block range index.
            """
            found = await once()
            return found if found <= most else min(found, await once())

        for table in ("checkpoints", "checkpoint_blobs", "checkpoint_writes"):
            await reader.execute(f"ALTER TABLE {table} SET (autovacuum_enabled = off)".encode())
        async with Durable(dsn, graphs={"team": team()}) as durable:
            await turn(durable)
        await once()
        young = await once()
        await write(*OLDER)
        index = await one("SELECT pg_relation_size('checkpoints_pkey') / 8192")
        most = 2 * young + 100 + walks * index
        unknown = await cost(most)  # Postgres has not analysed what was written
        await write("VACUUM ANALYZE")
        while await one(UNSEEN) > 1:  # a snapshot of anybody's keeps pages from being marked
            await write("VACUUM ANALYZE")
        known = await cost(most)
        await write(AS_MANY)
        behind = await cost(most)  # the block range index knows nothing of what was written
        costs = {"unknown": unknown, "known": known, "behind": behind}
        for state in ("known",) if verb is fork else costs:
            assert costs[state] <= most, (state, young, costs, index)
