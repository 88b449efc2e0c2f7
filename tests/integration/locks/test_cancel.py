"""A cancellation at any await of acquire or release leaks no lock: counted by Postgres."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Coroutine
from typing import Any

import pytest

from aiodurable.locks import PostgresLockManager
from aiodurable.settings import Settings
from tests.support.internals import acquirer_of, session_of, supervisors_of
from tests.support.lock_view import ServerLocks
from tests.support.waiting import wait_until, within

Body = Callable[[PostgresLockManager], Coroutine[Any, Any, None]]


async def at_once(locks: PostgresLockManager) -> None:
    async with locks.hold("a"):
        await asyncio.sleep(0)


async def in_time(locks: PostgresLockManager) -> None:
    async with locks.hold("a", timeout=5):
        await asyncio.sleep(0)


async def by_hand(locks: PostgresLockManager) -> None:
    lease = await locks.acquire("a", timeout=None)
    try:
        await asyncio.sleep(0)
    finally:
        await lease.release()


async def waits_for_a_neighbour(locks: PostgresLockManager) -> None:
    """The lock goes from hand to hand within the process."""

    async def one() -> None:
        async with locks.hold("a", timeout=None):
            await asyncio.sleep(0)

    neighbours = [asyncio.create_task(one()) for _ in range(3)]
    try:
        await asyncio.sleep(0)
        await one()
    finally:
        for neighbour in neighbours:
            neighbour.cancel()
        await asyncio.gather(*neighbours, return_exceptions=True)


async def cancelled_after(steps: int, work: Coroutine[Any, Any, None]) -> bool:
    """Cancel `work` after so many turns of the event loop; whether it had not ended before."""
    task = asyncio.create_task(work)
    for _ in range(steps):
        if task.done():
            break
        await asyncio.sleep(0)
    was_running = task.cancel()
    await asyncio.gather(task, return_exceptions=True)
    return was_running


async def until_it_ends(try_at: Callable[[int], Awaitable[bool]], *, more: int = 20) -> int:
    """Cancel one turn later each time, until the work has ended before its cancellation `more`
    times in a row.

    Where a trip takes hundreds of turns, for other work takes the machine, almost all of them only
    wait: some are left out.
    """
    steps = ended = 0
    while ended < more:
        ended = 0 if await try_at(steps) else ended + 1
        steps += 1 + steps // 100
    return steps


@pytest.mark.timeout(300)  # the more turns a trip takes, the more of them are tried
@pytest.mark.parametrize("body", [at_once, in_time, by_hand, waits_for_a_neighbour])
async def test_cancelled_at_every_turn_of_the_loop_nothing_stays_locked(
    locks: PostgresLockManager, server_locks: ServerLocks, body: Body
) -> None:
    async def try_at(steps: int) -> bool:
        was_running = await cancelled_after(steps, body(locks))
        await settled(locks)
        assert server_locks() == 0, (
            f"cancelled after {steps} turns: {server_locks.leases()} leases,"
            f" {server_locks.flags()} flags; {locks.health()}"
        )
        return was_running

    # How many turns a trip to Postgres takes varies: every number of them comes up in some of the
    # rounds.
    turns = [await until_it_ends(try_at) for _ in range(3)]
    assert min(turns) > 25
    async with locks.hold("a"):
        assert server_locks() == 1


@pytest.mark.timeout(300)
async def test_a_cancelled_wait_for_another_process_leaves_neither_lock_nor_flag(
    locks: PostgresLockManager, other: PostgresLockManager, server_locks: ServerLocks
) -> None:
    async def try_at(steps: int) -> bool:
        mine = await locks.acquire("a")
        waiting = asyncio.create_task(other.acquire("a", timeout=None))
        for _ in range(steps % 40):
            await asyncio.sleep(0)
        letting_go = asyncio.create_task(mine.release())
        for _ in range(steps // 40):
            await asyncio.sleep(0)
        was_running = waiting.cancel()
        if not was_running:
            await waiting.result().release()
        for given in await asyncio.gather(waiting, letting_go, return_exceptions=True):
            assert given is None or isinstance(given, asyncio.CancelledError) or not was_running
        await settled(locks, other)
        assert server_locks() == 0, f"after {steps} turns"
        return was_running

    for steps in range(0, 40 * 40, 11):
        await try_at(steps)


async def test_a_cancelled_release_is_carried_out(
    locks: PostgresLockManager, server_locks: ServerLocks
) -> None:
    lease = await locks.acquire("a")
    release = asyncio.create_task(lease.release())
    await asyncio.sleep(0)
    release.cancel()
    with pytest.raises(asyncio.CancelledError):
        await release
    assert server_locks() == 0


async def test_a_lock_granted_as_its_caller_is_cancelled_goes_to_the_next_in_line(
    locks: PostgresLockManager, server_locks: ServerLocks
) -> None:
    for steps in range(40):
        lease = await locks.acquire("a")
        first, second = (asyncio.create_task(locks.acquire("a", timeout=None)) for _ in range(2))
        await wait_until(lambda: locks.health().waiting == 2)
        letting_go = asyncio.create_task(lease.release())
        for _ in range(steps):
            await asyncio.sleep(0)
        if not first.cancel():
            await first.result().release()
        await (await within(30, second)).release()
        await asyncio.gather(first, letting_go, return_exceptions=True)
        await settled(locks)
        assert server_locks() == 0


async def settled(*managers: PostgresLockManager) -> None:
    """Nobody has a turn, and every session has sent what it had to send."""

    def quiet() -> bool:
        return all(
            acquirer_of(locks).queue.empty
            and all(
                keeper.session is not None and keeper.session.idle
                for keeper in supervisors_of(locks)
            )
            for locks in managers
        )

    async def settling() -> None:
        while not quiet():  # noqa: ASYNC110  # turn by turn: a poll by the clock would take most of the test's time
            await asyncio.sleep(0)

    await within(30, settling(), what="nobody to have a turn, and all to be sent")


@pytest.mark.parametrize("timeout", [0, None])
async def test_a_coroutine_that_is_closed_while_it_tries_leaves_no_lock(
    dsn: str, settings: Settings, server_locks: ServerLocks, timeout: float | None
) -> None:
    async with PostgresLockManager(dsn, sessions=1, settings=settings) as locks:
        session = session_of(locks)
        for alone in (True, False):
            await wait_until(lambda: session.quiet)
            if not alone:
                session.audit_soon()
            acquiring = locks.acquire("a", timeout=timeout)
            acquiring.send(None)
            acquiring.close()
            await settled(locks)
            assert server_locks() == 0
            async with locks.hold("a"):
                pass


async def test_a_coroutine_that_is_closed_while_it_waits_leaves_the_lock_to_others(
    locks: PostgresLockManager, server_locks: ServerLocks
) -> None:
    for until_granted in (False, True):
        holding = await locks.acquire("a")
        waiting = locks.acquire("a", timeout=None)
        waiting.send(None)
        if until_granted:
            await holding.release()
            waiting.send(None)  # the lock was handed over, and a token is under way
        waiting.close()
        await holding.release()
        await settled(locks)
        assert server_locks() == locks.health().held == 0
        async with locks.hold("a"):
            pass
