"""Waiting costs no connection, wakes who can go on, and leaves no flag behind."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from typing import Any, TypeAlias
from uuid import uuid4

import asyncpg
import pytest

from aiodurable.locks import Lease, PostgresLockManager
from aiodurable.locks.acquire import Acquirer
from aiodurable.locks.local_queue import HANDOFFS
from aiodurable.locks.session import LockSession
from aiodurable.locks.statements import LockStatements
from aiodurable.locks.wait_flags import WaitFlags
from tests.support.internals import (
    acquirer_of,
    reconnect_after,
    supervisors_of,
    wrap_each_try,
)
from tests.support.lock_view import ServerLocks
from tests.support.waiting import wait_until, within

Try: TypeAlias = Callable[..., Awaitable[Lease | None]]


@pytest.fixture
def no_tick(monkeypatch: pytest.MonkeyPatch) -> None:
    """Notifications alone wake who waits. A flag that a releaser probes in the moment in which it
    is to be raised is left to the tick: here it is tried until it is up.
    """
    flags = LockStatements.flags

    async def until_all_are_up(
        statements: LockStatements, down: Sequence[int], up: Sequence[int]
    ) -> tuple[int, Sequence[bool]]:
        pid, are_up = await flags(statements, down, up)
        while missing := [key for key, is_up in zip(up, are_up, strict=True) if not is_up]:
            _, raised = await flags(statements, (), missing)
            now_up = {key for key, is_up in zip(missing, raised, strict=True) if is_up}
            are_up = [is_up or key in now_up for key, is_up in zip(up, are_up, strict=True)]
        return pid, are_up

    monkeypatch.setattr(LockStatements, "flags", until_all_are_up)
    monkeypatch.setattr("aiodurable.locks.waiters.TICK_S", (60, 60))


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
    waiting = [
        asyncio.create_task(other.acquire(name, timeout=None)) for name in names for _ in range(3)
    ]
    await wait_until(lambda: server_locks.flags() == 300)
    assert server_locks.sessions() == before
    assert other.health().waiting == 900
    for lease in held:
        await lease.release()
    for task in asyncio.as_completed(waiting):
        await (await task).release()
    await wait_until(lambda: server_locks() == 0)


@pytest.mark.usefixtures("no_tick")
async def test_a_lock_freed_between_the_refusal_and_the_wait_wakes_the_waiter(
    locks: PostgresLockManager, other: PostgresLockManager
) -> None:
    """Two processes pass one lock to and fro on notifications alone: one that is missed would hang
    this for a minute.
    """
    turns = 0

    async def take(who: PostgresLockManager) -> None:
        nonlocal turns
        for _ in range(150):
            async with who.hold("a", timeout=30):
                turns += 1

    await asyncio.gather(take(locks), take(other))
    assert turns == 300


@pytest.mark.usefixtures("no_tick")
async def test_of_many_locks_released_at_once_the_awaited_one_wakes_its_waiter(
    locks: PostgresLockManager, other: PostgresLockManager, server_locks: ServerLocks
) -> None:
    leases = [await locks.acquire(f"lock {number}") for number in range(50)]
    waiting = [
        asyncio.create_task(other.acquire(f"lock {number}", timeout=None)) for number in (7, 49)
    ]
    await wait_until(lambda: server_locks.flags() == 2)
    await asyncio.gather(*(lease.release() for lease in leases))
    for task in waiting:
        await (await within(30, task)).release()
    await wait_until(lambda: server_locks() == 0)


@pytest.mark.usefixtures("no_tick")
async def test_a_bell_that_rings_as_the_refusal_arrives_is_not_missed(
    locks: PostgresLockManager, other: PostgresLockManager, monkeypatch: pytest.MonkeyPatch
) -> None:
    lease = await locks.acquire("a")
    refusals = 0

    def released_meanwhile(really_try: Try) -> Try:
        async def try_once(
            self: Acquirer, session: LockSession, key: int, name: str
        ) -> Lease | None:
            nonlocal refusals
            found = await really_try(self, session, key, name)
            if found is None:
                refusals += 1
                if refusals == 2:  # the first is before anybody could be notified
                    await lease.release()
                    self.key_waiters.wake(key)
            return found

        return try_once

    wrap_each_try(monkeypatch, released_meanwhile)
    await (await within(30, other.acquire("a", timeout=None))).release()
    assert refusals == 2


@pytest.mark.usefixtures("no_tick")
async def test_who_was_refused_sleeps_until_there_is_news(
    locks: PostgresLockManager,
    other: PostgresLockManager,
    server_locks: ServerLocks,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    lease = await locks.acquire("a")
    tries = 0

    def counted(really_try: Try) -> Try:
        async def try_once(*arguments: Any) -> Lease | None:
            nonlocal tries
            tries += 1
            return await really_try(*arguments)

        return try_once

    wrap_each_try(monkeypatch, counted)
    waiting = asyncio.create_task(other.acquire("a", timeout=None))
    await wait_until(lambda: server_locks.flags() == 1)
    acquirer_of(other).key_waiters.wake_all()  # one ring, one try
    for _ in range(20):  # other business of the same sessions is no news
        async with other.hold("b"):
            pass
    await lease.release()
    await (await within(30, waiting)).release()
    assert tries - 20 <= 5


async def test_two_names_that_share_a_key_wait_for_each_other(
    locks: PostgresLockManager, server_locks: ServerLocks, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Postgres would say yes to the second: a session may have the same lock twice."""
    monkeypatch.setattr("aiodurable.locks.manager.own_lock_key", lambda name, namespace: 42)
    one, two, three = (
        f"{number} {uuid4()}" for number in ("one", "two", "three")
    )  # keys of known names are kept
    async with locks.hold(one):
        assert await locks.try_acquire(two) is None
        waiting = asyncio.create_task(locks.acquire(three, timeout=None))
        await wait_until(lambda: locks.health().waiting == 1)
        assert server_locks() == 1
    lease = await waiting
    assert lease.name == three
    await lease.release()
    assert server_locks() == 0


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
    await within(60, enough.wait())
    await asyncio.gather(*tasks)
    assert served["locks"] < served["other"] * HANDOFFS * 10


async def test_a_key_that_went_round_in_one_process_goes_to_another_that_waits_before_it_comes_back(
    locks: PostgresLockManager,
    other: PostgresLockManager,
    server_locks: ServerLocks,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Its own are nearer to it: they hold back. Here for longer than the other needs at its
    slowest.
    """
    monkeypatch.setattr("aiodurable.locks.release.YIELD_S", 60.0)
    holders: list[str] = []

    async def take(who: PostgresLockManager, name: str) -> None:
        async with who.hold("a", timeout=None):
            holders.append(name)

    first = await locks.acquire("a")
    here = [asyncio.create_task(take(locks, "here")) for _ in range(2 * HANDOFFS)]
    there = asyncio.create_task(take(other, "there"))
    await wait_until(lambda: server_locks.flags() == 1)
    await first.release()
    await within(30, there)
    assert holders == [*["here"] * HANDOFFS, "there"]
    for task in here:
        task.cancel()
    await asyncio.gather(*here, return_exceptions=True)


async def test_after_a_lost_session_flags_and_the_ear_are_there_again(
    locks: PostgresLockManager, other: PostgresLockManager, server_locks: ServerLocks, no_tick: None
) -> None:
    lease = await locks.acquire("a")
    waiting = asyncio.create_task(other.acquire("a", timeout=None))
    await wait_until(lambda: server_locks.flags() == 1)
    sessions = [keeper.session for keeper in supervisors_of(other)]
    for session in sessions:
        assert session is not None
        server_locks.end_session_of(session.statements.pid)
    await wait_until(lambda: all(session is not None and session.over for session in sessions))
    await wait_until(lambda: server_locks.flags() == 1 and other.health().healthy)
    await lease.release()
    await (await within(30, waiting)).release()
    await wait_until(lambda: server_locks() == 0)


async def test_a_waiter_that_moves_to_another_session_takes_its_flag_along(
    locks: PostgresLockManager,
    other: PostgresLockManager,
    server_locks: ServerLocks,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    lease = await locks.acquire("a")
    keeper = supervisors_of(other)[(lease.key >> 1) % 2]
    reconnect = asyncio.Event()
    reconnect_after(monkeypatch, keeper, reconnect)
    assert keeper.session is not None
    server_locks.end_session_of(keeper.session.statements.pid)
    await wait_until(lambda: not other.health().healthy)
    waiting = asyncio.create_task(other.acquire("a", timeout=None))
    await wait_until(lambda: server_locks.flags() == 1)
    reconnect.set()
    await wait_until(lambda: keeper.session is not None and lease.key in keeper.session.flags.up)
    await wait_until(lambda: server_locks.flags() == 1)
    await lease.release()
    await (await within(30, waiting)).release()
    await wait_until(lambda: server_locks() == 0)


async def test_who_waits_outlives_a_lost_session(
    locks: PostgresLockManager, other: PostgresLockManager, server_locks: ServerLocks
) -> None:
    lease = await locks.acquire("a")
    waiting = [
        asyncio.create_task(who.acquire("a", timeout=None)) for who in (locks, other, locks, other)
    ]
    await wait_until(lambda: server_locks.flags() == 1 and locks.health().waiting == 2)
    server_locks.end_sessions()
    await lease.wait_lost()
    await lease.release()
    for task in asyncio.as_completed(waiting, timeout=20):
        await (await task).release()
    await wait_until(lambda: server_locks() == 0)


def test_up_and_down_of_a_flag_in_one_turn_cancel_out() -> None:
    flags = WaitFlags()
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
