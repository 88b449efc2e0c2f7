"""Leases that are rows: without number, free when their owner is, and nobody waits for anybody inside Postgres."""

from __future__ import annotations

import asyncio
import os
from collections.abc import AsyncIterator, Iterator
from contextlib import AsyncExitStack

import asyncpg
import pytest

from aiodurable.dsn import parse_dsn
from aiodurable.embedded import EmbeddedPostgres
from aiodurable.errors import ConfigurationError, LockCapacityError
from aiodurable.keys import own_lock_key
from aiodurable.locks import PostgresLockManager
from aiodurable.locks.rows import RowWire
from aiodurable.locks.session import LockSession
from aiodurable.settings import LockMode, Settings
from server_locks import ServerLocks
from waiting import wait_until, within

LEASES = int(os.environ.get("AIODURABLE_TEST_LEASES", "5000"))
GATE = "((($1::bigint # 7019263971491471714) >> 32)::int, (($1 # 7019263971491471714) << 32 >> 32)::int)"


@pytest.fixture
def mode() -> LockMode:
    return "rows"


@pytest.fixture(scope="module")
def small() -> Iterator[str]:
    """A server with room for few locks."""
    settings = {"max_connections": "20", "max_locks_per_transaction": "10", "max_prepared_transactions": "0"}
    with EmbeddedPostgres(durable=False, settings=settings) as url:
        yield url


@pytest.fixture
async def beside(dsn: str) -> AsyncIterator[asyncpg.Connection]:
    """A connection that has nothing to do with locks."""
    connection = await asyncpg.connect(**parse_dsn(dsn).asyncpg)
    yield connection
    await connection.close()


def session_of(locks: PostgresLockManager) -> LockSession:
    session = locks._keepers[0].session
    assert session is not None
    return session


# ---- number ----------------------------------------------------------------------------------------------------------


async def test_leases_take_no_room_in_the_lock_table(dsn: str, beside: asyncpg.Connection) -> None:
    async with PostgresLockManager(dsn, mode="rows") as locks:
        leases = await asyncio.gather(*(locks.acquire(f"lock {n}") for n in range(LEASES)))
        assert len({lease.token for lease in leases}) == LEASES
        assert await beside.fetchval("SELECT count(*) FROM aiodurable_locks") == LEASES
        count = "SELECT count(*) FROM pg_locks JOIN pg_database d ON d.oid = database AND datname = current_database()"
        assert await beside.fetchval(f"{count} WHERE locktype = 'advisory'") == 4  # two owners, two declarations
        assert len(await locks.holders()) == LEASES
        await asyncio.gather(*(lease.release() for lease in leases))
        assert not any(lease.lost for lease in leases)
        assert await beside.fetchval("SELECT count(*) FROM aiodurable_locks") == 0


async def test_a_server_with_room_for_few_locks_has_room_for_many_rows(small: str) -> None:
    async with PostgresLockManager(small, mode="rows") as locks:
        leases = await asyncio.gather(*(locks.acquire(f"lock {n}") for n in range(1000)))
        assert locks.health().held == 1000
        assert sum(session.used for session in locks.health().sessions) == 0
        await asyncio.gather(*(lease.release() for lease in leases))


async def test_where_others_fill_the_lock_table_an_acquire_fails_and_a_release_waits_for_room(small: str) -> None:
    async with PostgresLockManager(small, mode="rows", sessions=1) as locks:
        kept, going = await locks.acquire("kept"), await locks.acquire("going")
        await wait_until(lambda: session_of(locks).idle)
        greedy = await asyncpg.connect(small)
        with pytest.raises(asyncpg.OutOfMemoryError):
            await greedy.execute("SELECT pg_advisory_lock(n) FROM generate_series(1, 100000) n")
        asking, letting_go = asyncio.create_task(locks.acquire("one more")), asyncio.create_task(going.release())
        await wait_until(lambda: not session_of(locks).idle)
        await greedy.execute("SELECT pg_advisory_unlock_all()")
        with pytest.raises(LockCapacityError):
            await asking
        await within(10, letting_go)
        assert not kept.lost
        assert not going.lost
        assert await greedy.fetchval("SELECT count(*) FROM aiodurable_locks") == 1
        await kept.release()
        async with locks.hold("one more"), locks.hold("going"):
            pass
        await greedy.close()


async def test_what_was_let_go_takes_no_room_for_long(dsn: str, beside: asyncpg.Connection) -> None:
    sizes: list[int] = []
    async with PostgresLockManager(dsn, mode="rows", sessions=1) as locks:
        for turn in range(6):
            for _ in range(5):
                leases = await asyncio.gather(*(locks.acquire(f"lock {turn} {n}") for n in range(500)))
                await asyncio.gather(*(lease.release() for lease in leases))
            await wait_until(lambda: session_of(locks).idle)
            await beside.execute("VACUUM aiodurable_locks")  # as autovacuum does
            sizes.append(int(str(await beside.fetchval("SELECT pg_total_relation_size('aiodurable_locks')"))))
    assert sizes[-1] <= sizes[0] * 1.5


# ---- owners ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("settings", [Settings()])  # on a busy machine so many may take longer than short leases
async def test_a_whole_batch_is_taken_over_from_an_owner_who_is_gone(
    locks: PostgresLockManager, other: PostgresLockManager, server_locks: ServerLocks
) -> None:
    names = [f"lock {n}" for n in range(1500)]
    old = await asyncio.gather(*(locks.acquire(name) for name in names))
    assert not any(await asyncio.gather(*(other.try_acquire(name) for name in names)))
    for keeper in locks._keepers:
        assert keeper.session is not None
        server_locks.end_session_of(keeper.session.wire.pid)
    await wait_until(lambda: all(lease.lost for lease in old))
    new = await asyncio.gather(*(other.acquire(name, timeout=10) for name in names))
    assert all(after.token > before.token for before, after in zip(old, new, strict=True))
    await asyncio.gather(*(lease.release() for lease in (*old, *new)))


@pytest.mark.parametrize("told_by", ["heartbeat", "try", "release", "batch", "audit"])
async def test_a_session_without_the_lock_it_lives_by_is_over_at_its_next_statement(
    locks: PostgresLockManager, other: PostgresLockManager, told_by: str
) -> None:
    lease, neighbours = await locks.acquire("a"), await asyncio.gather(*(locks.acquire(f"b {n}") for n in range(9)))
    session = lease._holding
    assert isinstance(session, LockSession)
    await wait_until(lambda: session.idle)
    await session.wire._connection.fetch("SELECT pg_advisory_unlock_all()")  # as a pooler's DISCARD ALL does
    taken = await other.try_acquire("a")  # the server frees such rows at once
    if told_by == "try":
        session.acquire(1, "another")
    elif told_by == "release":
        session.release(lease.key)
    elif told_by == "batch":
        for neighbour in neighbours:
            session.release(neighbour.key)
    elif told_by == "audit":
        session.audit_soon()
    await within(
        5,
        lease.wait_lost() if told_by != "release" else wait_until(lambda: session.over is not None),
        what="the session to hear that its lock is another's",
    )
    assert session.over is not None
    assert "leases is gone" in session.over
    assert taken is not None
    assert not taken.lost


async def test_a_session_holds_the_lock_it_lives_by_twice_after_whatever_it_did(locks: PostgresLockManager) -> None:
    """Each statement gives one of them back and takes it again: with one alone, the lock would be free in between."""
    await locks.try_acquire("a")
    await asyncio.gather(
        *(lease.release() for lease in await asyncio.gather(*(locks.acquire(f"b {n}") for n in range(9))))
    )
    session = session_of(locks)
    session.audit_soon()
    await wait_until(lambda: session.idle)
    assert isinstance(session.wire, RowWire)
    unlock = "SELECT pg_advisory_unlock(($1::bigint >> 32)::int, ($1 << 32 >> 32)::int)"
    given_back = [await session.wire._connection.fetchval(unlock, session.wire.owner) for _ in range(3)]
    assert given_back == [True, True, False]


async def test_rows_of_owners_who_are_gone_are_taken_away(
    locks: PostgresLockManager, beside: asyncpg.Connection
) -> None:
    lease = await locks.acquire("a")
    await beside.execute("INSERT INTO aiodurable_locks (key, owner) SELECT n, n % 3 FROM generate_series(1, 700) n")
    assert len(await locks.holders()) == 1
    count = "SELECT count(*) FROM aiodurable_locks"
    for left in (201, 1):
        session_of(locks).audit_soon()

        async def swept(left: int = left) -> bool:
            return await beside.fetchval(count) == left

        await wait_until(swept)
    assert not lease.lost


async def test_since_is_when_the_lock_was_taken(locks: PostgresLockManager, beside: asyncpg.Connection) -> None:
    before = await beside.fetchval("SELECT clock_timestamp()")
    async with locks.hold("a"):
        holder = await locks.holder_of("a")
        assert holder is not None
        assert holder.since is not None
        assert str(before) <= str(holder.since) <= str(await beside.fetchval("SELECT clock_timestamp()"))


# ---- nobody waits inside Postgres ------------------------------------------------------------------------------------


async def test_a_key_whose_gate_is_closed_is_refused_at_once_and_let_go_of_when_it_opens(
    locks: PostgresLockManager, server_locks: ServerLocks, beside: asyncpg.Connection
) -> None:
    lease = await locks.acquire("a")
    transaction = beside.transaction()
    await transaction.start()
    for name in ("a", "b"):
        assert await beside.fetchval(f"SELECT pg_try_advisory_xact_lock{GATE}", own_lock_key(name, "aiodurable"))
    assert await within(10, locks.try_acquire("b")) is None
    releasing = asyncio.create_task(lease.release())
    session = lease._holding
    assert isinstance(session, LockSession)
    await wait_until(lambda: session._sending)
    assert server_locks.leases() == 1
    assert not releasing.done()
    await transaction.rollback()
    await within(10, releasing)
    assert not lease.lost
    assert server_locks.leases() == 0


async def test_batches_of_the_same_keys_in_any_order_never_wait_for_each_other(
    locks: PostgresLockManager, other: PostgresLockManager, beside: asyncpg.Connection
) -> None:
    waits = "SELECT count(*) FROM pg_locks WHERE NOT granted AND locktype IN ('transactionid', 'tuple', 'spectoken')"
    ended, looked = asyncio.Event(), 0

    async def look() -> None:
        nonlocal looked
        while not ended.is_set():
            assert await beside.fetchval(waits) == 0
            looked += 1

    async def fight(who: PostgresLockManager, names: list[str]) -> int:
        taken = 0
        for _ in range(40):
            leases = [lease for lease in await asyncio.gather(*map(who.try_acquire, names)) if lease]
            taken += len(leases)
            await asyncio.gather(*(lease.release() for lease in leases))
        return taken

    names = [f"lock {n}" for n in range(200)]
    looking = asyncio.create_task(look())
    taken = await asyncio.gather(fight(locks, names), fight(other, names[::-1]))
    ended.set()
    await looking
    assert min(taken) > 0
    assert looked > 0


async def test_a_database_with_a_stricter_isolation_changes_nothing(dsn: str, beside: asyncpg.Connection) -> None:
    """There, a row that came since a statement began would be an error, and the session over."""
    database = await beside.fetchval("SELECT current_database()")
    await beside.execute(f"ALTER DATABASE \"{database}\" SET default_transaction_isolation = 'repeatable read'")
    async with PostgresLockManager(dsn, mode="rows", sessions=1) as locks:
        await wait_until(lambda: session_of(locks).idle)
        isolation = await session_of(locks).wire._connection.fetchval("SHOW transaction_isolation")
        assert isolation == "read committed"


# ---- one mode a namespace --------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("first", "second"), [("advisory", "rows"), ("rows", "advisory")])
async def test_the_other_mode_is_refused_while_one_is_in_use(dsn: str, first: LockMode, second: LockMode) -> None:
    late = PostgresLockManager(dsn, mode=second)
    async with PostgresLockManager(dsn, mode=first, sessions=1), PostgresLockManager(dsn, mode=first, sessions=1):
        with pytest.raises(ConfigurationError, match=f"lock mode '{second}'.*use '{first}'"):
            await late.open()
        async with PostgresLockManager(dsn, mode=second, namespace="another") as apart, apart.hold("a"):
            pass
    async with late, late.hold("a"):
        pass


async def test_of_two_modes_that_start_at_once_at_most_one_is_left(dsn: str) -> None:
    for _ in range(5):
        managers = [PostgresLockManager(dsn, mode=mode, sessions=1) for mode in ("advisory", "rows")]
        results = await asyncio.gather(*(locks.open() for locks in managers), return_exceptions=True)
        assert any(isinstance(result, ConfigurationError) for result in results)
        async with AsyncExitStack() as stack:
            for locks in managers:
                stack.push_async_callback(locks.aclose)


def test_a_mode_that_does_not_exist_is_refused() -> None:
    with pytest.raises(ConfigurationError, match="advisory, rows"):
        PostgresLockManager("postgresql://localhost/x", mode="table")  # pyright: ignore[reportArgumentType]
    with pytest.raises(ConfigurationError, match="advisory, rows"):
        Settings.from_env({"AIODURABLE_LOCK_MODE": "table"})
    assert Settings.from_env({"AIODURABLE_LOCK_MODE": "rows"}).lock_mode == "rows"


async def test_an_owner_has_a_number_of_its_own(locks: PostgresLockManager, other: PostgresLockManager) -> None:
    wires = [keeper.session.wire for who in (locks, other) for keeper in who._keepers if keeper.session]
    owners = {wire.owner for wire in wires if isinstance(wire, RowWire)}
    assert len(owners) == 4
