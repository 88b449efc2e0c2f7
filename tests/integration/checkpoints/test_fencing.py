"""A write needs its thread's newest token; without it, it changes nothing."""

import asyncio
from collections.abc import Awaitable
from typing import Any

import asyncpg
import pytest
from langgraph.graph import START, StateGraph

from aiodurable.checkpoints import AsyncCheckpointerPool, DurableSaver, fences
from aiodurable.checkpoints.copy import create_thread
from aiodurable.checkpoints.fences import Fence
from aiodurable.checkpoints.repair import repair_tasks
from aiodurable.checkpoints.write_session import SESSION_KEY, WriteSession
from aiodurable.errors import (
    HistoryLostError,
    LeaseLostError,
    WorkflowAlreadyRunningError,
    WorkflowExecutionError,
)
from aiodurable.lock_keys import lock_key
from tests.support.checkpoint_rows import (
    State,
    checkpoint,
    config,
    linear,
    rows,
    step,
    under,
    write_in_flight,
)
from tests.support.internals import committer_of
from tests.support.waiting import wait_until


async def put(
    saver: DurableSaver, thread_id: str, fence: Fence | None = None, **values: Any
) -> str:
    made, versions = checkpoint(**values)
    cfg = config(thread_id)
    if fence is not None:
        cfg["configurable"][SESSION_KEY] = WriteSession(fence)  # pyright: ignore[reportTypedDictNotRequiredAccess]
    await saver.aput(cfg, made, {}, versions)  # pyright: ignore[reportArgumentType]
    return made["id"]


async def test_a_stale_writer_changes_nothing_and_learns_that_its_lease_is_lost(
    pool: AsyncCheckpointerPool, saver: DurableSaver, db: asyncpg.Connection, lease: Any
) -> None:
    old = await lease("t")
    head = await put(saver, "t", value=[1])
    before = await rows(db, "t")
    await pool.bump("t")

    with pytest.raises(LeaseLostError, match="at token 2 now"):
        await put(saver, "t", value=[2])
    assert old.revoked
    with pytest.raises(LeaseLostError):
        await saver.aput_writes(config("t", head), [("a", 1)], "task")
    assert await rows(db, "t") == before


async def test_a_revoked_fence_sends_nothing_although_its_token_still_stands(
    saver: DurableSaver, db: asyncpg.Connection, lease: Any
) -> None:
    fence = await lease("t")
    fence.revoke()
    with pytest.raises(LeaseLostError, match="given up the lease"):
        await put(saver, "t", value=[1])
    assert not (await rows(db, "t"))["checkpoints"]


async def test_the_fence_in_the_config_counts_before_the_one_this_process_holds(
    pool: AsyncCheckpointerPool, saver: DurableSaver, lease: Any
) -> None:
    zombie = await pool.new_fence("t")
    await lease("t")
    await put(saver, "t", value=[1])
    with pytest.raises(LeaseLostError):
        await put(saver, "t", zombie, value=[2])
    assert zombie.revoked
    await put(saver, "t", value=[3])


async def test_two_leases_of_one_thread_in_one_batch_stay_apart(
    pool: AsyncCheckpointerPool, saver: DurableSaver, db: asyncpg.Connection
) -> None:
    old = await pool.new_fence("t")
    new = await pool.new_fence("t")
    done = await asyncio.gather(
        *(put(saver, "t", fence, value=[n]) for n in range(10) for fence in (old, new)),
        return_exceptions=True,
    )
    assert all(isinstance(result, LeaseLostError) for result in done[::2])
    assert sorted(done[1::2]) == [row[2] for row in (await rows(db, "t"))["checkpoints"]]  # pyright: ignore[reportArgumentType]


@pytest.mark.parametrize("first", [True, False], ids=["alone", "with others"])
async def test_every_bump_waits_for_the_disk_although_the_database_does_not(
    dsn: str, db: asyncpg.Connection, first: bool
) -> None:
    """A token that a crash undoes would be given out twice."""
    name = await db.fetchval("SELECT current_database()")
    await db.execute(f"ALTER DATABASE {name} SET synchronous_commit = off")
    await db.execute("CREATE TABLE seen (synchronous_commit text)")
    await db.execute(
        "CREATE FUNCTION note() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN"
        " INSERT INTO seen VALUES (current_setting('synchronous_commit')); RETURN NULL; END $$"
    )
    await db.execute(
        "CREATE TRIGGER note AFTER INSERT OR UPDATE ON aiodurable_fences FOR EACH ROW EXECUTE"
        " FUNCTION note()"
    )
    async with AsyncCheckpointerPool(dsn) as pool:
        if first:
            await asyncio.gather(*(pool.bump(f"t{n}") for n in range(3)))
            await pool.bump("t1")
        else:
            await fences.bump(pool.database, "t")
            await fences.bump(pool.database, "t")
        assert await pool.direct.fetch(
            "SELECT 1 WHERE current_setting('synchronous_commit') = 'off'"
        )
    assert [row[0] for row in await db.fetch("SELECT * FROM seen")] == ["on"] * (4 if first else 2)


UNDONE = {
    "by a crash": "UPDATE aiodurable_fences SET token = token - 1, lease_id = 0",
    "with its row": "DELETE FROM aiodurable_fences",
}


@pytest.mark.parametrize("undone", UNDONE)
async def test_a_token_that_is_given_out_twice_lets_only_its_newest_lease_in(
    pool: AsyncCheckpointerPool, saver: DurableSaver, db: asyncpg.Connection, undone: str
) -> None:
    old = await pool.new_fence("t")
    await put(saver, "t", old, value=[1])
    await db.execute(UNDONE[undone])
    new = await pool.new_fence("t")
    assert new.token == old.token
    before = await rows(db, "t")
    with pytest.raises(LeaseLostError) as lost:
        await put(saver, "t", old, value=[2])
    assert (lost.value.taken_over, old.revoked) == (True, True)
    assert await rows(db, "t") == before
    await put(saver, "t", new, value=[3])


async def test_neither_healing_nor_a_fork_nor_a_removal_goes_by_the_token_alone(
    pool: AsyncCheckpointerPool, saver: DurableSaver, db: asyncpg.Connection
) -> None:
    async def fork(fence: Fence) -> None:
        async with create_thread(pool.database, fence, serde=saver.serde):
            pytest.fail("entered")

    async def remove(fence: Fence) -> None:
        await saver.aprune(["t"], strategy="delete", config=under(fence))

    async def repair(fence: Fence) -> None:
        await repair_tasks(pool.database, WriteSession(fence))

    for act in (repair, fork, remove):
        old = await pool.new_fence("t")
        await db.execute("UPDATE aiodurable_fences SET lease_id = lease_id + 1")
        with pytest.raises(LeaseLostError, match=f"at token {old.token} now"):
            await act(old)


async def test_a_token_lower_than_ours_says_that_the_database_has_lost_commits(
    pool: AsyncCheckpointerPool, saver: DurableSaver, db: asyncpg.Connection
) -> None:
    await pool.new_fence("t")
    fence = await pool.new_fence("t")
    await db.execute(UNDONE["by a crash"])
    with pytest.raises(HistoryLostError, match="back at token 1"):
        await put(saver, "t", fence, value=[1])


async def test_a_fence_of_another_thread_in_the_config_is_not_applied(
    pool: AsyncCheckpointerPool, saver: DurableSaver, db: asyncpg.Connection
) -> None:
    """A graph run inside a node on a thread of its own inherits the outer configurable."""
    outer = await pool.new_fence("outer")
    await pool.bump("outer")
    await put(saver, "inner", outer, value=[1])
    assert (await rows(db, "inner"))["checkpoints"]


async def test_a_dropped_fence_leaves_the_thread_to_the_stock_rules(
    pool: AsyncCheckpointerPool, saver: DurableSaver, lease: Any
) -> None:
    fence = await lease("t")
    await pool.bump("t")
    saver.sessions.drop(fence)
    await put(saver, "t", value=[1])


async def test_dropping_an_old_fence_keeps_the_newer_one(saver: DurableSaver, lease: Any) -> None:
    old = await lease("t")
    new = await lease("t")
    saver.sessions.hold(WriteSession(old))
    saver.sessions.drop(old)
    held = saver.sessions.of("t")
    assert held is not None
    assert held.fence is new


async def test_a_bump_waits_for_writes_in_flight_and_later_ones_are_refused(
    pool: AsyncCheckpointerPool, saver: DurableSaver, db: asyncpg.Connection, lease: Any
) -> None:
    """In flight: the product's own statement, and no commit yet."""
    fence = await lease("t")
    in_flight = db.transaction()
    await in_flight.start()
    assert await write_in_flight(db, fence) == ["t"]
    bump = asyncio.create_task(pool.bump("t"))
    await put(saver, "t", value=[1])
    assert not bump.done()
    await in_flight.commit()
    assert await bump == 2
    with pytest.raises(LeaseLostError):
        await put(saver, "t", value=[2])


async def test_tokens_grow_by_one_under_concurrent_bumps(pool: AsyncCheckpointerPool) -> None:
    tokens = await asyncio.gather(*(pool.bump("t") for _ in range(30)))
    assert sorted(tokens) == list(range(1, 31))
    assert await pool.token("t") == 30
    assert await pool.token("never leased") is None


async def test_a_checkpoint_that_would_sort_before_its_parent_is_refused_on_a_leased_thread(
    saver: DurableSaver, db: asyncpg.Connection, lease: Any
) -> None:
    await lease("t")
    made, versions = checkpoint(value=[1])
    ahead = "ffffffff-ffff-6fff-bfff-ffffffffffff"
    with pytest.raises(WorkflowExecutionError, match="clock"):
        await saver.aput(config("t", ahead), made, {}, versions)  # pyright: ignore[reportArgumentType]
    assert not (await rows(db, "t"))["checkpoints"]
    await saver.aput(config("unleased", ahead), made, {}, versions)  # pyright: ignore[reportArgumentType]


async def test_a_failing_router_does_not_poison_a_leased_thread(
    saver: DurableSaver, lease: Any
) -> None:
    """langgraph#8834: the node's output beside __error__ makes the task look finished, and resume
    skips the rest.
    """
    healthy = False

    def router(state: State) -> str:
        if not healthy:
            raise ValueError("router")
        return "after"

    builder = StateGraph(State)
    builder.add_node("before", step("before"))
    builder.add_node("after", step("after"))
    builder.add_edge(START, "before")
    builder.add_conditional_edges("before", router, ["after"])
    graph = builder.compile(saver)
    await lease("t")
    with pytest.raises(ValueError, match="router"):
        await graph.ainvoke({"topic": "tides"}, config("t"), durability="sync")
    healthy = True
    assert (await graph.ainvoke(None, config("t"), durability="sync"))["seen"] == [
        "before",
        "after",
    ]


async def test_a_whole_graph_of_a_zombie_writes_nothing_after_the_bump(
    pool: AsyncCheckpointerPool, saver: DurableSaver, db: asyncpg.Connection, lease: Any
) -> None:
    reached, go_on = asyncio.Event(), asyncio.Event()

    async def wait(state: State) -> State:
        reached.set()
        await go_on.wait()
        return {"seen": ["zombie"]}

    builder = linear(2)
    builder.add_node("wait", wait)
    builder.add_edge("step2", "wait")
    graph = builder.compile(saver)
    await lease("t")
    zombie = asyncio.create_task(graph.ainvoke({"topic": "tides"}, config("t"), durability="sync"))
    await reached.wait()
    before = await rows(db, "t")
    await pool.bump("t")
    go_on.set()
    with pytest.raises(LeaseLostError):
        await zombie
    assert await rows(db, "t") == before


async def test_deleting_and_pruning_a_thread_leased_by_somebody_else_is_refused(
    saver: DurableSaver, db: asyncpg.Connection
) -> None:
    await put(saver, "t", value=[1])
    await db.execute("SELECT pg_advisory_lock($1)", lock_key("t", "aiodurable"))
    before = await rows(db, "t")
    with pytest.raises(WorkflowAlreadyRunningError):
        await saver.adelete_thread("t")
    with pytest.raises(WorkflowAlreadyRunningError):
        await saver.aprune(["t"])
    with pytest.raises(WorkflowAlreadyRunningError):
        await saver.acopy_thread("t", "t")
    assert await rows(db, "t") == before
    await db.execute("SELECT pg_advisory_unlock_all()")
    await saver.adelete_thread("t")
    assert not any((await rows(db, "t")).values())


async def test_deleting_and_pruning_under_a_stale_fence_is_refused(
    pool: AsyncCheckpointerPool, saver: DurableSaver, db: asyncpg.Connection, lease: Any
) -> None:
    def delete(fence: Fence) -> Awaitable[None]:
        return saver.adelete_thread("t", config=under(fence))

    def prune(_: Fence) -> Awaitable[None]:
        return saver.aprune(["t"])

    for remove in (delete, prune):
        fence = await lease("t")
        await put(saver, "t", value=[1])
        before = await rows(db, "t")
        await pool.bump("t")
        with pytest.raises(LeaseLostError):
            await remove(fence)
        assert await rows(db, "t") == before


async def test_a_fence_row_that_a_dead_client_left_locked_delays_its_own_thread_only(
    saver: DurableSaver, db: asyncpg.Connection, lease: Any
) -> None:
    await lease("stuck")
    await lease("free")
    left = db.transaction()
    await left.start()
    await db.execute("SELECT token FROM aiodurable_fences WHERE thread_id = 'stuck' FOR UPDATE")
    stuck = asyncio.gather(*(put(saver, "stuck", value=[n]) for n in range(3)))
    await asyncio.gather(*(put(saver, "free", value=[n]) for n in range(20)))
    assert not stuck.done()
    await left.rollback()
    assert len(await stuck) == 3
    await wait_until(lambda: not committer_of(saver).backlog.load.under_way)
