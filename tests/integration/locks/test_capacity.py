"""The server's lock table is everybody's: aiodurable takes its share and no more, and gives
everything back at the brim.
"""

from __future__ import annotations

import asyncio
import os
import signal
from collections.abc import Iterator
from contextlib import suppress

import asyncpg
import pytest

from aiodurable.errors import LockCapacityError, LockTimeoutError
from aiodurable.locks import PostgresLockManager
from aiodurable.locks.capacity import share
from aiodurable.locks.statements import LockStatements
from tests.support.internals import connection_of, session_of
from tests.support.postgres import left_alone, small_server
from tests.support.waiting import wait_until, within


@pytest.fixture(scope="module")
def small_of_all() -> Iterator[str]:
    """A server with a small lock table."""
    with small_server() as url:
        yield url


@pytest.fixture
def small(small_of_all: str) -> str:
    """The same, without what the test before had open."""
    return left_alone(small_of_all)


async def locked(connection: asyncpg.Connection) -> int:
    query = "SELECT count(*) FROM pg_locks WHERE locktype = 'advisory' AND mode = 'ExclusiveLock'"
    return int(str(await connection.fetchval(query)))


async def held_at_most(locks: PostgresLockManager) -> int:
    count = 0
    with pytest.raises(LockCapacityError, match="max_locks_per_transaction"):
        while True:
            await locks.acquire(f"{id(locks)} {count}")
            count += 1
    return count


async def test_half_of_the_table_is_shared_equally(small: str) -> None:
    slots = 10 * 20
    async with PostgresLockManager(small, sessions=1) as first:
        assert await held_at_most(first) == slots // 2
        async with PostgresLockManager(small, sessions=1) as second:
            assert await held_at_most(second) == slots // 4
        assert first.health().sessions[0].used == slots // 2
    connection = await asyncpg.connect(small)
    assert await locked(connection) == 0
    await connection.close()


async def test_a_connection_that_probed_the_server_has_no_share(
    small: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """However long its backend takes to end."""
    peers: list[int] = []
    probe = LockStatements.probe_from_peer

    async def slow_to_end(peer: LockStatements, key: int) -> bool:
        got = await probe(peer, key)
        peers.append(peer.pid)
        os.kill(peer.pid, signal.SIGSTOP)
        asyncio.get_running_loop().call_later(0.2, go_on)
        return got

    def go_on() -> None:
        with suppress(ProcessLookupError):
            os.kill(peers[0], signal.SIGCONT)

    monkeypatch.setattr(LockStatements, "probe_from_peer", slow_to_end)
    try:
        async with PostgresLockManager(small, sessions=1) as locks:
            assert [session.share for session in locks.health().sessions] == [100]
    finally:
        go_on()
    assert len(peers) == 1


async def test_a_refusal_leaves_the_lock_free_and_the_manager_working(small: str) -> None:
    async with PostgresLockManager(small, sessions=1) as locks:
        leases = [await locks.acquire(f"lock {n}") for n in range(100)]
        with pytest.raises(LockCapacityError):
            await locks.acquire("one more")
        await leases.pop().release()
        async with locks.hold("one more"):
            pass


async def test_at_the_brim_a_batch_is_given_back_whole_and_nothing_stays(small: str) -> None:
    """Others may fill the table: what a failed statement took before it failed is not kept."""
    async with PostgresLockManager(small, sessions=1) as locks:
        session = session_of(locks)
        kept = await locks.acquire("kept")
        await wait_until(lambda: session.idle)
        session.share = 100_000  # as if the server were larger than it is
        connection = await asyncpg.connect(small)
        before = await locked(connection)
        results = await asyncio.gather(
            *(locks.acquire(f"lock {n}") for n in range(2000)), return_exceptions=True
        )
        failed = [error for error in results if isinstance(error, BaseException)]
        assert failed
        assert {type(error) for error in failed} == {LockCapacityError}
        for lease in results:
            if not isinstance(lease, BaseException):
                await lease.release()
        assert await locked(connection) == before == 1
        assert not kept.lost
        async with locks.hold("lock 1"):
            assert await locked(connection) == 2
        await kept.release()
        assert session.over is None
        await connection.close()


async def test_at_the_brim_a_release_goes_through_and_a_second_unlock_finds_nothing(
    small: str,
) -> None:
    async with PostgresLockManager(small, sessions=1) as locks:
        session = session_of(locks)
        await wait_until(lambda: session.idle)
        session.share = 100_000
        first = [await locks.acquire(f"first {n}") for n in range(50)]
        letting_go = [asyncio.create_task(lease.release()) for lease in first]
        taking = [asyncio.create_task(locks.acquire(f"lock {n}")) for n in range(2000)]
        await asyncio.gather(*letting_go)
        assert all(
            isinstance(e, LockCapacityError)
            for e in await asyncio.gather(*taking, return_exceptions=True)
        )
        assert not any(lease.lost for lease in first)
        connection = connection_of(session)
        for lease in first:
            assert await connection.fetchval("SELECT pg_advisory_unlock($1)", lease.key) is False


async def test_without_capacity_for_flags_the_tick_wakes(small: str) -> None:
    async with (
        PostgresLockManager(small, sessions=1) as locks,
        PostgresLockManager(small, sessions=1) as other,
    ):
        session = session_of(other)
        await wait_until(lambda: session.idle)
        session.share = 3
        lease = await locks.acquire("a")
        waiting = asyncio.create_task(other.acquire("a", timeout=None))
        await wait_until(lambda: other.health().waiting == 1)
        await wait_until(lambda: session.idle)
        assert not session.flags.up
        await lease.release()
        await (await within(30, waiting)).release()


@pytest.mark.parametrize(
    ("slots", "sessions", "each"), [(6400, 2, 1600), (6400, 0, 3200), (10, 100, 1)]
)
def test_shares(slots: int, sessions: int, each: int) -> None:
    assert share(slots, sessions) == each


async def test_a_waiter_also_waits_for_capacity(small: str) -> None:
    async with PostgresLockManager(small, sessions=1) as locks:
        leases = [await locks.acquire(f"lock {n}") for n in range(100)]
        waiting = [
            asyncio.create_task(locks.acquire(f"one more {n}", timeout=30)) for n in range(3)
        ]
        await wait_until(lambda: locks.health().waiting == 3)
        with pytest.raises(LockCapacityError):
            await locks.acquire("at once")
        for _ in range(3):
            await leases.pop().release()
        for lease in await within(30, asyncio.gather(*waiting)):
            await lease.release()
        for lease in leases:
            await lease.release()


async def test_a_waiter_that_times_out_without_capacity_learns_what_was_full(small: str) -> None:
    async with PostgresLockManager(small, sessions=1) as locks:
        leases = [await locks.acquire(f"lock {n}") for n in range(100)]
        with pytest.raises(LockTimeoutError, match="max_locks_per_transaction") as raised:
            await locks.acquire("one more", timeout=1)
        assert isinstance(raised.value.__cause__, LockCapacityError)
        assert locks.health().waiting == 0
        await leases.pop().release()
        async with locks.hold("one more"):
            pass


async def test_many_more_waiters_than_the_capacity_all_get_their_lease(small: str) -> None:
    crowded = asyncio.Event()
    async with PostgresLockManager(small, sessions=2) as locks:

        async def one(number: int) -> None:
            async with locks.hold(f"lock {number}", timeout=60):
                await crowded.wait()

        everybody = asyncio.gather(*(one(number) for number in range(1000)))
        await wait_until(lambda: locks.health().waiting > 500, what="most to wait for room")
        crowded.set()
        await within(60, everybody, what="all to have had their lease")
