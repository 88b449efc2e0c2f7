"""What many runs ask for at once is asked for in few statements, and each gets its own answer."""

import asyncio
from collections.abc import Sequence
from typing import Any

import asyncpg
import pytest
from langgraph.checkpoint.postgres.aio import AsyncPostgresSaver

from aiodurable.checkpoints import AsyncCheckpointerPool, DurableSaver
from aiodurable.errors import ClosedError, PostgresUnavailableError
from aiodurable.postgres.batcher import Batcher
from aiodurable.postgres.sql import load
from tests.support.checkpoint_rows import checkpoint, config, linear
from tests.support.waiting import wait_until, within


def statements(pool: AsyncCheckpointerPool) -> int:
    return pool.database.pool.get_stats().get("requests_num", 0) + pool.direct.sent


async def test_a_bump_that_must_wait_does_not_hold_up_the_others(
    pool: AsyncCheckpointerPool, db: asyncpg.Connection
) -> None:
    await pool.bump("stuck")
    holding = db.transaction()
    await holding.start()
    await db.fetch(load("checkpoints")["hold_fences"], ["stuck"])
    stuck = asyncio.create_task(pool.bump("stuck"))
    assert await asyncio.gather(*(pool.bump(f"t{n}") for n in range(20))) == [1] * 20
    assert not stuck.done()
    await holding.commit()
    assert await stuck == 2


async def test_the_newest_checkpoints_of_many_threads_come_in_a_few_statements(
    pool: AsyncCheckpointerPool, saver: DurableSaver, lease: Any
) -> None:
    graph = linear(2).compile(saver)
    for n in range(30):
        await graph.ainvoke({"topic": str(n)}, config(f"t{n}"))
    before = statements(pool)
    found = await asyncio.gather(*(saver.aget_tuple(config(f"t{n}")) for n in range(40)))
    assert statements(pool) - before <= 3
    assert [row.checkpoint["channel_values"]["topic"] for row in found[:30] if row] == [
        str(n) for n in range(30)
    ]
    assert found[30:] == [None] * 10


@pytest.mark.parametrize("ns", ["", "inner:1"])
async def test_a_batched_read_is_the_stock_savers_read(
    ns: str, dsn: str, saver: DurableSaver, lease: Any
) -> None:
    await lease("t")
    parent = None
    for number in range(3):
        made, versions = checkpoint(value=[number], scalar=number, nothing=None)
        stored = await saver.aput(config("t", parent, ns), made, {"step": number}, versions)  # pyright: ignore[reportArgumentType]
        parent = made["id"]
        await saver.aput_writes(stored, [("value", [number]), ("other", "x")], "task", "~path")
    async with AsyncPostgresSaver.from_conn_string(dsn) as stock:
        assert await saver.aget_tuple(config("t", ns=ns)) == await stock.aget_tuple(
            config("t", ns=ns)
        )


async def test_pending_sends_of_an_old_format_are_read_as_the_stock_saver_reads_them(
    dsn: str, saver: DurableSaver, lease: Any
) -> None:
    await lease("t")
    parent, versions = checkpoint(value=[1])
    await saver.aput(config("t"), parent, {}, versions)  # pyright: ignore[reportArgumentType]
    await saver.aput_writes(config("t", parent["id"]), [("__pregel_tasks", "sent")], "task")
    head, versions = checkpoint(value=[2])
    head["v"] = 1
    await saver.aput(config("t", parent["id"]), head, {}, versions)  # pyright: ignore[reportArgumentType]
    async with AsyncPostgresSaver.from_conn_string(dsn) as stock:
        theirs = await stock.aget_tuple(config("t"))
    ours = await saver.aget_tuple(config("t"))
    assert ours is not None
    assert theirs is not None
    assert ours.checkpoint["channel_values"] == theirs.checkpoint["channel_values"]
    assert ours.checkpoint["channel_values"]["__pregel_tasks"] == ["sent"]


async def test_a_key_that_postgres_refuses_fails_alone(saver: DurableSaver, lease: Any) -> None:
    await lease("good")
    made, versions = checkpoint(value=[1])
    await saver.aput(config("good"), made, {}, versions)  # pyright: ignore[reportArgumentType]
    good, bad, none = await asyncio.gather(
        *(saver.aget_tuple(config(thread)) for thread in ("good", "nul \0", "unknown")),
        return_exceptions=True,
    )
    assert not isinstance(good, BaseException)
    assert good is not None
    assert isinstance(bad, Exception)
    assert none is None


@pytest.mark.parametrize("ends", [1, 2])
@pytest.mark.parametrize("ns", ["", "inner:1"])
async def test_a_read_whose_connection_ends_meanwhile_is_sent_again_once(
    ns: str, ends: int, saver: DurableSaver, db: asyncpg.Connection, lease: Any
) -> None:
    await lease("t")
    made, versions = checkpoint(value=1)
    await saver.aput(config("t", ns=ns), made, {}, versions)  # pyright: ignore[reportArgumentType]
    locking = db.transaction()
    await locking.start()
    await db.execute("LOCK TABLE checkpoints IN ACCESS EXCLUSIVE MODE")
    reading = asyncio.create_task(saver.aget_tuple(config("t", ns=ns)))
    ended = list[int]()
    for _ in range(ends):
        ended.extend(await wait_until(lambda: waiting_reads(db, ended)))
        await db.execute("SELECT pg_terminate_backend(pid) FROM unnest($1::int[]) pid", ended)
    if ends == 1:
        await wait_until(lambda: waiting_reads(db, ended))
    else:
        with pytest.raises(PostgresUnavailableError):
            await within(30, reading)
    await locking.rollback()
    if ends == 1:
        found = await within(30, reading)
        assert found is not None
        assert found.checkpoint["id"] == made["id"]


async def waiting_reads(db: asyncpg.Connection, ended: list[int]) -> list[int]:
    """Other backends of the pool than those that were ended, where they wait for a lock."""
    await db.execute("SELECT pg_stat_clear_snapshot()")
    found = await db.fetch(
        "SELECT pid FROM pg_stat_activity WHERE datname = current_database() AND wait_event_type ="
        " 'Lock' AND application_name LIKE 'aiodurable:pool%'"
    )
    return [row["pid"] for row in found if row["pid"] not in ended]


async def test_what_comes_in_during_a_question_goes_together_in_the_next() -> None:
    asked: list[Sequence[int]] = []
    go_on = asyncio.Event()

    async def ask(keys: Sequence[int]) -> dict[int, int]:
        asked.append(keys)
        await go_on.wait()
        return {key: key * 10 for key in keys if key}

    together = Batcher(ask, limit=3, name="test")
    first = asyncio.create_task(together(1))
    await asyncio.sleep(0)
    await asyncio.sleep(0)
    others = [asyncio.create_task(together(key)) for key in (2, 0, 2, 3, 4)]
    await asyncio.sleep(0)
    others[3].cancel()
    go_on.set()
    assert await first == 10
    twenty, none, again, gone, forty = await asyncio.gather(*others, return_exceptions=True)
    assert (twenty, none, again, forty) == (20, None, 20, 40)
    assert isinstance(gone, asyncio.CancelledError)
    assert asked == [(1,), (2, 0, 4), (2,)]


async def test_an_outage_reaches_every_caller_and_so_does_closing() -> None:
    away = True

    async def ask(keys: Sequence[int]) -> dict[int, int]:
        if away:
            raise PostgresUnavailableError("away")
        await asyncio.Event().wait()
        return {}

    together = Batcher(ask, name="test")
    for result in await asyncio.gather(
        *(together(key) for key in (1, 2, 3)), return_exceptions=True
    ):
        assert isinstance(result, PostgresUnavailableError)
    away = False
    waiting = asyncio.create_task(together(2))
    await asyncio.sleep(0)
    await asyncio.sleep(0)
    await together.aclose()
    await together.aclose()
    with pytest.raises(ClosedError):
        await waiting
    with pytest.raises(ClosedError):
        await together(2)
