"""A thread that is deleted is gone: nothing of it is stored, found or resumed, and no holder of it
writes on.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from datetime import timedelta
from pathlib import Path
from typing import Any

import psycopg
import pytest
from langgraph.checkpoint.postgres.aio import AsyncPostgresSaver
from psycopg.conninfo import conninfo_to_dict

from aiodurable import (
    Durable,
    InvalidArgumentError,
    LeaseLostError,
    PruneReport,
    Settings,
    ThreadNotFoundError,
    ThreadStatus,
    WorkflowAlreadyRunningError,
    WorkflowExecutionError,
)
from aiodurable.checkpoints.fences import Fence
from aiodurable.checkpoints.write_session import WriteSession
from tests.support.graphs import STEPS, Gate, four_nodes, noted
from tests.support.internals import services_of
from tests.support.proxy import proxy
from tests.support.waiting import wait_until, within

INPUT: dict[str, Any] = {"words": ["secret"], "told": ""}
TABLES = ("checkpoints", "checkpoint_writes", "checkpoint_blobs", "aiodurable_runs")
NOW = timedelta(0)

Removal = Callable[[Durable], Awaitable[Any]]

REMOVALS: dict[str, Removal] = {
    "delete": lambda durable: durable.threads.delete("t"),
    "adelete_thread": lambda durable: durable.checkpointer.adelete_thread("t"),
    "aprune": lambda durable: durable.checkpointer.aprune(["t"], strategy="delete"),
    "adelete_for_runs": lambda durable: durable.checkpointer.adelete_for_runs(["r"]),
    "prune": lambda durable: durable.threads.prune(
        strategy="delete", older_than=NOW, status=["failed", "crashed", "complete"]
    ),
}


@pytest.fixture(params=REMOVALS)
def remove(request: pytest.FixtureRequest) -> Removal:
    """Each way in which a thread `t`, whose only run is `r`, is removed."""
    return REMOVALS[request.param]


async def stored(dsn: str, thread_id: str = "t") -> dict[str, int]:
    """Rows of the thread, by table."""
    async with await psycopg.AsyncConnection.connect(dsn) as connection:
        counts: dict[str, int] = {}
        for table in TABLES:
            query = f"SELECT count(*) FROM {table} WHERE thread_id = %s"
            row = await (await connection.execute(query.encode(), (thread_id,))).fetchone()
            assert row is not None
            counts[table] = row[0]
    return {table: count for table, count in counts.items() if count}


async def fences(dsn: str) -> list[tuple[str, int]]:
    async with await psycopg.AsyncConnection.connect(dsn) as connection:
        found = await connection.execute(
            "SELECT thread_id, token FROM aiodurable_fences ORDER BY thread_id"
        )
        return await found.fetchall()


class Broken(Exception):
    pass


async def fail(step: str) -> None:
    if step == "sort":
        raise Broken


async def failed(durable: Durable, log: Path) -> None:
    config: Any = {"configurable": {"log": str(log)}}
    with pytest.raises(Broken):
        async with durable.run("t", four_nodes(fail), run_id="r", config=config) as run:
            await run.ainvoke(INPUT)


async def test_of_a_deleted_thread_nothing_is_stored_found_or_resumed(
    dsn: str, durable: Durable, remove: Removal, log: Path
) -> None:
    await failed(durable, log)
    await remove(durable)
    assert await stored(dsn) == {}
    assert (await durable.threads.status("t")).status is ThreadStatus.NEW
    assert [found async for found in durable.threads.search()] == []
    with pytest.raises(ThreadNotFoundError):
        await durable.threads.resume("t", four_nodes())
    assert noted(log) == ["collect", "sort"]


async def test_a_run_that_no_checkpoint_has_consumed_is_deleted_too(
    dsn: str, durable: Durable
) -> None:
    """Accepted, and its process died at once: only the ledger knows of it."""
    async with await psycopg.AsyncConnection.connect(dsn) as connection:
        insert = """INSERT INTO aiodurable_runs (run_id, thread_id, lock_key, fencing_token, status,
        input_type, input)
                    VALUES ('r', 't', 0, 1, 'running', 'msgpack', 'x')"""
        await connection.execute(insert)
    for how in ("adelete_for_runs", "delete"):
        await REMOVALS[how](durable)
        assert await stored(dsn) == {}


async def test_deleting_says_whether_there_was_anything_and_leaves_no_fence_of_an_unknown_thread(
    dsn: str, durable: Durable, log: Path
) -> None:
    assert await durable.threads.delete("t") is False
    assert await fences(dsn) == []
    await failed(durable, log)
    assert await durable.threads.delete("t") is True
    assert await durable.threads.delete("t") is False


async def test_a_thread_that_runs_is_not_deleted_by_its_own_process_nor_by_another(
    dsn: str, durable: Durable, remove: Removal
) -> None:
    gate = Gate("weigh")

    async def body() -> Any:
        async with durable.run("t", four_nodes(gate), run_id="r") as run:
            return await run.ainvoke(INPUT)

    running = asyncio.create_task(body())
    await gate.reached.wait()
    before = await stored(dsn)
    async with Durable(dsn) as other:
        for who in (durable, other):
            if remove is REMOVALS["prune"]:
                assert (await remove(who)).threads == 0
            else:
                with pytest.raises(WorkflowAlreadyRunningError) as refused:
                    await remove(who)
                assert refused.value.thread_id == "t"
    assert await stored(dsn) == before
    gate.open.set()
    assert (await running)["words"] == ["secret", *STEPS]


async def test_a_deletion_that_has_returned_is_on_disk_whatever_the_database_waits_for(
    dsn: str, log: Path
) -> None:
    async with await psycopg.AsyncConnection.connect(dsn, autocommit=True) as connection:
        note = """
            CREATE TABLE waited (setting text);
            CREATE FUNCTION note() RETURNS trigger LANGUAGE plpgsql AS $$
            BEGIN
                INSERT INTO waited SELECT current_setting('synchronous_commit');
                RETURN NULL;
            END $$;
            CREATE TRIGGER note AFTER DELETE ON aiodurable_runs EXECUTE FUNCTION note();
            DO $$ BEGIN
                EXECUTE format('ALTER DATABASE %I SET synchronous_commit = off', current_database());
            END $$"""
        await connection.execute(note.encode())
        async with Durable(dsn) as durable:
            await failed(durable, log)
            await durable.threads.delete("t")
        waited = await (await connection.execute("SELECT setting FROM waited")).fetchall()
    assert waited == [("on",)]


@pytest.mark.parametrize("by", ["delete", "adelete_thread", "aprune"])
async def test_a_run_that_passes_its_config_deletes_its_thread_and_ends_its_lease(
    dsn: str, durable: Durable, by: str
) -> None:
    saver = durable.checkpointer
    async with durable.run("t", four_nodes()) as run:
        await run.ainvoke(INPUT)
        match by:
            case "delete":
                assert await durable.threads.delete("t", config=run.config) is True
            case "adelete_thread":
                await saver.adelete_thread("t", config=run.config)
            case _:
                await saver.aprune(["t"], strategy="delete", config=run.config)
        with pytest.raises(LeaseLostError, match="deleted"):
            await run.ainvoke(INPUT)
    assert await stored(dsn) == {}


async def test_the_config_of_another_thread_opens_nothing(durable: Durable) -> None:
    async with durable.run("t", four_nodes()) as run, durable.run("other", four_nodes()) as other:
        await run.ainvoke(INPUT)
        with pytest.raises(WorkflowAlreadyRunningError):
            await durable.threads.delete("t", config=other.config)


@pytest.mark.parametrize("how", [*REMOVALS, "delete, and its fence"])
async def test_a_holder_that_takes_its_lost_lock_again_is_refused_once_its_thread_was_removed(
    dsn: str, how: str
) -> None:
    """Until it has the lock again nobody holds it, and its token is what it was. What it wrote last
    had only the
    channels that changed: going on, it would leave a thread with holes, and report success."""
    gate = Gate("weigh")
    async with (
        proxy(dsn) as way,
        Durable(way.dsn, settings=Settings(recovery_grace_s=60)) as holder,
    ):

        async def body() -> Any:
            async with holder.run("t", four_nodes(gate), run_id="r") as run:
                return await run.ainvoke(INPUT)

        running = asyncio.create_task(body())
        await gate.reached.wait()
        async with Durable(dsn) as remover:
            way.down()
            await wait_until(lambda: _is(remover, ThreadStatus.CRASHED), what="the lock to be free")
            await REMOVALS[how.partition(",")[0]](remover)
            if how.endswith("its fence"):
                async with await psycopg.AsyncConnection.connect(dsn) as connection:
                    await connection.execute("DELETE FROM aiodurable_fences")
            assert await stored(dsn) == {}
            gate.open.set()
            way.up()
            with pytest.raises(LeaseLostError):
                await within(60, running, what="the run to end")
            assert await stored(dsn) == {}
            assert (await remover.threads.status("t")).status is ThreadStatus.NEW


async def prune_and_be_killed(durable: Durable) -> None:
    """Before it comes to the fences of threads of which nothing is left."""

    def killed(pruned: PruneReport) -> None:
        if pruned.threads:
            raise Broken

    with pytest.raises(Broken):
        await durable.threads.prune(
            strategy="delete", older_than=NOW, status=["complete"], progress=killed
        )


@pytest.mark.parametrize("how", ["delete", "prune", "prune and be killed"])
async def test_a_holder_that_has_not_heard_of_the_removal_of_its_thread_writes_nothing(
    dsn: str, durable: Durable, how: str
) -> None:
    """It was frozen: its lock is lost, and its connections are up."""
    async with durable.run("t", four_nodes(), run_id="r") as run:
        await run.ainvoke(INPUT)
        frozen = Fence("t", run.lease.token, run.lease.fence.lease_id)
    await REMOVALS.get(how, prune_and_be_killed)(durable)
    saver = durable.checkpointer
    saver.sessions.hold(WriteSession(frozen))
    with pytest.raises(LeaseLostError):
        await four_nodes().compile(saver).ainvoke(INPUT, {"configurable": {"thread_id": "t"}})
    saver.sessions.drop(frozen)
    assert await stored(dsn) == {}


async def _is(durable: Durable, status: ThreadStatus) -> bool:
    return (await durable.threads.status("t")).status is status


HOLD_UP = """
CREATE FUNCTION hold_up() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    WHILE NOT pg_try_advisory_xact_lock_shared(42) LOOP
        PERFORM pg_sleep(0.01);
    END LOOP;
    RETURN NULL;
END $$;
CREATE TRIGGER hold_up BEFORE INSERT OR DELETE ON checkpoints EXECUTE FUNCTION hold_up();
"""
"""A transaction that changes checkpoints is held up while another session holds this lock. It does
not wait for the lock: such a wait ends after 100 ms, and so would the transaction."""


def waiting(admin: psycopg.Connection[Any], dsn: str, kind: str) -> bool:
    """Whether a backend of the database waits in this way (`wait_event_type`)."""
    query = "SELECT true FROM pg_stat_activity WHERE datname = %s AND wait_event_type = %s LIMIT 1"
    row = admin.execute(query, (conninfo_to_dict(dsn)["dbname"], kind)).fetchone()
    return row is not None


@pytest.mark.parametrize("how", ["delete", "aprune", "acopy_thread"])
async def test_the_first_lease_of_a_thread_does_not_begin_in_the_middle_of_its_removal_or_making(
    dsn: str, durable: Durable, admin: psycopg.Connection[Any], how: str
) -> None:
    """Plain LangGraph wrote it: there is no fence yet that could be locked."""
    async with AsyncPostgresSaver.from_conn_string(dsn) as plain:
        graph, config = four_nodes().compile(plain), {"configurable": {"thread_id": "plain"}}
        await graph.ainvoke(INPUT, config)  # pyright: ignore[reportArgumentType]
    saver, thread_id = durable.checkpointer, "copy" if how == "acopy_thread" else "plain"
    work: dict[str, Callable[[], Awaitable[Any]]] = {
        "delete": lambda: durable.threads.delete("plain"),
        "aprune": lambda: saver.aprune(["plain"]),
        "acopy_thread": lambda: saver.acopy_thread("plain", "copy"),
    }
    connecting = psycopg.AsyncConnection.connect(dsn, autocommit=True)
    async with await connecting as blocking, Durable(dsn) as other:
        await blocking.execute(HOLD_UP)
        await blocking.execute("SELECT pg_advisory_lock(42)")
        working = asyncio.ensure_future(work[how]())
        await wait_until(lambda: waiting(admin, dsn, "Timeout"), what="the work to be held up")

        async def body() -> tuple[ThreadStatus, Any]:
            async with other.run(thread_id, four_nodes()) as run:
                return run.status, await run.ainvoke(INPUT)

        running = asyncio.create_task(body())
        await wait_until(lambda: waiting(admin, dsn, "Lock"), what="the lease to wait for it")
        await blocking.execute("SELECT pg_advisory_unlock(42)")
        await working
        status, result = await within(60, running, what="the run to end")
    before = [] if how == "delete" else ["secret", *STEPS]
    assert status is (ThreadStatus.NEW if how == "delete" else ThreadStatus.COMPLETE)
    assert result["words"] == [*before, "secret", *STEPS]
    async with durable.run(thread_id, four_nodes()) as run:
        assert (await run.aget_state()).values["words"] == result["words"]


@pytest.mark.parametrize(("which", "left"), [("the newest", 1), ("all", 0)])
async def test_a_durable_run_of_which_checkpoints_stay_keeps_its_row_and_never_starts_over(
    dsn: str, durable: Durable, log: Path, which: str, left: int
) -> None:
    """Its checkpoints are deleted by the run_id that LangGraph gave one of its calls."""
    await failed(durable, log)
    only = "AND checkpoint_id = (SELECT max(checkpoint_id) FROM checkpoints)" if left else ""
    async with await psycopg.AsyncConnection.connect(dsn, autocommit=True) as connection:
        stamp = f"""UPDATE checkpoints SET metadata = metadata || '{{"run_id": "call"}}' WHERE true {only}"""
        await connection.execute(stamp.encode())
        await connection.execute(
            "UPDATE aiodurable_runs SET consumed = false"
        )  # as an earlier version left it
        await durable.checkpointer.adelete_for_runs(["call"])
        found = await connection.execute("SELECT run_id, consumed FROM aiodurable_runs")
        assert await found.fetchall() == [("r", True)] * left
    assert bool(await stored(dsn)) is bool(left), which


async def test_a_lease_that_ended_by_a_removal_says_so(durable: Durable) -> None:
    async with durable.hold("t") as lease:
        fence = Fence("t", lease.token, lease.fence.lease_id)
    async with durable.run("t", four_nodes()) as run:
        await run.ainvoke(INPUT)
    await durable.threads.delete("t")
    removed = fence.overtaken(await services_of(durable).checkpoints.standing("t"))
    assert "removed" in str(removed)
    assert not removed.taken_over, "nobody has it"


async def test_a_thread_is_deleted_only_as_it_was_expected(durable: Durable, dsn: str) -> None:
    async with durable.run("t", four_nodes()) as run:
        await run.ainvoke(INPUT)
    seen = await durable.threads.status("t")
    async with durable.run("t", four_nodes()) as run:
        await run.ainvoke(INPUT)
    before = await stored(dsn)

    with pytest.raises(WorkflowExecutionError, match="it has gone on since it was read"):
        await durable.threads.delete("t", expected=seen)

    assert await stored(dsn) == before
    assert await durable.threads.delete("t", expected=await durable.threads.status("t"))
    assert not any((await stored(dsn)).values())


async def test_what_is_expected_of_another_thread_or_beside_a_config_is_refused(
    durable: Durable, dsn: str
) -> None:
    async with durable.run("t", four_nodes()) as run:
        await run.ainvoke(INPUT)
        before = await stored(dsn)

        with pytest.raises(InvalidArgumentError, match="under whose lease nobody else") as beside:
            await durable.threads.delete("t", expected=run.checkpoint, config=run.config)
        with pytest.raises(InvalidArgumentError, match="pass how this thread stood") as other:
            await durable.threads.delete("another", expected=run.checkpoint)

    assert (beside.value.argument, other.value.argument) == ("expected", "expected")
    assert await stored(dsn) == before
