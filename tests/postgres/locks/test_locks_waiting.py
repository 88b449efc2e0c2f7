"""Waiting costs no connection, wakes who can go on, and leaves no flag behind."""

from __future__ import annotations

import asyncio

import asyncpg
import pytest

from aiodurable.locks import PostgresLockManager
from aiodurable.locks.flags import Flags
from aiodurable.locks.turns import HANDOFFS
from server_locks import ServerLocks
from waiting import wait_until


@pytest.fixture
def no_tick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("aiodurable.locks.waiting.TICK_S", (60, 60))


async def test_nobody_is_notified_where_nobody_waits(dsn: str, locks: PostgresLockManager) -> None:
    heard: list[object] = []
    listener = await asyncpg.connect(dsn)
    await listener.add_listener("aiodurable_lock", lambda *told: heard.append(told))
    for n in range(20):
        async with locks.hold(f"lock {n}"):
            pass
    leases = await asyncio.gather(*(locks.acquire(f"lock {n}") for n in range(20)))
    await asyncio.gather(*(lease.release() for lease in leases))
    await listener.execute("NOTIFY aiodurable_lock, 'end'")
    await wait_until(lambda: heard)
    assert len(heard) == 1
    await listener.close()


async def test_a_thousand_waiters_cost_no_connection(
    locks: PostgresLockManager, other: PostgresLockManager, server_locks: ServerLocks
) -> None:
    names = [f"lock {n}" for n in range(300)]
    held = [await locks.acquire(name) for name in names]
    before = server_locks.sessions()
    waiting = [asyncio.create_task(other.acquire(name, timeout=None)) for name in names for _ in range(3)]
    await wait_until(lambda: server_locks.flags() == 300)
    assert server_locks.sessions() == before
    assert other.health().waiting == 900
    for lease in held:
        await lease.release()
    for task in asyncio.as_completed(waiting):
        await (await task).release()
    await wait_until(lambda: server_locks() == 0)


@pytest.mark.usefixtures("no_tick")
async def test_a_free_lock_is_told_between_the_refusal_and_the_wait_as_well(
    locks: PostgresLockManager, other: PostgresLockManager
) -> None:
    """Two processes pass one lock to and fro on notifications alone: one that is missed would hang this for a minute."""
    turns = 0

    async def take(who: PostgresLockManager) -> None:
        nonlocal turns
        for _ in range(150):
            async with who.hold("a", timeout=30):
                turns += 1

    await asyncio.gather(take(locks), take(other))
    assert turns == 300


async def test_a_process_with_many_waiters_does_not_starve_another(
    locks: PostgresLockManager, other: PostgresLockManager
) -> None:
    served = {"locks": 0, "other": 0}
    enough = asyncio.Event()

    async def take(who: PostgresLockManager, name: str) -> None:
        while not enough.is_set():
            async with who.hold("a", timeout=None):
                served[name] += 1
                if served["other"] >= 10:
                    enough.set()

    tasks = [asyncio.create_task(take(locks, "locks")) for _ in range(50)]
    tasks.append(asyncio.create_task(take(other, "other")))
    await asyncio.wait_for(enough.wait(), 60)
    await asyncio.gather(*tasks)
    assert served["locks"] < served["other"] * HANDOFFS * 10


async def test_after_a_lost_session_flags_and_the_ear_are_there_again(
    locks: PostgresLockManager, other: PostgresLockManager, server_locks: ServerLocks, no_tick: None
) -> None:
    lease = await locks.acquire("a")
    waiting = asyncio.create_task(other.acquire("a", timeout=None))
    await wait_until(lambda: server_locks.flags() == 1)
    sessions = [keeper.session for keeper in other._keepers]
    for session in sessions:
        assert session is not None
        server_locks.end_session_of(session.wire.pid)
    await wait_until(lambda: all(session is not None and session.over for session in sessions))
    await wait_until(lambda: server_locks.flags() == 1 and other.health().healthy)
    await lease.release()
    await (await asyncio.wait_for(waiting, 10)).release()
    await wait_until(lambda: server_locks() == 0)


async def test_who_waits_outlives_a_lost_session(
    locks: PostgresLockManager, other: PostgresLockManager, server_locks: ServerLocks
) -> None:
    lease = await locks.acquire("a")
    waiting = [asyncio.create_task(who.acquire("a", timeout=None)) for who in (locks, other, locks, other)]
    await wait_until(lambda: server_locks.flags() == 1 and locks.health().waiting == 2)
    server_locks.end_sessions()
    await lease.wait_lost()
    await lease.release()
    for task in asyncio.as_completed(waiting, timeout=20):
        await (await task).release()
    await wait_until(lambda: server_locks() == 0)


def test_up_and_down_of_a_flag_in_one_turn_cancel_out() -> None:
    flags = Flags()
    flags.want(1, up=True)
    flags.want(1, up=False)
    flags.want(2, up=True)
    assert flags.take(10) == ([], [2])
    flags.settle([], [2])
    flags.want(2, up=False)
    flags.want(2, up=True)
    assert flags.take(10) == ([], [])
    for key in range(3, 10):
        flags.want(key, up=True)
    assert flags.take(5) == ([], [3, 4, 5, 6, 7])
    assert flags.due
    assert flags.take(5) == ([], [8, 9])
