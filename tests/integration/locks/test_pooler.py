"""Locks and a real PgBouncer: refused in transaction mode; in session mode they hold, if that is
allowed.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Iterator
from dataclasses import replace

import asyncpg
import pytest

from aiodurable.errors import ConfigurationError, LockError, SessionLocksUnsupportedError
from aiodurable.lock_keys import own_lock_key
from aiodurable.locks import PostgresLockManager
from tests.support.fault_times import Timetable
from tests.support.lock_holder import SHORT, holder
from tests.support.lock_view import ServerLocks
from tests.support.pgbouncer import through
from tests.support.waiting import wait_until, within


@pytest.fixture
def transaction_pooler(dsn: str) -> Iterator[str]:
    with through("transaction", dsn) as url:
        yield url


@pytest.fixture
def session_pooler(dsn: str) -> Iterator[str]:
    with through("session", dsn) as url:
        yield url


@pytest.mark.parametrize("allow_proxy", [False, True])
async def test_a_pooler_in_transaction_mode_is_refused_also_when_a_proxy_is_allowed(
    transaction_pooler: str, allow_proxy: bool
) -> None:
    locks = PostgresLockManager(transaction_pooler, allow_proxy=allow_proxy)
    with pytest.raises(SessionLocksUnsupportedError, match="lock_dsn") as refused:
        await locks.open()
    assert isinstance(refused.value, LockError)
    assert isinstance(refused.value, ConfigurationError)
    connection = await asyncpg.connect(transaction_pooler, statement_cache_size=0)
    try:
        # Nothing of ours stayed behind on a server connection that others get next.
        assert await connection.fetchval(
            "SELECT current_setting('idle_session_timeout', true)"
        ) in ("0", None)
    finally:
        await connection.close()


async def test_a_pooler_in_session_mode_is_taken_only_when_allowed_and_holds(
    session_pooler: str, dsn: str
) -> None:
    with pytest.raises(SessionLocksUnsupportedError, match="allow_proxy"):
        await PostgresLockManager(session_pooler).open()
    async with (
        PostgresLockManager(session_pooler, allow_proxy=True) as proxied,
        PostgresLockManager(dsn) as direct,
    ):
        async with proxied.hold("a"):
            assert await direct.try_acquire("a") is None
        waiting = asyncio.create_task(proxied.acquire("b", timeout=None))
        await (await waiting).release()


async def test_through_a_pooler_in_session_mode_a_lease_outlives_idleness_and_others_who_leave(
    session_pooler: str, dsn: str, server_locks: ServerLocks
) -> None:
    """Who leaves has his server connection swept by DISCARD ALL: that must never be ours."""
    settings = replace(SHORT, lease_ttl_s=6)
    async with (
        PostgresLockManager(session_pooler, settings=settings, allow_proxy=True) as proxied,
        PostgresLockManager(dsn) as direct,
    ):
        lease = await proxied.acquire("a")
        idle_until = asyncio.get_running_loop().time() + 1.2 * settings.lease_ttl_s
        while asyncio.get_running_loop().time() < idle_until:  # heartbeats alone keep it
            guest = await asyncpg.connect(session_pooler)
            await guest.fetchval("SELECT pg_advisory_lock(1)")
            await guest.close()
            assert await direct.try_acquire("a") is None
        assert not lease.lost
        await lease.release()
        # also of the last guest, whose connection is swept when he has gone
        await wait_until(lambda: server_locks.leases() == 0)


async def test_through_a_pooler_in_session_mode_a_killed_holder_frees_its_lock(
    session_pooler: str, dsn: str, monkeypatch: pytest.MonkeyPatch, timetable: Timetable
) -> None:
    monkeypatch.setenv("AIODURABLE_LOCK_ALLOW_PROXY", "1")
    async with (
        PostgresLockManager(dsn, settings=SHORT) as direct,
        holder(session_pooler) as process,
    ):
        waiting = asyncio.create_task(direct.acquire("a", timeout=None))
        await wait_until(lambda: direct.health().waiting == 1)
        process.kill()
        killed = time.monotonic()
        lease = await within(SHORT.lease_ttl_s + 10, waiting)
        timetable.trial(taken_over=time.monotonic() - killed)
        await lease.release()


async def test_a_pooler_that_is_restarted_loses_the_leases_that_went_through_it(dsn: str) -> None:
    async with PostgresLockManager(dsn) as direct:
        with through("session", dsn) as url:
            locks = PostgresLockManager(url, settings=SHORT, allow_proxy=True)
            await locks.open()
            lease = await locks.acquire("a")
        await within(SHORT.lease_ttl_s + 10, lease.wait_lost())
        await locks.aclose()
        async with direct.hold("a", timeout=SHORT.lease_ttl_s + 10):
            pass


async def test_what_a_pooler_that_resets_nothing_left_on_a_connection_is_let_go(
    dsn: str, server_locks: ServerLocks
) -> None:
    key = own_lock_key("a", "aiodurable")
    with through("session", dsn, server_reset_query="") as url:
        guest = await asyncpg.connect(url)
        pid = await guest.fetchval("SELECT pg_backend_pid() FROM pg_advisory_lock($1)", key)
        await guest.close()
        assert server_locks.keys() == {(pid, key)}
        async with (
            PostgresLockManager(url, sessions=1, allow_proxy=True) as locks,
            PostgresLockManager(dsn) as direct,
        ):
            assert [session.pid for session in locks.health().sessions] == [pid]
            assert server_locks.keys() == set()
            async with direct.hold("a"):
                pass


async def test_a_pooler_that_cuts_idle_clients_leaves_lock_sessions_alone(dsn: str) -> None:
    """It does so to clients without a server connection, and in session mode a lock session has one
    for ever.
    """
    calm = replace(SHORT, lease_ttl_s=8, lease_heartbeat_s=3)
    with through("session", dsn, client_idle_timeout="1") as url:
        async with (
            PostgresLockManager(url, settings=calm, allow_proxy=True) as locks,
            locks.hold("a") as lease,
        ):

            def silent_s() -> list[float]:
                return [session.answered_s or 0.0 for session in locks.health().sessions]

            for place in (0, 1):  # each has heartbeats of its own
                await wait_until(lambda place=place: silent_s()[place] > 2)
                await wait_until(lambda place=place: silent_s()[place] < 1)
            assert not lease.lost
            assert [session.reconnects for session in locks.health().sessions] == [0, 0]
