"""A restart of Postgres frees every lock: their holders notice, and no health check hides it."""

from __future__ import annotations

import asyncio
import time

import pytest

from aiodurable.errors import LockTimeoutError
from aiodurable.locks import PostgresLockManager
from aiodurable.settings import Settings
from tests.support.fault_times import Timetable
from tests.support.restartable import How, OwnServer
from tests.support.waiting import wait_until, within


@pytest.mark.parametrize("how", ["fast", "immediate"])
async def test_after_a_restart_every_lease_is_lost_and_every_waiter_served(
    own: OwnServer, how: How, timetable: Timetable
) -> None:
    dsn = await own.start()
    async with (
        PostgresLockManager(dsn, settings=Settings(close_timeout_s=2)) as locks,
        PostgresLockManager(dsn) as other,
    ):
        leases = await asyncio.gather(*(locks.acquire(f"lock {n}") for n in range(50)))
        waiting = [asyncio.create_task(other.acquire(f"lock {n}", timeout=None)) for n in range(50)]
        await wait_until(lambda: other.health().waiting == 50)
        began = time.monotonic()
        stopping = asyncio.create_task(own.stop(how))
        await within(30, asyncio.gather(*(lease.wait_lost() for lease in leases)))
        knew = time.monotonic() - began
        await stopping
        with pytest.raises(LockTimeoutError, match="no lock session is"):
            await locks.acquire("another", timeout=0.05)
        assert await own.start() == dsn
        up = time.monotonic() - began
        taken = await within(30, asyncio.gather(*waiting))
        served = time.monotonic() - began
        tokens = {lease.name: lease.token for lease in leases}
        assert all(lease.token > tokens[lease.name] for lease in taken)
        assert all(lease.lost for lease in leases)
        await asyncio.gather(*(lease.release() for lease in (*leases, *taken)))
        await wait_until(lambda: locks.health().healthy and other.health().healthy)
        async with locks.hold("lock 0"):
            assert other.health().held == 0
    timetable.trial(holders_knew=knew, Postgres_is_up=up, waiters_served=served)
