"""A synchronous standby is away, so that no commit that waits for it returns."""

from __future__ import annotations

from aiodurable import Durable
from aiodurable.errors import LockBusyError, PostgresUnavailableError
from aiodurable.locks import Lease
from aiodurable.settings import Settings
from tests.support.internals import connection_of, services_of, session_of
from tests.support.restartable import OwnServer
from tests.support.waiting import wait_until, within


async def test_lock_sessions_come_and_go_all_the_same(own: OwnServer) -> None:
    """A session's end frees its locks, and nothing of it holds up a shutdown."""
    settings = Settings(lock_connections=1, close_timeout_s=2)
    async with Durable(await own.start(), settings=settings) as durable:
        locks = services_of(durable).locks

        async def thread() -> Lease | None:
            try:
                return await locks.acquire_thread("t")
            except (LockBusyError, PostgresUnavailableError):
                return None

        own.settings["synchronous_standby_names"] = "away"
        await own.restart()
        lease = await wait_until(thread, what="a lock session")
        assert lease is not None
        connection_of(session_of(locks)).terminate()
        await lease.wait_lost()
        await lease.release()
        again = await wait_until(thread, what="the thread's lock, and the next session")
        assert again is not None
        assert again.raised is not None
        await within(30, own.stop(), what="a fast shutdown")
