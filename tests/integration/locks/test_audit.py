"""What a session believes to hold is what pg_locks says, or it finds out."""

from __future__ import annotations

import asyncio
import logging

import pytest

from aiodurable.locks import PostgresLockManager
from tests.support.internals import audit_due, connection_of, session_of
from tests.support.lock_view import ServerLocks
from tests.support.session_faults import slip_in, take_away
from tests.support.waiting import wait_until, within


@pytest.fixture
async def locks(dsn: str, settings: object) -> object:
    async with PostgresLockManager(dsn, sessions=1) as opened:
        yield opened


async def test_a_lock_that_the_server_does_not_have_is_noticed(locks: PostgresLockManager) -> None:
    lease, neighbour = await locks.acquire("a"), await locks.acquire("b")
    session = session_of(locks)
    await wait_until(lambda: session.idle)
    await take_away(session, lease.key)
    session.audit_soon()
    await within(30, lease.wait_lost())
    assert neighbour.lost
    assert session.over is not None
    assert "1 of the 2 locks" in session.over


async def test_a_lock_that_nobody_here_holds_is_let_go(
    locks: PostgresLockManager, server_locks: ServerLocks, caplog: pytest.LogCaptureFixture
) -> None:
    lease = await locks.acquire("a")
    session = session_of(locks)
    await wait_until(lambda: session.idle)
    await slip_in(session, 42)
    assert server_locks() == 2
    with caplog.at_level(logging.ERROR):
        session.audit_soon()
        await wait_until(lambda: server_locks() == 1)
    assert "no lease in this process has" in caplog.text
    assert not lease.lost
    await lease.release()


async def test_an_audit_under_traffic_finds_nothing_to_say(locks: PostgresLockManager) -> None:
    session = session_of(locks)
    audits = 0
    done = asyncio.Event()

    async def take(number: int) -> None:
        while not done.is_set():
            async with locks.hold(f"lock {number % 10}", timeout=None):
                await asyncio.sleep(0)

    tasks = [asyncio.create_task(take(number)) for number in range(30)]
    while audits < 50:
        session.audit_soon()
        await wait_until(lambda: not audit_due(session))
        audits += 1
    done.set()
    await asyncio.gather(*tasks)
    assert session.over is None


async def test_a_second_unlock_finds_nothing(locks: PostgresLockManager) -> None:
    """A planner that called pg_try_advisory_lock twice a row would leave a second count that
    pg_locks does not show.
    """
    leases = await asyncio.gather(*(locks.acquire(f"lock {n}") for n in range(500)))
    one = await locks.acquire("one")
    await asyncio.gather(*(lease.release() for lease in leases))
    await one.release()
    connection = connection_of(session_of(locks))
    keys = [lease.key for lease in (*leases, one)]
    await wait_until(lambda: session_of(locks).idle)
    rows = await connection.fetch("SELECT pg_advisory_unlock(k) FROM unnest($1::bigint[]) k", keys)
    assert len(rows) == 501
    assert not any(row[0] for row in rows)
