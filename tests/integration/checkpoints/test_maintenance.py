"""Deleting, pruning and copying: whole, never under a run, and never what another checkpoint hangs
on.
"""

import asyncio
import operator
from typing import Annotated, Any, TypedDict

import asyncpg
import pytest
from langgraph.channels import DeltaChannel
from langgraph.graph import START, StateGraph

from aiodurable.checkpoints import AsyncCheckpointerPool, DurableSaver
from aiodurable.checkpoints.write_session import WriteSession
from aiodurable.errors import (
    LeaseLostError,
    ThreadNotFoundError,
    WorkflowAlreadyRunningError,
    WorkflowExecutionError,
)
from tests.support.checkpoint_rows import config, linear, rows, under
from tests.support.lock_view import WAITING
from tests.support.waiting import wait_until

SLOW_DELETION = """
CREATE FUNCTION wait_for_the_test() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    WHILE NOT pg_try_advisory_xact_lock(1) LOOP
        PERFORM pg_sleep(0.01);
    END LOOP;
    RETURN NULL;
END $$;
CREATE TRIGGER slow AFTER DELETE ON checkpoints
FOR EACH STATEMENT EXECUTE FUNCTION wait_for_the_test();
"""
DELETES = "SELECT count(*) FROM pg_stat_activity WHERE wait_event = 'PgSleep'"


class Log(TypedDict, total=False):
    lines: Annotated[
        list[str],
        DeltaChannel(lambda lines, writes: [*lines, *(line for write in writes for line in write)]),
    ]
    total: Annotated[int, operator.add]


def deltas(steps: int = 3) -> StateGraph:
    def node(name: str) -> Any:
        async def step(state: Log) -> Any:
            return {"lines": [name], "total": 1}

        return step

    builder = StateGraph(Log)
    names = [f"step{n}" for n in range(steps)]
    builder.add_sequence([(name, node(name)) for name in names])
    builder.add_edge(START, names[0])
    return builder


def run_config(thread: str, run_id: str) -> Any:
    return {**config(thread), "metadata": {"run_id": run_id}}


async def test_a_delta_channel_is_rebuilt_from_a_leased_threads_history(
    saver: DurableSaver, lease: Any
) -> None:
    await lease("t")
    graph = deltas().compile(saver)
    await graph.ainvoke({"lines": ["start"]}, config("t"), durability="sync")
    assert (await graph.aget_state(config("t"))).values["lines"] == [
        "start",
        "step0",
        "step1",
        "step2",
    ]
    await graph.ainvoke({"lines": ["again"]}, config("t"), durability="sync")
    assert (await graph.aget_state(config("t"))).values["lines"][4:] == [
        "again",
        "step0",
        "step1",
        "step2",
    ]


async def test_pruning_keeps_the_newest_state_and_refuses_what_hangs_on_its_history(
    saver: DurableSaver, db: asyncpg.Connection, lease: Any
) -> None:
    fences = [await lease("plain"), await lease("delta")]
    plain, delta = linear(3).compile(saver), deltas().compile(saver)
    await plain.ainvoke({"topic": "tides"}, config("plain"))
    await delta.ainvoke({"lines": ["start"]}, config("delta"))
    state = (await plain.aget_state(config("plain"))).values
    with pytest.raises(NotImplementedError, match="delta"):
        await saver.aprune(["plain", "delta"])
    await saver.aprune(["plain"])
    assert len((await rows(db, "plain"))["checkpoints"]) == 1
    assert (await plain.aget_state(config("plain"))).values == state
    with pytest.raises(WorkflowAlreadyRunningError, match="plain"):
        await saver.aprune(["plain", "delta"], strategy="delete")
    for fence in fences:
        await saver.aprune([fence.thread_id], strategy="delete", config=under(fence))
    assert not any((*(await rows(db, "plain")).values(), *(await rows(db, "delta")).values()))
    with pytest.raises(TypeError):
        await saver.aprune("plain")
    with pytest.raises(ValueError, match="keep_latest"):
        await saver.aprune(["plain"], strategy="half")


async def test_pruning_beside_a_running_graph_loses_nothing_of_it(
    saver: DurableSaver, lease: Any
) -> None:
    await lease("t")
    graph = linear(8).compile(saver)
    running = asyncio.create_task(graph.ainvoke({"topic": "tides"}, config("t"), durability="sync"))
    while not running.done():
        await saver.aprune(["t"])
    assert (await running)["total"] == 8
    assert (await graph.aget_state(config("t"))).values["total"] == 8


async def test_a_deleted_thread_keeps_its_fence_so_that_a_zombie_stays_out(
    pool: AsyncCheckpointerPool, saver: DurableSaver, db: asyncpg.Connection, lease: Any
) -> None:
    zombie = await lease("t")
    graph = linear(1).compile(saver)
    await graph.ainvoke({"topic": "tides"}, config("t"))
    saver.sessions.drop(zombie)
    await pool.bump("t")
    await saver.adelete_thread("t")
    assert await pool.token("t") == 3
    saver.sessions.hold(WriteSession(zombie))
    with pytest.raises(LeaseLostError):
        await graph.ainvoke({"topic": "tides"}, config("t"))
    assert not any((await rows(db, "t")).values())


async def test_no_lease_begins_while_a_thread_is_being_deleted(
    pool: AsyncCheckpointerPool, saver: DurableSaver, db: asyncpg.Connection, lease: Any
) -> None:
    """The deletion locks the fence row until its commit: a run that starts then finds an empty
    thread.
    """
    saver.sessions.drop(await lease("t"))
    await linear(1).compile(saver).ainvoke({"topic": "tides"}, config("t"))
    await db.execute(SLOW_DELETION)
    await db.fetchval("SELECT pg_advisory_lock(1)")
    deletion = asyncio.create_task(saver.adelete_thread("t"))
    await wait_until(lambda: db.fetchval(DELETES), what="the deletion")
    bump = asyncio.create_task(pool.bump("t"))
    await wait_until(lambda: db.fetchval(WAITING), what="the lease in line")
    await db.fetchval("SELECT pg_advisory_unlock(1)")
    await deletion
    assert await bump == 3
    assert await saver.aget_tuple(config("t")) is None


async def test_a_copy_is_a_thread_of_its_own(saver: DurableSaver, db: asyncpg.Connection) -> None:
    for graph, start in (
        (linear(2).compile(saver), {"topic": "tides"}),
        (deltas().compile(saver), {"lines": ["start"]}),
    ):
        await graph.ainvoke(start, config("t"))
        await saver.acopy_thread("t", "copy")
        assert await rows(db, "copy", renamed="x") == await rows(db, "t", renamed="x")
        assert (await graph.aget_state(config("copy"))).values == (
            await graph.aget_state(config("t"))
        ).values
        await graph.ainvoke(start, config("copy"))
        assert (await rows(db, "copy", renamed="x")) != (await rows(db, "t", renamed="x"))
        with pytest.raises(WorkflowExecutionError, match="already"):
            await saver.acopy_thread("t", "copy")
        await saver.aprune(["copy", "t"], strategy="delete")
    with pytest.raises(ThreadNotFoundError):
        await saver.acopy_thread("nowhere", "copy")


async def test_deleting_the_newest_run_rolls_the_thread_back(
    saver: DurableSaver, db: asyncpg.Connection, lease: Any
) -> None:
    fence = await lease("t")
    graph = deltas().compile(saver)
    await graph.ainvoke({"lines": ["start"]}, run_config("t", "run1"))
    before = await rows(db, "t")
    await graph.ainvoke({"lines": ["again"]}, run_config("t", "run2"))
    await saver.adelete_for_runs(["run2"], config=under(fence))
    after = await rows(db, "t")
    assert after["checkpoints"] == before["checkpoints"]
    assert after["checkpoint_blobs"] == before["checkpoint_blobs"]
    assert (await graph.aget_state(config("t"))).values["lines"] == [
        "start",
        "step0",
        "step1",
        "step2",
    ]


async def test_a_run_that_a_later_delta_hangs_on_is_not_deleted(
    saver: DurableSaver, db: asyncpg.Connection, lease: Any
) -> None:
    fence = await lease("t")
    graph = deltas().compile(saver)
    await graph.ainvoke({"lines": ["start"]}, run_config("t", "run1"))
    await graph.ainvoke({"lines": ["again"]}, run_config("t", "run2"))
    before = await rows(db, "t")
    with pytest.raises(NotImplementedError):
        await saver.adelete_for_runs(["run1"], config=under(fence))
    assert await rows(db, "t") == before
    await saver.adelete_for_runs(["run1", "run2"], config=under(fence))
    assert not (await rows(db, "t"))["checkpoints"]


async def test_an_earlier_run_of_a_plain_thread_goes_and_the_state_stays(
    saver: DurableSaver, db: asyncpg.Connection, lease: Any
) -> None:
    fence = await lease("t")
    graph = linear(2).compile(saver)
    await graph.ainvoke({"topic": "one"}, run_config("t", "run1"))
    await graph.ainvoke({"topic": "two"}, run_config("t", "run2"))
    await graph.ainvoke({"topic": "other"}, config("u"))
    state, other = await graph.aget_state(config("t")), await rows(db, "u")
    await saver.adelete_for_runs(["run1"], config=under(fence))
    assert (await graph.aget_state(config("t"))).values == state.values
    assert await rows(db, "u") == other
    known = {row[2] for row in (await rows(db, "t"))["checkpoints"]}
    assert all(row[3] is None or row[3] in known for row in (await rows(db, "t"))["checkpoints"])
    assert all(row[2] in known for row in (await rows(db, "t"))["checkpoint_writes"])
