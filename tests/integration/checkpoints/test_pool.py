"""The pool: one per DSN and loop, opened and closed any number of times, clear about what is
wrong.
"""

import asyncio
import contextlib
import logging
import math
import time
from typing import Any

import asyncpg
import pytest
from langgraph.checkpoint.memory import InMemorySaver
from langgraph.checkpoint.serde.encrypted import EncryptedSerializer
from langgraph.checkpoint.serde.jsonplus import JsonPlusSerializer

from aiodurable.checkpoints import AsyncCheckpointerPool, DurableSaver, create_checkpointer
from aiodurable.checkpoints.write_session import WriteSession
from aiodurable.errors import (
    ClosedError,
    ConfigurationError,
    LeaseLostError,
    PostgresUnavailableError,
    SchemaMismatchError,
)
from aiodurable.settings import Settings
from tests.support.checkpoint_rows import checkpoint, config, linear, rows
from tests.support.other_loop import in_another_loop
from tests.support.proxy import proxy
from tests.support.waiting import wait_until, within

NOWHERE = "postgresql://nobody:sesame@127.0.0.1:1/none"


async def connections(db: asyncpg.Connection) -> Any:
    return await db.fetchval(
        "SELECT count(*) FROM pg_stat_activity WHERE datname = current_database() AND"
        " application_name LIKE 'aiodurable:%'"
    )


async def test_closing_leaves_no_connection_and_may_be_repeated(
    dsn: str, db: asyncpg.Connection, lease: Any
) -> None:
    pool = AsyncCheckpointerPool(dsn)
    await pool.aclose()
    pool = AsyncCheckpointerPool(dsn)
    with pytest.raises(ClosedError, match="not open"):
        pool.get_checkpointer()
    await asyncio.gather(pool.open(), pool.open())
    assert pool.get_checkpointer() is pool.get_checkpointer()
    await asyncio.gather(pool.aclose(), pool.aclose())
    with pytest.raises(ClosedError):
        await pool.open()
    async with AsyncCheckpointerPool(dsn) as second:
        assert await second.bump("t") == 1


async def test_a_connection_may_take_for_ever(dsn: str) -> None:
    async with AsyncCheckpointerPool(dsn, settings=Settings(connect_timeout_s=math.inf)) as pool:
        assert await pool.bump("t") == 1
        assert await pool.get_checkpointer().aget_tuple(config("t")) is None


async def test_reads_go_on_as_soon_as_postgres_is_back_however_long_it_was_away(dsn: str) -> None:
    """psycopg's pool left alone would next try as much later again: at 1, 3, 7 s."""
    async with proxy(dsn) as wire, AsyncCheckpointerPool(wire.dsn) as pool:
        assert await pool.bump("t") == 1
        wire.down()
        reads = [asyncio.create_task(pool.token("t")) for _ in range(20)]
        away = time.monotonic()
        await wait_until(lambda: time.monotonic() > away + 3.3)
        wire.up()
        back = time.monotonic()
        await asyncio.wait(reads)
        assert await pool.token("t") == 1
        assert time.monotonic() - back < 3


async def test_closing_while_postgres_is_away_is_quick(dsn: str) -> None:
    async with (
        proxy(dsn) as wire,
        AsyncCheckpointerPool(wire.dsn, settings=Settings(close_timeout_s=30)) as pool,
    ):
        wire.down()
        read = asyncio.create_task(pool.token("t"))
        await wait_until(lambda: pool.database.pool.get_stats().get("connections_num", 0) > 1)
        began = time.monotonic()
        await pool.aclose()
        assert time.monotonic() - began < 10
        await asyncio.gather(read, return_exceptions=True)


async def test_after_closing_no_backend_is_left(dsn: str, db: asyncpg.Connection) -> None:
    async with AsyncCheckpointerPool(dsn) as pool:
        await leased_put(pool, "t")
        assert await connections(db) >= 2

    async def none_left() -> bool:
        return await connections(db) == 0

    await wait_until(none_left)


async def leased_put(pool: AsyncCheckpointerPool, thread_id: str) -> None:

    saver = pool.get_checkpointer()
    saver.sessions.hold(WriteSession(await pool.new_fence(thread_id)))
    made, versions = checkpoint(value=[1])
    await saver.aput(config(thread_id), made, {}, versions)  # pyright: ignore[reportArgumentType]


async def test_closing_is_bounded_while_postgres_keeps_a_write_waiting(
    dsn: str, db: asyncpg.Connection
) -> None:
    pool = AsyncCheckpointerPool(dsn, settings=Settings(close_timeout_s=0.2))
    async with pool:
        await leased_put(pool, "t")
        lock = db.transaction()
        await lock.start()
        await db.execute("LOCK TABLE checkpoints IN EXCLUSIVE MODE")
        made, versions = checkpoint(value=[2])
        stuck = asyncio.create_task(pool.get_checkpointer().aput(config("t"), made, {}, versions))  # pyright: ignore[reportArgumentType]
        await wait_until(lambda: waiting(db))
        behind = asyncio.create_task(
            pool.get_checkpointer().aput_writes(config("t", made["id"]), [("a", 1)], "task")
        )
        await wait_until(lambda: pool.health().writes > 0)
        began = time.monotonic()
    assert time.monotonic() - began < 10
    for write in (stuck, behind):
        with pytest.raises(ClosedError):
            await within(30, write)
    await lock.rollback()


async def test_closing_goes_on_to_the_end_when_it_is_cancelled(
    dsn: str, db: asyncpg.Connection
) -> None:
    pool = AsyncCheckpointerPool(dsn)
    await pool.open()
    await leased_put(pool, "t")
    async with db.transaction():
        await db.execute("LOCK TABLE checkpoints")
        reading = asyncio.create_task(pool.get_checkpointer().aget_tuple(config("t")))
        await wait_until(lambda: waiting(db), what="the read to wait for the table")
        closing = asyncio.create_task(pool.aclose())
        await asyncio.sleep(0)  # it waits until the read has ended
        closing.cancel()
        await asyncio.wait({closing, reading})
        assert closing.cancelled()
    assert isinstance(reading.exception(), ClosedError)
    assert not [task for task in asyncio.all_tasks() if "checkpoint writer" in task.get_name()]
    await wait_until(lambda: nothing_is_left(db), what="the backends to end")


async def waiting(db: asyncpg.Connection) -> bool:
    return bool(await db.fetchval("SELECT EXISTS (SELECT FROM pg_locks WHERE NOT granted)"))


async def nothing_is_left(db: asyncpg.Connection) -> bool:
    return await connections(db) == 0


async def test_what_waits_at_closing_is_committed_before_the_end(
    dsn: str, db: asyncpg.Connection
) -> None:
    async with AsyncCheckpointerPool(dsn) as pool:
        await leased_put(pool, "t")
        saver = pool.get_checkpointer()
        made, versions = checkpoint(value=[2])
        last = asyncio.create_task(saver.aput(config("t"), made, {}, versions))  # pyright: ignore[reportArgumentType]
        await asyncio.sleep(0)
    await last
    assert len((await rows(db, "t"))["checkpoints"]) == 2


async def test_get_or_create_gives_a_pool_of_its_own_to_each_schema(empty_dsn: str) -> None:
    one, other = [
        await AsyncCheckpointerPool.get_or_create(empty_dsn, settings=Settings(schema=schema))
        for schema in ("one", "other")
    ]
    async with one, other:
        again = await AsyncCheckpointerPool.get_or_create(
            empty_dsn, settings=Settings(schema="one")
        )
        assert again is one
        assert one is not other
        paths = [await pool.database.fetch("SHOW search_path") for pool in (one, other)]
        assert paths == [[{"search_path": '"one"'}], [{"search_path": '"other"'}]]


async def test_get_or_create_gives_one_pool_per_dsn_and_loop(dsn: str, empty_dsn: str) -> None:
    first, second = await asyncio.gather(
        AsyncCheckpointerPool.get_or_create(dsn), AsyncCheckpointerPool.get_or_create(dsn)
    )
    other = await AsyncCheckpointerPool.get_or_create(empty_dsn)
    try:
        assert first is second
        assert other is not first

        async def elsewhere() -> bool:
            async with await AsyncCheckpointerPool.get_or_create(dsn) as pool:
                return pool is first

        assert not await in_another_loop(elsewhere)
        await first.aclose()
        third = await AsyncCheckpointerPool.get_or_create(dsn)
        assert third is not first
        assert await third.bump("t") == 1
        await third.aclose()
    finally:
        await other.aclose()


async def test_a_wrong_address_is_an_error_at_open_without_the_password() -> None:
    with pytest.raises(PostgresUnavailableError) as caught:
        async with AsyncCheckpointerPool(NOWHERE):
            pass
    assert "sesame" not in str(caught.value)


async def test_create_checkpointer_makes_the_tables_and_reads_the_environment(
    empty_dsn: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("AIODURABLE_DSN", empty_dsn)
    with pytest.raises(SchemaMismatchError):
        async with create_checkpointer(settings=Settings(auto_migrate=False)):
            pass
    async with create_checkpointer() as saver:
        assert isinstance(saver, DurableSaver)
        graph = linear(2).compile(saver)
        assert (await graph.ainvoke({"topic": "tides"}, config("t")))["total"] == 2


async def test_memory_is_used_only_on_request_and_logged_as_critical(
    caplog: pytest.LogCaptureFixture,
) -> None:
    with pytest.raises(PostgresUnavailableError):
        async with create_checkpointer(NOWHERE):
            pass
    with caplog.at_level(logging.CRITICAL):
        async with create_checkpointer(NOWHERE, on_unavailable="memory") as saver:
            assert isinstance(saver, InMemorySaver)
    assert "NOT DURABLE" in caplog.text
    assert "sesame" not in caplog.text
    with pytest.raises(ConfigurationError, match="on_unavailable"):
        async with create_checkpointer(NOWHERE, on_unavailable="disk"):  # pyright: ignore[reportArgumentType]
            pass


async def test_the_sync_methods_work_from_other_threads_and_refuse_the_loop(
    saver: DurableSaver, lease: Any
) -> None:
    await lease("t")
    made, versions = checkpoint(value=[1])

    def outside() -> None:
        stored: Any = saver.put(config("t"), made, {}, versions)  # pyright: ignore[reportArgumentType]
        saver.put_writes(stored, [("a", 1)], "task")
        found = saver.get_tuple(config("t"))
        assert found is not None
        assert found.pending_writes == [("task", "a", 1)]
        assert len(list(saver.list(config("t")))) == 1
        saver.copy_thread("t", "copy")
        saver.delete_for_runs(["no such run"])
        saver.prune(["copy"])
        saver.delete_thread("copy")
        assert saver.get_tuple(config("copy")) is None

    await asyncio.to_thread(outside)
    with pytest.raises(asyncio.InvalidStateError):
        saver.copy_thread("t", "copy")
    with pytest.raises(asyncio.InvalidStateError):
        saver.get_tuple(config("t"))


async def test_a_clone_with_an_allowlist_shares_the_fences(dsn: str) -> None:
    serde = JsonPlusSerializer(allowed_msgpack_modules=None)
    async with AsyncCheckpointerPool(dsn, serde=serde) as pool:
        saver = pool.get_checkpointer()
        clone: Any = saver.with_allowlist([("some.module", "Thing")])
        assert clone is not saver
        await leased_put(pool, "t")
        await pool.bump("t")
        made, versions = checkpoint(value=[2])
        with pytest.raises(LeaseLostError):
            await clone.aput(config("t"), made, {}, versions)


async def test_an_encrypted_state_is_read_back_and_lies_encrypted_in_the_tables(
    dsn: str, db: asyncpg.Connection
) -> None:
    class Backwards:
        def encrypt(self, plaintext: bytes) -> tuple[str, bytes]:
            return "backwards", plaintext[::-1]

        def decrypt(self, ciphername: str, ciphertext: bytes) -> bytes:
            return ciphertext[::-1]

    async with AsyncCheckpointerPool(dsn, serde=EncryptedSerializer(Backwards())) as pool:
        await leased_put(pool, "t")
        found = await pool.get_checkpointer().aget_tuple(config("t"))
    assert found is not None
    assert found.checkpoint["channel_values"] == {"value": [1]}
    assert (await rows(db, "t"))["checkpoint_blobs"][0][4] == "msgpack+backwards"


async def test_large_values_that_cannot_be_serialised_leave_their_turn_to_others(
    saver: DurableSaver, lease: Any
) -> None:
    await lease("t")
    for _ in range(20):  # more often than may serialise at once
        with pytest.raises(ConfigurationError, match="cannot store the state"):
            writes = [("a", ("x" * 300_000, contextlib.ExitStack()))]
            await within(30, saver.aput_writes(config("t", "1"), writes, "task"))


async def test_an_unserialisable_state_is_a_clear_error_and_loses_nothing(
    saver: DurableSaver, db: asyncpg.Connection, lease: Any
) -> None:
    await lease("t")
    graph = linear(2).compile(saver)
    await graph.ainvoke({"topic": "tides"}, config("t"))
    before = await rows(db, "t")
    made, versions = checkpoint(value=contextlib.ExitStack())
    with pytest.raises(ConfigurationError, match="cannot store the state"):
        await saver.aput(config("t"), made, {}, versions)  # pyright: ignore[reportArgumentType]
    with pytest.raises(ConfigurationError, match="cannot store the state"):
        await saver.aput_writes(config("t", made["id"]), [("a", contextlib.ExitStack())], "task")
    assert await rows(db, "t") == before
