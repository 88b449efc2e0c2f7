"""One task of one process holds a lock; the others learn the holder, in bounded time."""

from __future__ import annotations

import asyncio
import time
from typing import Any

import asyncpg
import psycopg
import pytest
from psycopg.rows import DictRow, dict_row

from aiodurable.dsn import parse_dsn
from aiodurable.errors import (
    ClosedError,
    ConfigurationError,
    InvalidArgumentError,
    LeaseLostError,
    LockBusyError,
    LockTimeoutError,
    PostgresUnavailableError,
    SchemaMismatchError,
)
from aiodurable.events import Event, LeaseAcquired, LeaseLost, LeaseReleased, inline
from aiodurable.lock_keys import MIGRATION_KEY
from aiodurable.locks import Lease, PostgresLockManager, create_lock_manager_with_retry
from aiodurable.locks.statements import LockStatements
from aiodurable.postgres import schema
from aiodurable.settings import Settings
from tests.support.internals import connection_of, session_of
from tests.support.lock_view import ServerLocks
from tests.support.other_loop import in_another_loop
from tests.support.ports import free_port
from tests.support.waiting import wait_until, within


async def test_a_lock_that_is_held_is_refused_at_once_with_its_holder(
    locks: PostgresLockManager, other: PostgresLockManager
) -> None:
    async with locks.hold("a"):
        for asking in (locks, other):
            with pytest.raises(LockBusyError) as refused:
                async with asking.hold("a"):
                    pytest.fail("entered")
            assert refused.value.holder is not None
            assert refused.value.holder.application.startswith("aiodurable:lock@")
            assert refused.value.thread_id == "a"
            assert await asking.try_acquire("a") is None
            assert await asking.is_locked("a")
            assert await asking.holders() == [refused.value.holder]
    assert not await other.is_locked("a")
    assert await other.holder_of("a") is None
    lease = await other.try_acquire("a")
    assert lease is not None
    await lease.release()


async def test_a_lock_is_free_as_soon_as_its_body_ends(
    locks: PostgresLockManager, server_locks: ServerLocks
) -> None:
    with pytest.raises(ZeroDivisionError):
        async with locks.hold("a"):
            assert server_locks() == 1
            raise ZeroDivisionError
    assert server_locks() == 0


async def test_thousands_of_leases_live_on_two_connections(
    dsn: str, server_locks: ServerLocks
) -> None:
    async with PostgresLockManager(dsn, settings=Settings()) as locks:
        leases = await asyncio.gather(*(locks.acquire(f"lock {n}") for n in range(2000)))
        assert server_locks.leases() == 2000
        assert server_locks.sessions() == 2
        await asyncio.gather(*(lease.release() for lease in leases))
        assert server_locks() == 0


async def test_every_lease_has_a_larger_token_than_the_last_on_that_lock(
    locks: PostgresLockManager, other: PostgresLockManager
) -> None:
    tokens: list[int] = []

    async def take(who: PostgresLockManager) -> None:
        for _ in range(20):
            async with who.hold("a", timeout=None) as lease:
                tokens.append(lease.token)

    await asyncio.gather(*(take(who) for who in (locks, locks, locks, other)))
    assert len(tokens) == 80
    assert tokens == sorted(set(tokens))


async def test_who_waits_in_one_process_is_served_in_order(locks: PostgresLockManager) -> None:
    served: list[int] = []

    async def take(number: int) -> None:
        async with locks.hold("a", timeout=None):
            served.append(number)

    async with locks.hold("a"):
        tasks: list[asyncio.Task[None]] = []
        for number in range(50):
            tasks.append(asyncio.create_task(take(number)))
            await asyncio.sleep(0)
        await wait_until(lambda: locks.health().waiting == 50)
    await asyncio.gather(*tasks)
    assert served == list(range(50))


async def test_a_wait_ends_with_its_time(
    locks: PostgresLockManager, other: PostgresLockManager, server_locks: ServerLocks
) -> None:
    async with locks.hold("a"):
        for asking in (locks, other):
            began = time.monotonic()
            with pytest.raises(LockTimeoutError) as missed:
                async with asking.hold("a", timeout=0.1):
                    pytest.fail("entered")
            assert 0.1 <= time.monotonic() - began < 10
            assert isinstance(missed.value, TimeoutError)
        await wait_until(lambda: server_locks.flags() == 0)
    assert server_locks() == 0


async def test_who_waits_is_woken_long_before_the_tick(
    locks: PostgresLockManager,
    other: PostgresLockManager,
    server_locks: ServerLocks,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("aiodurable.locks.waiters.TICK_S", (60, 60))
    async with asyncio.TaskGroup() as group:
        async with locks.hold("a"):
            waiting = group.create_task(other.acquire("a", timeout=None))
            await wait_until(lambda: server_locks.flags() == 1)
    lease = waiting.result()
    await wait_until(lambda: server_locks.flags() == 0)
    await lease.release()


async def test_without_a_notification_the_tick_finds_a_free_lock(
    locks: PostgresLockManager, other: PostgresLockManager, server_locks: ServerLocks
) -> None:
    async with asyncio.TaskGroup() as group:
        lease = await locks.acquire("a")
        waiting = group.create_task(other.acquire("a", timeout=None))
        await wait_until(lambda: server_locks.flags() == 1)
        holder = await locks.holder_of("a")
        assert holder is not None
        server_locks.end_session_of(holder.pid)  # a dead holder notifies nobody
    assert lease.lost or await wait_until(lambda: lease.lost)
    await waiting.result().release()


@pytest.mark.parametrize("namespaces", [("one", "two")])
async def test_namespaces_do_not_meet(dsn: str, namespaces: tuple[str, str]) -> None:
    one, two = (
        PostgresLockManager(dsn, sessions=1, namespace=namespace) for namespace in namespaces
    )
    async with one, two, one.hold("a"), two.hold("a"):
        assert len(await one.holders()) == 2


@pytest.mark.parametrize("name", ["", "a\0b", "x" * 513, "\ud800", 7, ["a"]])
async def test_a_name_that_cannot_be_a_thread_id_is_refused(
    locks: PostgresLockManager, name: Any
) -> None:
    for _ in range(2):
        with pytest.raises(InvalidArgumentError):
            await locks.try_acquire(name)
        with pytest.raises(InvalidArgumentError):
            async with locks.hold(name):
                pytest.fail("entered")


@pytest.mark.parametrize("options", [{"sessions": -1}, {"namespace": ""}, {"namespace": "x" * 65}])
def test_a_manager_that_cannot_work_is_refused(options: dict[str, object]) -> None:
    with pytest.raises(ConfigurationError):
        PostgresLockManager("postgresql://localhost/x", **options)  # pyright: ignore[reportArgumentType]


async def test_a_closed_manager_says_so_and_its_leases_are_lost(
    dsn: str, server_locks: ServerLocks
) -> None:
    locks = PostgresLockManager(dsn)
    await locks.aclose()
    with pytest.raises(ClosedError):
        await locks.try_acquire("a")
    await locks.open()
    await locks.open()
    lease = await locks.acquire("a")
    waiters = [asyncio.create_task(locks.acquire("a", timeout=None)) for _ in range(3)]
    await wait_until(lambda: locks.health().waiting == 3)
    await locks.aclose()
    await locks.aclose()
    assert lease.lost
    await within(30, lease.wait_lost())
    await lease.release()
    assert {type(error) for error in await asyncio.gather(*waiters, return_exceptions=True)} == {
        ClosedError
    }
    assert server_locks() == 0
    await wait_until(lambda: server_locks.sessions() == 0)
    with pytest.raises(ClosedError):
        await locks.holders()
    async with locks, locks.hold("a"):
        assert server_locks() == 1


@pytest.mark.parametrize("first", ["runs on", "is over"])
async def test_a_manager_of_another_event_loop_says_so_and_takes_nothing(
    dsn: str, settings: Settings, first: str
) -> None:
    locks = PostgresLockManager(dsn, settings=settings)

    async def hold() -> None:
        async with locks.hold("a"):
            pytest.fail("entered")

    async def refused() -> None:
        for ask in (
            hold,
            lambda: locks.try_acquire("a"),
            lambda: locks.acquire("a", timeout=5),
            lambda: locks.is_locked("a"),
            locks.open,
        ):
            with pytest.raises(ClosedError, match="another event loop"):
                await ask()

    if first == "runs on":
        async with locks:
            await in_another_loop(refused)
            assert (locks.health().held, locks.health().waiting) == (0, 0)
            with pytest.raises(ClosedError, match="another event loop"):
                await in_another_loop(locks.aclose)
            async with locks.hold("a"):
                pass
    else:
        await in_another_loop(locks.open)
        await refused()
        await locks.aclose()
        async with locks, locks.hold("a"):
            pass


async def test_a_database_without_our_tables_gets_the_token_sequence(empty_dsn: str) -> None:
    managers = [PostgresLockManager(empty_dsn, sessions=1) for _ in range(8)]
    await asyncio.gather(*(locks.open() for locks in managers))
    async with managers[0].hold("a") as lease:
        assert lease.token >= 1
    await asyncio.gather(*(locks.aclose() for locks in managers))


async def test_while_somebody_migrates_a_manager_makes_nothing_and_takes_what_is_made(
    empty_dsn: str,
) -> None:
    """Two that make the same at once: one of them fails, whatever IF NOT EXISTS promises."""
    async with await psycopg.AsyncConnection[DictRow].connect(
        empty_dsn, autocommit=True, row_factory=dict_row
    ) as somebody:
        await somebody.execute("SELECT pg_advisory_lock(%s)", (MIGRATION_KEY,))
        managers = [PostgresLockManager(empty_dsn, sessions=1) for _ in range(3)]
        opening = [asyncio.create_task(locks.open()) for locks in managers]

        async def tried() -> bool:
            cursor = await somebody.execute(
                "SELECT count(DISTINCT pid) AS n, to_regclass('aiodurable_lock_tokens') AS made"
                " FROM pg_stat_activity WHERE datname = current_database() AND application_name"
                " LIKE 'aiodurable:lock@%' AND (query = 'COMMIT;' OR query LIKE"
                " '%pg_try_advisory_xact_lock%')"
            )
            row = await cursor.fetchone()
            assert row is not None
            assert row["made"] is None
            return row["n"] == 3

        await wait_until(tried)
        await somebody.execute("SELECT pg_advisory_unlock_all()")
    await asyncio.gather(*opening)
    assert await schema.migrate(parse_dsn(empty_dsn)) == len(schema.migrations())
    async with managers[0].hold("a"):
        pass
    await asyncio.gather(*(locks.aclose() for locks in managers))


async def test_without_setup_a_missing_token_sequence_is_an_error(empty_dsn: str) -> None:
    with pytest.raises(SchemaMismatchError, match="aiodurable_lock_tokens"):
        await PostgresLockManager(empty_dsn, settings=Settings(auto_migrate=False)).open()


async def test_a_lease_ends_once(locks: PostgresLockManager) -> None:
    lease = await locks.acquire("a")
    assert repr(lease) == f"<Lease 'a' token={lease.token} held>"
    lease.check()
    await lease.release()
    async with locks.hold("a") as second:
        await lease.release()
        assert await locks.is_locked("a")
        second.check()
    assert lease.released
    assert not lease.lost
    with pytest.raises(LeaseLostError, match="released"):
        lease.check()


async def test_observers_hear_of_every_lease(
    dsn: str, settings: Settings, server_locks: ServerLocks
) -> None:
    heard: list[Event] = []
    async with PostgresLockManager(
        dsn, settings=settings, observers=[inline(heard.append)]
    ) as locks:
        async with locks.hold("a"):
            pass
        lease = await locks.acquire("b")
        server_locks.end_sessions()
        await within(30, lease.wait_lost())
        await wait_until(lambda: len(heard) == 4)
        await lease.release()
    assert [type(event) for event in heard] == [
        LeaseAcquired,
        LeaseReleased,
        LeaseAcquired,
        LeaseLost,
        LeaseReleased,
    ]
    assert {event.thread_id for event in heard} == {"a", "b"}


async def test_a_start_before_postgres_is_bounded_in_time() -> None:
    began = time.monotonic()
    with pytest.raises(PostgresUnavailableError):
        await create_lock_manager_with_retry(f"postgresql://127.0.0.1:{free_port()}/x", timeout=0.5)
    assert time.monotonic() - began < 20


async def test_a_database_that_does_not_exist_is_an_error_without_waiting(dsn: str) -> None:
    began = time.monotonic()
    with pytest.raises(PostgresUnavailableError, match="no such database"):
        await create_lock_manager_with_retry(dsn.replace("dbname=", "dbname=no_"), timeout=60)
    assert time.monotonic() - began < 30


async def test_a_manager_with_retry_comes_open(dsn: str) -> None:
    locks = await create_lock_manager_with_retry(dsn, timeout=10, sessions=1)
    try:
        async with locks.hold("a") as lease:
            assert isinstance(lease, Lease)
    finally:
        await locks.aclose()


@pytest.mark.parametrize("kind", ["threads", "callers"])
async def test_the_locks_of_each_kind_spread_over_the_sessions(
    locks: PostgresLockManager, kind: str
) -> None:
    """Each session has a share of the lock table: were all locks of a kind on one, the other share
    would be unused.
    """
    acquire = locks.acquire_thread if kind == "threads" else locks.acquire
    leases = await asyncio.gather(*(acquire(f"lock {n}") for n in range(64)))
    held = [session.held for session in locks.health().sessions]
    assert len(held) == 2
    assert min(held) > 10
    await asyncio.gather(*(lease.release() for lease in leases))


async def test_a_connection_that_is_ended_while_it_becomes_the_session_is_replaced(
    dsn: str, settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    prepare, ended = LockStatements.prepare, list[int]()

    async def ends(statements: LockStatements, *args: Any, **more: Any) -> None:
        if len(ended) < most:
            ended.append(statements.pid)
            with psycopg.connect(dsn, autocommit=True) as connection:
                connection.execute("SELECT pg_terminate_backend(%s)", (statements.pid,))
        await prepare(statements, *args, **more)

    monkeypatch.setattr(LockStatements, "prepare", ends)
    most = 2
    async with PostgresLockManager(dsn, settings=settings) as locks, locks.hold("a"):
        assert len(ended) == most
    most = 100
    with pytest.raises(PostgresUnavailableError):
        await PostgresLockManager(dsn, settings=settings).open()


@pytest.mark.parametrize(
    ("default", "waits"),
    [("off", "on"), ("on", "on"), ("local", "local"), ("remote_apply", "remote_apply")],
)
async def test_the_token_of_a_lock_waits_for_the_disk(
    dsn: str, settings: Settings, db: asyncpg.Connection, default: str, waits: str
) -> None:
    name = parse_dsn(dsn).asyncpg["database"]
    await db.execute(f'ALTER DATABASE "{name}" SET synchronous_commit = {default}')
    async with PostgresLockManager(dsn, sessions=1, settings=settings) as locks:
        session = session_of(locks)
        await wait_until(lambda: session.idle)  # its first audit uses the connection too
        connection, statements = connection_of(session), session.statements
        for keys in ([1], [3, 5]):
            async with connection.transaction():
                assert all((await statements.batch([], keys, 0)).acquired)
                assert await connection.fetchval("SHOW synchronous_commit") == waits
