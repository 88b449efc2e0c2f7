"""The holder stops in time: whatever hangs, and however long its event loop was blocked."""

from __future__ import annotations

import asyncio
import time

import pytest

from aiodurable.errors import LeaseLostError
from aiodurable.locks import PostgresLockManager
from aiodurable.settings import Settings
from tests.support.fault_times import Timetable
from tests.support.internals import supervisors_of
from tests.support.lock_view import ServerLocks
from tests.support.proxy import proxy
from tests.support.waiting import wait_until, within

SILENT = Settings(
    lease_ttl_s=2.5,
    lease_heartbeat_s=0.5,
    lease_safety_margin_s=1,
    connect_timeout_s=5,
    close_timeout_s=1,
)


async def test_a_statement_that_hangs_does_not_hold_up_the_deadline(dsn: str) -> None:
    async with proxy(dsn) as network:
        async with PostgresLockManager(network.dsn, sessions=1, settings=SILENT) as locks:
            lease = await locks.acquire("a")
            network.cut()
            asked = asyncio.create_task(
                locks.acquire("b", timeout=0)
            )  # goes out at once, and is never answered
            began = time.monotonic()
            await within(30, lease.wait_lost())
            assert time.monotonic() - began < SILENT.lease_ttl_s  # then the server frees it
            with pytest.raises(Exception, match="over"):
                await asked
            network.mend()
            await lease.release()
            async with locks.hold("a", timeout=10) as again:  # another session takes its place
                assert again.token > lease.token


async def test_where_only_the_answers_are_lost_the_server_keeps_the_lock_for_the_margin(
    dsn: str, server_locks: ServerLocks, timetable: Timetable
) -> None:
    """Our end of the connection would reach the server: cutting at once would free the lock while
    its holder stops.
    """
    async with (
        proxy(dsn) as network,
        PostgresLockManager(network.dsn, sessions=1, settings=SILENT) as locks,
    ):
        lease = await locks.acquire("a")
        lost_at: list[float] = []
        lease.on_lost(lambda: lost_at.append(time.monotonic()))
        network.cut("to_client")
        cut = time.monotonic()
        await within(30, lease.wait_lost())
        [lost] = lost_at
        await wait_until(lambda: server_locks.leases() == 0)
        freed = time.monotonic()
        timetable.trial(lost=lost - cut, server_let_go=freed - cut)
        network.mend()
        assert freed - lost >= 0.9 * SILENT.lease_safety_margin_s


async def test_closing_in_a_partition_is_bounded(dsn: str) -> None:
    async with proxy(dsn) as network:
        locks = PostgresLockManager(network.dsn, settings=SILENT)
        await locks.open()
        await locks.acquire("a")
        network.cut()
        began = time.monotonic()
        await locks.aclose()
        assert time.monotonic() - began < SILENT.close_timeout_s + 3


async def test_a_blocked_event_loop_finds_its_lease_lost_when_it_comes_back(
    dsn: str, server_locks: ServerLocks, timetable: Timetable
) -> None:
    async with PostgresLockManager(dsn, sessions=1, settings=SILENT) as locks:
        lease = await locks.acquire("a")
        began = held = time.monotonic()
        while not lease.lost:  # a body that computes and never awaits
            # As of before it was asked: the process may lose its CPU at any time.
            assert held - began <= SILENT.lease_ttl_s - SILENT.lease_safety_margin_s
            held = time.monotonic()
        lost = time.monotonic() - began
        assert server_locks.leases() == 1  # the server has not freed the lock yet
        timetable.trial(lost_by_its_own_clock=lost)
        with pytest.raises(LeaseLostError):
            lease.check()
        for _ in range(50):  # and it stays lost, although the server would still answer
            await asyncio.sleep(0)
            assert lease.lost
        await lease.wait_lost()
        await lease.release()
        async with locks.hold("a", timeout=10) as again:
            assert again.token > lease.token


async def test_the_server_frees_what_a_silent_holder_held_and_no_earlier(
    dsn: str, server_locks: ServerLocks
) -> None:
    locks = PostgresLockManager(dsn, sessions=1, settings=SILENT)
    await locks.open()
    lease = await locks.acquire("a")
    session = supervisors_of(locks)[0].session
    assert session is not None
    session.clock._timers["heartbeat"].cancel()  # it falls silent, and the event loop runs on
    last = session.clock.answered
    lost = asyncio.create_task(lease.wait_lost())
    await lost
    stopped = time.monotonic() - last
    # The lost session is cut by us; without that the server's own timeout ends it, which other
    # tests see.
    assert SILENT.lease_ttl_s - SILENT.lease_safety_margin_s - 0.5 <= stopped <= SILENT.lease_ttl_s
    await locks.aclose()


async def test_the_server_itself_ends_a_session_that_fell_silent(
    dsn: str, server_locks: ServerLocks
) -> None:
    async with PostgresLockManager(dsn, sessions=1, settings=SILENT) as locks:
        await locks.acquire("a")
        session = supervisors_of(locks)[0].session
        assert session is not None
        for timer in session.clock._timers.values():
            timer.cancel()  # neither heartbeat nor deadline
        sent = session.clock._sent
        await wait_until(lambda: session.over is not None)
        assert time.monotonic() - sent >= SILENT.lease_ttl_s
        assert session.over is not None
