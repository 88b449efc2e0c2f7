"""A run goes on only on top of what the database still has of it."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import asyncpg
import pytest

from aiodurable import Durable, Settings, ThreadStatus
from aiodurable.checkpoints import AsyncCheckpointerPool, DurableSaver
from aiodurable.checkpoints.encoding import COMMIT_PROVING
from aiodurable.checkpoints.fences import Fence
from aiodurable.checkpoints.history import Mark
from aiodurable.checkpoints.write_session import WriteSession
from aiodurable.errors import HistoryLostError
from aiodurable.postgres.text_columns import over_texts
from tests.support.checkpoint_rows import checkpoint, config, rows
from tests.support.graphs import INPUT, STEPS, Gate, four_nodes, noted
from tests.support.internals import history_origin, services_of
from tests.support.waiting import is_held, wait_until


async def put(saver: DurableSaver, *, ns: str = "", value: Any = (1,)) -> str:
    made, versions = checkpoint(value=value)
    await saver.aput(config("t", ns=ns), made, {}, versions)  # pyright: ignore[reportArgumentType]
    return made["id"]


async def end_connections(db: asyncpg.Connection, *roles: str) -> None:
    """What a failover does to them."""
    patterns = [f"aiodurable:{role}%" for role in roles]
    await db.execute(
        "SELECT pg_terminate_backend(pid, 5000) FROM pg_stat_activity"
        " WHERE datname = current_database() AND application_name LIKE ANY ($1)",
        patterns,
    )


LOST = {
    "the root's checkpoint": "DELETE FROM checkpoints WHERE checkpoint_ns = ''",
    "a subgraph's checkpoint": "DELETE FROM checkpoints WHERE checkpoint_ns = 'inner:1'",
    "what a task wrote": "DELETE FROM checkpoint_writes",
}


async def write_three(saver: DurableSaver, last: str) -> None:
    """A checkpoint, one of a subgraph and a task's write; `last` comes last."""
    head = await put(saver)
    order = [name for name in LOST if name != last] + [last]
    for name in order:
        if name == "what a task wrote":
            await saver.aput_writes(config("t", head), [("a", 1), ("b", 2)], "task")
        else:
            head = await put(saver, ns="" if name == "the root's checkpoint" else "inner:1")


@pytest.mark.parametrize("lost", LOST)
async def test_a_write_through_a_new_connection_is_refused_where_the_newest_commit_is_gone(
    saver: DurableSaver, db: asyncpg.Connection, lease: Any, lost: str
) -> None:
    fence: Fence = await lease("t")
    await write_three(saver, lost)
    await db.execute(LOST[lost])
    await end_connections(db, "writer")
    before = await rows(db, "t")
    with pytest.raises(HistoryLostError, match="no longer has it") as refused:
        await put(saver)
    assert (refused.value.taken_over, fence.revoked) == (False, True)
    assert await rows(db, "t") == before
    with pytest.raises(HistoryLostError):  # and so is all that comes after it
        await put(saver)
    assert await rows(db, "t") == before


@pytest.mark.parametrize("last", LOST)
async def test_a_write_through_a_new_connection_goes_on_where_nothing_is_lost(
    saver: DurableSaver, db: asyncpg.Connection, lease: Any, last: str
) -> None:
    await lease("t")
    await write_three(saver, last)
    for _ in range(3):
        await end_connections(db, "writer")
        await put(saver)


async def test_a_lost_thread_does_not_fail_its_neighbours_of_the_same_batch(
    saver: DurableSaver, db: asyncpg.Connection, lease: Any
) -> None:
    async def put_to(thread_id: str) -> str:
        made, versions = checkpoint(value=[1])
        await saver.aput(config(thread_id), made, {}, versions)  # pyright: ignore[reportArgumentType]
        return made["id"]

    threads = [f"t{n}" for n in range(10)]
    for thread_id in threads:
        await lease(thread_id)
        await put_to(thread_id)
    await db.execute("DELETE FROM checkpoints WHERE thread_id IN ('t3', 't7')")
    await end_connections(db, "writer")
    results = await asyncio.gather(*map(put_to, threads), return_exceptions=True)
    lost = [isinstance(result, HistoryLostError) for result in results]
    assert [number for number, gone in enumerate(lost) if gone] == [3, 7]
    assert await db.fetchval("SELECT count(DISTINCT thread_id) FROM checkpoints") == 8


async def test_a_run_whose_row_in_the_ledger_is_gone_writes_nothing(
    saver: DurableSaver, db: asyncpg.Connection, lease: Any
) -> None:
    await lease("t")
    session = saver.sessions.of("t")
    assert session is not None
    session.history.acknowledge(Mark(run_id="r"), None, 0.0)
    with pytest.raises(HistoryLostError, match="the run in its ledger"):
        await put(saver)


async def test_what_was_acknowledged_is_proved_once_for_each_connection(
    saver: DurableSaver, db: asyncpg.Connection, lease: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The steady state pays nothing: the statement with the proof is sent after a reconnect
    alone.
    """
    from aiodurable.postgres.direct import DirectConnection

    proofs = 0
    fetch = DirectConnection.fetch

    async def counted(link: DirectConnection, query: str, *args: Any) -> Any:
        nonlocal proofs
        proofs += query == over_texts(COMMIT_PROVING)[0]
        return await fetch(link, query, *args)

    monkeypatch.setattr(DirectConnection, "fetch", counted)
    await lease("t")
    for _ in range(30):
        await put(saver)
    before = proofs
    assert before <= 2  # there are two writers, and each connects when it is first needed
    await end_connections(db, "writer")
    for _ in range(30):
        await put(saver)
    assert 1 <= proofs - before <= 2


# ---- whole runs ----------------------------------------------------------------------------------


@pytest.fixture
async def durable(dsn: str) -> AsyncIterator[Durable]:
    """One writer: the first batch of a second one, which a busy machine needs, proves the history,
    and does not end the run as well.
    """
    async with Durable(dsn, settings=Settings(checkpoint_connections=1)) as opened:
        yield opened


async def lose_newest_step(db: asyncpg.Connection) -> str:
    """The newest checkpoint and all that came after it."""
    [row] = await db.fetch(
        "DELETE FROM checkpoints WHERE checkpoint_id = (SELECT max(checkpoint_id) FROM checkpoints)"
        " RETURNING checkpoint_id"
    )
    await db.execute("DELETE FROM checkpoint_writes WHERE checkpoint_id = $1", row[0])
    return row[0]


@pytest.mark.parametrize("ended", ["writer", "lock"])
async def test_a_run_that_lost_its_newest_step_is_ended_and_resumed_from_what_there_is(
    durable: Durable, db: asyncpg.Connection, tmp_path: Path, ended: str
) -> None:
    log = tmp_path / "log"
    gate = Gate("weigh")

    async def body(gate: Any) -> Any:
        async with durable.run(
            "t", four_nodes(gate), config={"configurable": {"log": str(log)}}
        ) as run:
            return await run.ainvoke(INPUT)

    task = asyncio.create_task(body(gate))
    await gate.reached.wait()
    lost = await lose_newest_step(db)
    await end_connections(db, ended)
    if ended == "lock":
        await wait_until(lambda: is_held(durable, "t"))
        lease = services_of(durable).checkpoints.sessions.of("t")
        assert lease is not None
        await wait_until(lambda: history_origin(lease) is None, what="doubt about the history")
    gate.open.set()
    with pytest.raises(HistoryLostError) as refused:
        await task
    assert refused.value.checkpoint_id == lost
    assert await db.fetchval("SELECT count(*) FROM checkpoints WHERE checkpoint_id > $1", lost) == 0
    status = await durable.threads.status("t")
    assert status.status is ThreadStatus.CRASHED
    result = await body(None)
    assert result["words"] == list(STEPS)
    assert noted(log) == ["collect", "sort", "weigh", "weigh", "tell"]


async def test_an_end_that_the_database_does_not_have_is_not_recorded(
    durable: Durable, db: asyncpg.Connection, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The last checkpoint is lost between its acknowledgement and the end of the run."""
    check = AsyncCheckpointerPool.check_history

    async def after_a_failover(pool: AsyncCheckpointerPool, session: WriteSession) -> None:
        patched.undo()
        await lose_newest_step(db)
        await db.execute("UPDATE aiodurable_runs SET status = 'running'")  # of the same commit
        await end_connections(db, "runs", "writer")
        await wait_until(lambda: not pool.direct.origins, what="the end of the connections")
        await check(pool, session)

    with monkeypatch.context() as patched:
        patched.setattr(AsyncCheckpointerPool, "check_history", after_a_failover)
        # as where the connections have ended before the run asks
        patched.setattr(AsyncCheckpointerPool, "has_history", lambda *_: False)
        with pytest.raises(HistoryLostError):
            async with durable.run("t", four_nodes()) as run:
                await run.ainvoke(INPUT)
    assert await db.fetchval("SELECT status FROM aiodurable_runs") == "running"
    assert (await durable.threads.status("t")).status is ThreadStatus.CRASHED
    async with durable.run("t", four_nodes()) as run:
        assert (await run.ainvoke())["words"] == list(STEPS)
    assert await db.fetchval("SELECT status FROM aiodurable_runs") == "complete"
