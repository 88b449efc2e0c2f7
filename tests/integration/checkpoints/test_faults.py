"""One bad item never fails its neighbours: each fault ends with the right error for its thread
alone, or with success.
"""

import asyncio
import os
import random
import signal
import threading
import time
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from typing import Any

import asyncpg
import pytest

from aiodurable.checkpoints import AsyncCheckpointerPool, DurableSaver
from aiodurable.checkpoints.fences import Fence
from aiodurable.checkpoints.write_queue import QueueLoad
from aiodurable.checkpoints.write_session import WriteSession
from aiodurable.dsn import parse_dsn
from aiodurable.errors import (
    AiodurableError,
    ConfigurationError,
    LeaseLostError,
    PostgresUnavailableError,
)
from tests.support.checkpoint_rows import checkpoint, config, rows
from tests.support.internals import committer_of
from tests.support.proxy import Proxy, proxy
from tests.support.waiting import wait_until, within

IS_BLOCKED = "SELECT cardinality(pg_blocking_pids($1)) > 0"
EMPTY = QueueLoad(rows=0, bytes_=0, serialising=0, callers=0, writes={}, under_way=frozenset())


async def put(saver: DurableSaver, thread_id: str, value: Any = (1,)) -> str:
    made, versions = checkpoint(value=value)
    await saver.aput(config(thread_id), made, {}, versions)  # pyright: ignore[reportArgumentType]
    return made["id"]


async def leased(lease: Any, *thread_ids: str) -> Sequence[str]:
    for thread_id in thread_ids:
        await lease(thread_id)
    return thread_ids


@asynccontextmanager
async def tables_locked(db: asyncpg.Connection) -> AsyncIterator[None]:
    """Batches start meanwhile, but none commits."""
    transaction = db.transaction()
    await transaction.start()
    await db.execute("LOCK TABLE checkpoints IN EXCLUSIVE MODE")
    try:
        yield
    finally:
        await transaction.rollback()


async def writers_waiting(db: asyncpg.Connection) -> list[int]:
    """The backends of writers in the middle of a statement that waits for a lock."""
    await db.execute(
        "SELECT pg_stat_clear_snapshot()"
    )  # a transaction would see the same activity for ever
    found = await db.fetch(
        "SELECT pid FROM pg_stat_activity WHERE datname = current_database() AND wait_event_type ="
        " 'Lock' AND application_name LIKE 'aiodurable:writer%'"
    )
    return [row["pid"] for row in found]


async def heads(db: asyncpg.Connection, thread_id: str) -> list[str]:
    return [row[2] for row in (await rows(db, thread_id))["checkpoints"]]


@pytest.mark.parametrize("bad", [1, 3], ids=["one bad value", "three bad values"])
async def test_a_value_postgres_refuses_fails_its_own_write_alone(
    bad: int, saver: DurableSaver, db: asyncpg.Connection, lease: Any
) -> None:
    threads = await leased(lease, *(f"t{n}" for n in range(20)))
    poisoned = set(threads[:: len(threads) // bad][:bad])
    async with tables_locked(db):  # so that they wait together and then travel together
        opener = asyncio.create_task(put(saver, "t19"))
        await wait_until(lambda: writers_waiting(db))
        results = asyncio.gather(
            *(
                put(saver, thread, "secret \0" if thread in poisoned else "fine")
                for thread in threads
            ),
            return_exceptions=True,
        )
        # two thirds of them, and the opener
        await wait_until(lambda: len(committer_of(saver).backlog.load.under_way) == 14)
    await opener
    for thread, result in zip(threads, await results, strict=True):
        if thread in poisoned:
            assert isinstance(result, ConfigurationError)
            assert result.thread_id == thread
            assert "secret" not in str(result)
        else:
            assert result in await heads(db, thread)


async def test_a_write_that_msgpack_cannot_hold_fails_alone(
    saver: DurableSaver, db: asyncpg.Connection, lease: Any
) -> None:
    await leased(lease, "good", "bad")
    made, _ = checkpoint()
    good, bad = await asyncio.gather(
        put(saver, "good"),
        saver.aput_writes(config("bad", made["id"]), [("a", object)], "task"),
        return_exceptions=True,
    )
    assert await heads(db, "good") == [good]
    assert isinstance(bad, ConfigurationError)


async def test_a_stale_token_fails_its_own_write_alone(
    pool: AsyncCheckpointerPool, saver: DurableSaver, db: asyncpg.Connection, lease: Any
) -> None:
    threads = await leased(lease, *(f"t{n}" for n in range(20)))
    await pool.bump("t7")
    results = await asyncio.gather(
        *(put(saver, thread) for thread in threads), return_exceptions=True
    )
    for thread, result in zip(threads, results, strict=True):
        if thread == "t7":
            assert isinstance(result, LeaseLostError)
            assert result.thread_id == thread
        else:
            assert await heads(db, thread) == [result]


async def test_rows_that_are_there_already_fail_nothing_of_their_batch(
    saver: DurableSaver, db: asyncpg.Connection, lease: Any
) -> None:
    """They end as with the stock saver: the checkpoint is the newer one, what a task wrote stays."""
    threads = await leased(lease, *(f"t{n}" for n in range(5)))
    made, versions = checkpoint(value=(1,))
    await saver.aput(config("t2"), made, {"step": 1}, versions)
    await saver.aput_writes(config("t2", made["id"]), [("a", "first")], "task")

    async def again() -> None:
        await saver.aput(config("t2"), made, {"step": 2}, versions)
        await saver.aput_writes(config("t2", made["id"]), [("a", "second")], "task")

    async with tables_locked(db):
        others = asyncio.gather(*(put(saver, thread) for thread in threads if thread != "t2"))
        repeated = asyncio.create_task(again())
        await wait_until(lambda: writers_waiting(db))
    for thread, made_id in zip([t for t in threads if t != "t2"], await others, strict=True):
        assert await heads(db, thread) == [made_id]
    await repeated
    assert committer_of(saver).failures == 0
    found = await saver.aget_tuple(config("t2"))
    assert found is not None
    assert found.metadata.get("step") == 2
    assert found.pending_writes == [("task", "a", "first")]


async def test_a_connection_killed_in_mid_batch_loses_nothing(
    saver: DurableSaver, db: asyncpg.Connection, lease: Any
) -> None:
    threads = await leased(lease, *(f"t{n}" for n in range(20)))
    async with tables_locked(db):
        results = asyncio.gather(*(put(saver, thread) for thread in threads))
        for _ in range(3):
            for pid in await wait_until(lambda: writers_waiting(db)):
                await db.fetchval("SELECT pg_terminate_backend($1)", pid)
    for thread, result in zip(threads, await results, strict=True):
        assert await heads(db, thread) == [result]


async def test_a_commit_whose_answer_never_came_is_sent_again_and_stands_once(
    dsn: str, db: asyncpg.Connection
) -> None:
    """The wire is cut after the server has committed and before the writer gets the answer."""
    async with (
        proxy(dsn) as wire,
        AsyncCheckpointerPool(wire.dsn, checkpoint_connections=1) as pool,
    ):
        saver = pool.get_checkpointer()
        saver.sessions.hold(WriteSession(await pool.new_fence("t")))
        first = await put(saver, "t")
        wire.cut("to_client")
        second = asyncio.create_task(put(saver, "t"))

        async def committed() -> bool:
            return len(await heads(db, "t")) == 2

        await wait_until(committed)
        assert not second.done()
        wire.end()
        wire.mend()
        both = sorted([first, await second])
        assert sorted(await heads(db, "t")) == both


async def test_a_deadlock_with_a_stranger_is_tried_again(
    saver: DurableSaver, dsn: str, db: asyncpg.Connection, lease: Any
) -> None:
    """A plain writer of the same rows, in the other order; it looks for a deadlock later, so the
    batch is the victim. Of two that wait the last one has to find it: a third transaction holds
    the batch up until the stranger waits.
    """
    await leased(lease, "t")
    made, _ = checkpoint()
    insert = (
        "INSERT INTO checkpoint_writes (thread_id, checkpoint_id, task_id, idx, channel, type,"
        " blob) VALUES ('t', $1, 'task', $2, 'theirs', 'null', '')"
    )
    between = await asyncpg.connect(**parse_dsn(dsn).asyncpg)
    stranger, gate = db.transaction(), between.transaction()
    await stranger.start()
    await db.execute("SET LOCAL deadlock_timeout = '60s'")
    await db.execute(insert, made["id"], 2)
    await gate.start()
    await between.execute(insert, made["id"], 1)
    write = asyncio.create_task(
        saver.aput_writes(config("t", made["id"]), [("a", 0), ("b", 1), ("c", 2)], "task")
    )
    await wait_until(lambda: writers_waiting(between))
    theirs = asyncio.create_task(db.execute(insert, made["id"], 0))
    await wait_until(lambda: between.fetchval(IS_BLOCKED, db.get_server_pid()))
    await gate.rollback()
    await between.close()
    await within(15, theirs, what="the stranger, who has to wait for nothing any more")
    await stranger.commit()
    await write
    assert committer_of(saver).failures == 1
    assert len((await rows(db, "t"))["checkpoint_writes"]) == 3


async def test_a_caller_cancelled_while_its_write_waits_takes_it_back(
    saver: DurableSaver, db: asyncpg.Connection, lease: Any
) -> None:
    await leased(lease, "t")
    async with tables_locked(db):
        first = asyncio.create_task(put(saver, "t"))
        await wait_until(lambda: writers_waiting(db))
        second, third = asyncio.create_task(put(saver, "t")), asyncio.create_task(put(saver, "t"))
        await wait_until(lambda: committer_of(saver).backlog.load.writes.get("t") == 2)
        second.cancel()
    with pytest.raises(asyncio.CancelledError):
        await second
    kept = sorted([await first, await third])
    assert sorted(await heads(db, "t")) == kept


async def test_a_caller_cancelled_in_mid_batch_leaves_its_neighbours_alone(
    saver: DurableSaver, db: asyncpg.Connection, lease: Any
) -> None:
    await leased(lease, "a", "b")
    async with tables_locked(db):
        a, b = asyncio.create_task(put(saver, "a")), asyncio.create_task(put(saver, "b"))
        await wait_until(lambda: writers_waiting(db))
        a.cancel()
        with pytest.raises(asyncio.CancelledError):
            await a
    written = await b
    assert await heads(db, "b") == [written]


@pytest.fixture
async def wire(dsn: str) -> AsyncIterator[Proxy]:
    async with proxy(dsn) as wire:
        yield wire


@pytest.fixture
async def remote(wire: Proxy) -> AsyncIterator[AsyncCheckpointerPool]:
    """A pool that reaches Postgres through the wire."""
    async with AsyncCheckpointerPool(wire.dsn) as pool:
        yield pool


async def hold(pool: AsyncCheckpointerPool, thread_id: str) -> Fence:
    fence = await pool.new_fence(thread_id)
    pool.get_checkpointer().sessions.hold(WriteSession(fence))
    return fence


async def test_writes_of_an_outage_are_committed_when_postgres_is_back(
    wire: Proxy, remote: AsyncCheckpointerPool, db: asyncpg.Connection
) -> None:
    saver = remote.get_checkpointer()
    threads = [f"t{n}" for n in range(20)]
    for thread in threads:
        await hold(remote, thread)
    await put(saver, "t0")
    wire.down()
    results = asyncio.gather(*(put(saver, thread) for thread in threads))
    await wait_until(lambda: committer_of(saver).failures >= 2)
    assert not results.done()
    wire.up()
    for thread, result in zip(threads, await results, strict=True):
        assert result in await heads(db, thread)


async def test_an_outage_longer_than_the_patience_ends_as_unavailable(
    wire: Proxy, remote: AsyncCheckpointerPool, db: asyncpg.Connection
) -> None:
    saver = remote.get_checkpointer()
    await hold(remote, "t")
    committer_of(saver).retry_for_s = 0.2
    wire.down()
    with pytest.raises(PostgresUnavailableError, match="may have been written or not"):
        await put(saver, "t")
    wire.up()
    committer_of(saver).retry_for_s = 30.0
    later = await put(saver, "t")
    assert await heads(db, "t") == [later]


async def test_a_lease_given_up_during_an_outage_ends_its_write_at_once(
    wire: Proxy, remote: AsyncCheckpointerPool
) -> None:
    saver = remote.get_checkpointer()
    fence = await hold(remote, "t")
    wire.down()
    write = asyncio.create_task(put(saver, "t"))
    await wait_until(lambda: committer_of(saver).failures >= 1)
    fence.revoke()
    with pytest.raises(LeaseLostError):
        await within(30, write, what="the write of a revoked fence to be refused")


async def test_the_error_of_missing_rights_says_so(
    saver: DurableSaver, db: asyncpg.Connection, lease: Any
) -> None:
    await leased(lease, "t")
    await db.execute("ALTER TABLE checkpoints RENAME TO elsewhere")
    with pytest.raises(AiodurableError, match="check the schema"):
        await put(saver, "t")
    await db.execute("ALTER TABLE elsewhere RENAME TO checkpoints")
    await put(saver, "t")


async def test_the_writes_of_one_thread_keep_their_order(
    saver: DurableSaver, db: asyncpg.Connection, lease: Any
) -> None:
    """Each upsert replaces the one before: what stands at the end is the last one sent, however
    batches fell.
    """
    threads = await leased(lease, *(f"t{n}" for n in range(8)))
    made, _ = checkpoint()
    chance = random.Random(0)

    async def one_thread(thread: str) -> None:
        sent: list[asyncio.Task[None]] = []
        for number in range(60):
            sent.append(
                asyncio.create_task(
                    saver.aput_writes(
                        config(thread, made["id"]), [("__interrupt__", number)], "task"
                    )
                )
            )
            if chance.random() < 0.4:
                await asyncio.sleep(0)
            if chance.random() < 0.1:
                await sent[-1]
        await asyncio.gather(*sent)

    await asyncio.gather(*(one_thread(thread) for thread in threads))
    for thread in threads:
        found = await saver.aget_tuple(config(thread, made["id"]))
        assert found is None
        [write] = (await rows(db, thread))["checkpoint_writes"]
        assert saver.serde.loads_typed(write[-2:]) == 59


async def test_a_backlog_of_large_states_stays_within_its_bounds(
    saver: DurableSaver, db: asyncpg.Connection, lease: Any
) -> None:
    """While nothing commits, values that wait for capacity are not even serialised."""
    serialised = 0
    dumps = saver.serde.dumps_typed

    def counting(value: Any) -> tuple[str, bytes]:
        nonlocal serialised
        serialised += 1
        return dumps(value)

    saver.serde.dumps_typed = counting  # pyright: ignore[reportAttributeAccessIssue]
    threads = await leased(lease, *(f"t{n}" for n in range(600)))
    backlog = committer_of(saver).backlog
    large = [b"x" * 250_000]
    try:
        async with tables_locked(db):
            results = asyncio.gather(*(put(saver, thread, large) for thread in threads))
            await wait_until(
                lambda: backlog.load.bytes_ >= backlog.max_bytes and not backlog.load.serialising
            )
            assert serialised * 250_000 <= backlog.max_bytes + 9 * 250_000
            assert backlog.load.callers == len(threads) - serialised
        assert len(set(await results)) == len(threads)
    finally:
        del saver.serde.dumps_typed
    assert backlog.load == EMPTY


async def test_cancelled_callers_hand_their_capacity_on(
    saver: DurableSaver, db: asyncpg.Connection, lease: Any
) -> None:
    threads = await leased(lease, *(f"t{n}" for n in range(300)))
    backlog = committer_of(saver).backlog
    chance = random.Random(1)
    async with tables_locked(db):
        tasks = [asyncio.create_task(put(saver, thread, [b"x" * 250_000])) for thread in threads]
        await wait_until(
            lambda: backlog.load.bytes_ >= backlog.max_bytes and not backlog.load.serialising
        )
        gone = [task for task in tasks if chance.random() < 0.5]
        for task in gone[::2]:
            task.cancel()
    for task in gone[1::2]:
        task.cancel()
    results = await asyncio.gather(*tasks, return_exceptions=True)
    assert {type(result) for result in results} <= {str, asyncio.CancelledError}
    await wait_until(lambda: not backlog.load.under_way)
    assert backlog.load == EMPTY


async def test_a_large_value_does_not_hold_up_the_event_loop(
    saver: DurableSaver, lease: Any
) -> None:
    """Nor does it need the loop's default threads, which sync nodes may hold."""
    await leased(lease, "small", "large")
    where: list[str] = []
    dumps, loads = saver.serde.dumps_typed, saver.serde.loads_typed

    def noting(work: Any) -> Any:
        def noted(value: Any) -> Any:
            where.append(threading.current_thread().name)
            return work(value)

        return noted

    saver.serde.dumps_typed = noting(dumps)
    saver.serde.loads_typed = noting(loads)
    try:
        await put(saver, "small", ["x"])
        await saver.aget_tuple(config("small"))
        await put(saver, "large", ["x" * 100] * 10_000)
        await saver.aget_tuple(config("large"))
    finally:
        del saver.serde.dumps_typed, saver.serde.loads_typed
    loop = threading.main_thread().name
    assert where[:2] == [loop, loop]
    assert all(name.startswith("aiodurable serialise") for name in where[2:])
    assert len(where) == 4


async def test_a_lone_write_goes_at_once(saver: DurableSaver, lease: Any) -> None:
    await leased(lease, "t")
    await put(saver, "t")
    took: list[float] = []
    for _ in range(20):
        began = time.perf_counter()
        await put(saver, "t")
        took.append(time.perf_counter() - began)
    assert min(took) < 0.02


async def test_a_crash_of_postgres_loses_nothing_that_was_acknowledged(
    server: Any, dsn: str
) -> None:
    """A backend dies of SIGKILL: Postgres throws everybody out and recovers from its log."""
    if server.kind != "embedded":
        pytest.skip("kills a backend of the server: only of one of our own")
    admin = await asyncpg.connect(**parse_dsn(dsn).asyncpg)
    # The embedded test server answers before its log is written; a server for production does not.
    await admin.execute(
        f'ALTER DATABASE "{parse_dsn(dsn).asyncpg["database"]}" SET synchronous_commit = on'
    )
    victim: int = await admin.fetchval("SELECT pg_backend_pid()")
    acknowledged: list[tuple[str, str]] = []
    async with AsyncCheckpointerPool(dsn) as pool:
        saver = pool.get_checkpointer()

        async def work(thread: str) -> None:
            """Until the crash has come to these writes, which may take a while, and ten more."""
            after = 0
            while after < 10:
                acknowledged.append((thread, await put(saver, thread)))
                after += committer_of(saver).failures > 0

        threads = [f"t{n}" for n in range(20)]
        for thread in threads:
            await hold(pool, thread)
        working = asyncio.gather(*(work(thread) for thread in threads))
        await wait_until(lambda: len(acknowledged) > 100)
        os.kill(victim, signal.SIGKILL)
        await within(60, working, what="the crash, and the writes after it")
    admin.terminate()
    witness = await asyncpg.connect(**parse_dsn(dsn).asyncpg)
    stored = {
        (row[0], row[1])
        for row in await witness.fetch("SELECT thread_id, checkpoint_id FROM checkpoints")
    }
    await witness.close()
    assert stored == set(acknowledged)
