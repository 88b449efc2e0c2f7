"""A lock that may be gone is gone: the holder learns it, and stops before the server gives it
away.
"""

from __future__ import annotations

import asyncio
import time

import pytest

from aiodurable.errors import InvalidArgumentError, LeaseLostError, PostgresUnavailableError
from aiodurable.locks import Lease, PostgresLockManager, cancel_on_lost
from aiodurable.settings import Settings
from tests.support.internals import (
    session_with,
    stop_watching_the_deadline,
    supervisors_of,
    trust_of,
)
from tests.support.lock_view import ServerLocks
from tests.support.session_faults import take_away
from tests.support.waiting import wait_until, within


async def test_a_session_that_ends_cancels_the_body_and_surfaces(
    locks: PostgresLockManager, server_locks: ServerLocks
) -> None:
    with pytest.raises(LeaseLostError):
        async with locks.hold("a"):
            assert server_locks.end_sessions() == 2
            await within(30, asyncio.Event().wait(), what="the body to be cancelled")
    async with locks.hold("a", timeout=10):  # another session takes its place
        assert server_locks.leases() == 1


async def test_without_cancel_on_lost_the_body_checks_the_lease_itself(
    locks: PostgresLockManager, server_locks: ServerLocks
) -> None:
    async with locks.hold("a", cancel_on_lost=False) as lease:
        server_locks.end_sessions()
        await within(30, lease.wait_lost(), what="the holder to hear of it")
        assert lease.lost
        with pytest.raises(LeaseLostError, match="somebody else may hold"):
            lease.check()


async def test_all_leases_of_a_session_are_lost_and_none_of_another(
    locks: PostgresLockManager, server_locks: ServerLocks
) -> None:
    leases = await asyncio.gather(*(locks.acquire(f"lock {n}") for n in range(50)))
    keeper = supervisors_of(locks)[0]
    assert keeper.session is not None
    mine = set(keeper.session.held)
    server_locks.end_session_of(keeper.session.statements.pid)
    await wait_until(lambda: {lease.key for lease in leases if lease.lost} == mine)
    assert 0 < len(mine) < 50
    await asyncio.gather(*(lease.release() for lease in leases))
    await wait_until(lambda: server_locks.sessions() == 2)
    assert server_locks() == 0


async def test_a_lost_name_is_not_taken_again_in_this_process_before_the_loser_has_left(
    locks: PostgresLockManager, server_locks: ServerLocks
) -> None:
    order: list[str] = []
    cleaned = asyncio.Event()

    async def loser() -> None:
        async with locks.hold("a"):
            held.set()
            try:
                await asyncio.Event().wait()
            finally:
                await cleaned.wait()
                order.append("loser out")

    async def next_one() -> None:
        async with locks.hold("a", timeout=None):
            order.append("next in")

    held = asyncio.Event()
    first = asyncio.create_task(loser())
    await held.wait()
    second = asyncio.create_task(next_one())
    server_locks.end_sessions()
    await wait_until(lambda: server_locks.sessions() == 2 and first.cancelling())
    cleaned.set()
    with pytest.raises(LeaseLostError):
        await first
    await within(30, second, what="the next one to have the lock")
    assert order == ["loser out", "next in"]


async def lost(locks: PostgresLockManager, server_locks: ServerLocks, name: str = "a") -> Lease:
    """A lease whose session was ended, while others are up again."""
    lease = await locks.acquire(name)
    server_locks.end_sessions()
    await within(30, lease.wait_lost(), what="the holder to hear of it")
    await wait_until(lambda: locks.health().healthy)
    return lease


async def test_a_lost_lock_is_taken_again_before_anybody_who_waits_in_this_process(
    locks: PostgresLockManager, server_locks: ServerLocks
) -> None:
    lease = await locks.acquire("a")
    waiting = asyncio.create_task(locks.acquire("a", timeout=None))
    await wait_until(lambda: locks.health().waiting == 1)
    server_locks.end_sessions()
    await within(30, lease.wait_lost(), what="the holder to hear of it")
    await wait_until(lambda: locks.health().healthy)
    assert await locks.try_acquire("a") is None
    again = await locks.reacquire(lease)
    assert again is not None
    assert again.token > lease.token
    await lease.release()  # nothing: its turn is the new lease's
    assert await locks.try_acquire("a") is None
    assert not waiting.done()
    assert server_locks.leases() == 1
    await again.release()
    await (await within(30, waiting, what="the one who waits to have the lock")).release()
    assert server_locks() == 0


async def test_a_lost_lock_that_another_process_took_is_not_recovered_and_keeps_its_place(
    locks: PostgresLockManager, other: PostgresLockManager, server_locks: ServerLocks
) -> None:
    lease = await lost(locks, server_locks)
    taken = await other.acquire("a", timeout=10)
    waiting = asyncio.create_task(locks.acquire("a", timeout=None))
    assert await locks.reacquire(lease) is None
    await taken.release()
    assert not waiting.done()
    await lease.release()
    await (await within(30, waiting, what="the one who waits to have the lock")).release()
    await wait_until(lambda: server_locks() == 0)


async def test_the_recovery_of_a_lost_lock_can_be_cancelled_at_any_moment(
    locks: PostgresLockManager, server_locks: ServerLocks
) -> None:
    for steps in range(25):
        lease = await locks.acquire("a", timeout=10)
        session_with(locks, lease).lose("the test says so")
        await wait_until(lambda: locks.health().healthy)
        taking = asyncio.create_task(locks.reacquire(lease))
        for _ in range(steps):
            await asyncio.sleep(0)
        if not taking.cancel():
            lease = taking.result() or lease
        await asyncio.gather(taking, return_exceptions=True)
        await lease.release()
        async with locks.hold("a", timeout=10):
            pass
        await wait_until(lambda: server_locks() == 0)


async def test_only_a_lost_lock_can_be_taken_again(
    locks: PostgresLockManager, server_locks: ServerLocks
) -> None:
    lease = await locks.acquire("a")
    with pytest.raises(InvalidArgumentError, match="held"):
        await locks.reacquire(lease)
    await lease.release()
    with pytest.raises(InvalidArgumentError, match="released"):
        await locks.reacquire(lease)
    gone = await lost(locks, server_locks, "b")
    await gone.release()
    with pytest.raises(InvalidArgumentError):
        await locks.reacquire(gone)


async def test_an_unlock_that_finds_no_lock_ends_the_session(
    locks: PostgresLockManager, server_locks: ServerLocks
) -> None:
    """Somebody freed a lock of this session: nothing that the session believes to hold can be
    trusted.
    """
    others = [await locks.acquire(f"lock {n}") for n in range(8)]
    lease = await locks.acquire("a")
    session = session_with(locks, lease)
    await wait_until(lambda: session.idle)
    await take_away(session, *session.held)
    with pytest.raises(LeaseLostError):
        async with cancel_on_lost(lease):
            await lease.release()
    assert lease.lost
    assert any(other.lost for other in others)
    assert all(other.lost == (trust_of(other) is session.clock.trust) for other in others)


async def test_another_backend_that_answers_ends_the_session(locks: PostgresLockManager) -> None:
    lease = await locks.acquire("a")
    session_with(locks, lease).statements.pid += 1
    with pytest.raises(PostgresUnavailableError, match="in place of"):
        while True:
            await (await locks.acquire(f"lock {time.monotonic_ns()}")).release()
    assert lease.lost


async def test_an_answer_that_comes_after_the_deadline_is_no_good_news(
    locks: PostgresLockManager,
) -> None:
    """Somebody may have seen the lease as lost meanwhile: it must not be whole again."""
    lease = await locks.acquire("a")
    session = session_with(locks, lease)
    await wait_until(lambda: session.idle)
    stop_watching_the_deadline(session)
    session.clock.trust.until = time.monotonic()
    assert lease.lost
    session.audit_soon()
    await wait_until(lambda: session.over is not None)
    assert lease.lost


async def test_a_heartbeat_keeps_an_idle_session(dsn: str, server_locks: ServerLocks) -> None:
    short = Settings(lease_ttl_s=6, lease_heartbeat_s=0.5, lease_safety_margin_s=1)
    async with PostgresLockManager(dsn, settings=short) as locks:
        lease = await locks.acquire("a")
        longer = time.monotonic() + short.lease_ttl_s + 1  # than the server bears silence
        await wait_until(lambda: time.monotonic() > longer)
        assert not lease.lost
        assert server_locks.leases() == 1
        await lease.release()
