"""A restart of Postgres frees every lock: their holders know it, and nobody else is told that all is well."""

from __future__ import annotations

import asyncio
import os
import shutil
import signal
import tempfile
import time
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from aiodurable.embedded import start_server, stop_server
from aiodurable.locks import PostgresLockManager
from aiodurable.settings import Settings
from waiting import wait_until, wait_until_sync


class OwnServer:
    """A Postgres of this test alone, that comes back under the same address."""

    def __init__(self, data: Path) -> None:
        self._data = data

    async def start(self) -> str:
        return await asyncio.to_thread(start_server, self._data)

    async def stop(self, how: str) -> None:
        if how == "immediate":
            pid = int((self._data / "postmaster.pid").read_text().split()[0])
            os.kill(pid, signal.SIGQUIT)
            await asyncio.to_thread(
                wait_until_sync, lambda: not (self._data / "postmaster.pid").exists(), what="the end"
            )
        await asyncio.to_thread(stop_server, self._data)


@pytest.fixture
async def own() -> AsyncIterator[OwnServer]:
    folder = Path(tempfile.mkdtemp(prefix="aiodurable-restart-"))
    folder.chmod(0o755)  # as root, Postgres runs as somebody else
    server = OwnServer(folder / "data")
    yield server
    await server.stop("fast")
    shutil.rmtree(folder)


@pytest.mark.parametrize("how", ["fast", "immediate"])
async def test_after_a_restart_every_lease_is_lost_and_every_waiter_served(
    own: OwnServer, how: str, capsys: pytest.CaptureFixture[str]
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
        await asyncio.wait_for(asyncio.gather(*(lease.wait_lost() for lease in leases)), 10)
        knew = time.monotonic() - began
        await stopping
        assert await own.start() == dsn
        up = time.monotonic() - began
        taken = await asyncio.wait_for(asyncio.gather(*waiting), 30)
        served = time.monotonic() - began
        tokens = {lease.name: lease.token for lease in leases}
        assert all(lease.token > tokens[lease.name] for lease in taken)
        assert all(lease.lost for lease in leases)
        await asyncio.gather(*(lease.release() for lease in (*leases, *taken)))
        await wait_until(lambda: locks.health().healthy and other.health().healthy)
        async with locks.hold("lock 0"):
            assert other.health().held == 0
    with capsys.disabled():
        print(
            f"\n  restart {how}: holders knew after {1000 * knew:.0f} ms; up {up:.2f} s; waiters served {served:.2f} s"
        )
