"""A thread of a thousand checkpoints of subgraphs costs a statement as often as a short one, and
reads in proportion.
"""

from __future__ import annotations

import operator
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Annotated, Any, TypedDict

import psycopg
import pytest
from langgraph.checkpoint.postgres.aio import AsyncPostgresSaver
from langgraph.graph import END, START, StateGraph

from aiodurable.checkpoints.repair import repair_tasks
from aiodurable.durable import Durable
from aiodurable.postgres.sql import literal, load
from aiodurable.settings import Settings
from tests.support.explain import rows
from tests.support.internals import services_of
from tests.support.proxy import Proxy, proxy

FIRST, SHORT, LONG = 1, 10, 250
"""Calls of a subgraph in the thread's newest step; each leaves four checkpoints."""
MORE_CALLS = (
    """INSERT INTO checkpoints (thread_id, checkpoint_ns, checkpoint_id, parent_checkpoint_id, checkpoint, metadata)
    SELECT thread_id, checkpoint_ns || n, checkpoint_id, parent_checkpoint_id, checkpoint, metadata
    FROM checkpoints, generate_series(2, %s) n WHERE thread_id = %s AND checkpoint_ns > ''""",
    """INSERT INTO checkpoint_writes (thread_id, checkpoint_ns, checkpoint_id, task_id, idx, channel, type, blob, task_path)
    SELECT thread_id, checkpoint_ns || n, checkpoint_id, task_id, idx, channel, type, blob, task_path
    FROM checkpoint_writes, generate_series(2, %s) n WHERE thread_id = %s AND checkpoint_ns > ''""",
    """INSERT INTO checkpoint_blobs SELECT thread_id, checkpoint_ns || n, channel, version, type, blob
    FROM checkpoint_blobs, generate_series(2, %s) n WHERE thread_id = %s AND checkpoint_ns > ''""",
)


class State(TypedDict, total=False):
    xs: Annotated[list[int], operator.add]


def one(state: State) -> State:
    return {"xs": [1]}


def raises(state: State) -> str:
    raise ValueError("no way on")


@pytest.fixture
async def wire(dsn: str) -> AsyncIterator[Proxy]:
    """To a database with three threads, one of them long: failed, with their output stored, as
    plain LangGraph does it.
    """
    inner = StateGraph(State).add_sequence([("a", one), ("b", one)]).add_edge(START, "a").compile()
    graph = (
        StateGraph(State)
        .add_node("call", inner)
        .add_edge(START, "call")
        .add_conditional_edges("call", raises, [END])
    )
    async with AsyncPostgresSaver.from_conn_string(dsn) as saver:
        for calls in (FIRST, SHORT, LONG):
            thread_id = f"calls-{calls}"
            with pytest.raises(ValueError, match="no way on"):
                config: Any = {"configurable": {"thread_id": thread_id}}
                await graph.compile(saver).ainvoke({"xs": []}, config, durability="sync")
            for statement in MORE_CALLS:
                await saver.conn.execute(statement, (calls, thread_id))  # pyright: ignore[reportAttributeAccessIssue]
    async with proxy(dsn) as wire:
        yield wire


async def test_as_much_is_sent_for_a_long_thread_as_for_a_short_one(wire: Proxy) -> None:
    async with Durable(wire.dsn, settings=Settings(pool_max_size=1)) as durable:
        services = services_of(durable)
        saver = services.checkpoints.get_checkpointer()

        async def repaired(thread_id: str) -> None:
            async with durable.hold(thread_id) as lease:
                tasks, _ = await repair_tasks(services.checkpoints.database, lease.session)
                assert tasks

        async def steps(thread_id: str) -> None:
            assert len([step async for step in durable.threads.history(thread_id)]) == 2

        verbs: list[Callable[[str], Awaitable[Any]]] = [
            durable.threads.status,
            steps,
            durable.threads.fork,
            lambda thread_id: durable.threads.fork(thread_id, before="call"),
            lambda thread_id: saver.acopy_thread(thread_id, f"{thread_id}-copied"),
            repaired,
            saver.adelete_thread,
        ]
        for verb in verbs:
            sent = list[int]()
            for calls in (FIRST, SHORT, LONG):
                before = wire.sent
                await verb(f"calls-{calls}")
                sent.append(wire.sent - before)
            _, short, long = sent  # what is prepared was sent for the first
            assert long <= short + 1000


@pytest.mark.parametrize("block", ["copy_checkpoint", "repair"])
async def test_what_is_read_and_compared_grows_with_the_thread_and_no_faster(
    wire: Proxy, dsn: str, block: str
) -> None:
    statement = {**load("copy"), **load("checkpoints")}[block]
    with psycopg.connect(dsn, autocommit=True) as connection:
        pid = connection.info.backend_pid
        connection.execute(literal(load("direct")["by_index"], pid, "auto", "20s").encode())
        connection.execute(f"PREPARE it AS {statement}".encode())

        def read(calls: int) -> float:
            head = connection.execute(
                "SELECT max(checkpoint_id) FROM checkpoints WHERE thread_id = %s AND checkpoint_ns"
                " = ''",
                (f"calls-{calls}",),
            ).fetchone()
            assert head is not None
            arguments = (
                f"'calls-{calls}', 1, 1"
                if block == "repair"
                else f"'calls-{calls}', 'copy', '{head[0]}', true"
            )
            with connection.transaction(force_rollback=True):
                plan = connection.execute(
                    f"EXPLAIN (ANALYZE, FORMAT json) EXECUTE it ({arguments})".encode()
                ).fetchone()
            assert plan is not None
            return rows(plan[0][0]["Plan"])

        short, long = read(SHORT), read(LONG)
    assert long / short <= LONG / SHORT * 1.5


async def test_a_page_that_follows_a_thread_reads_a_bounded_number_of_its_subgraphs(
    wire: Proxy, dsn: str
) -> None:
    """It asks each second, and a step can have called thousands."""
    statement = load("checkpoints")["inner_progress"]
    with psycopg.connect(dsn, autocommit=True) as connection:
        connection.execute("SET enable_seqscan = off")
        connection.execute(f"PREPARE it AS {statement}".encode())

        def read(most: int) -> float:
            explain = f"EXPLAIN (ANALYZE, FORMAT json) EXECUTE it ('calls-{LONG}', '{{}}', {most})"
            plan = connection.execute(explain.encode()).fetchone()
            assert plan is not None
            return rows(plan[0][0]["Plan"])

        few, all_of_them = read(20), read(10 * LONG)
    assert few < all_of_them / 4
    assert all_of_them > LONG * 2
