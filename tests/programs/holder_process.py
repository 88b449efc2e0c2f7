"""A process that holds the lock "a": `holder_process.py DSN [fork|signals|leave|exit|scope]`. Says
"held", and later "lost".

In a scope it says when its body was stopped, in seconds of the monotonic clock, which all processes
of a host share. With signals it says "closed" when one has closed the locks. It leaves, or exits,
when it reads a line.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import sys
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[2]))

from aiodurable.errors import LeaseLostError
from aiodurable.locks import PostgresLockManager, close_on_signals
from aiodurable.settings import Settings
from tests.support import loops

SHORT = Settings(lease_ttl_s=2.5, lease_heartbeat_s=0.5, lease_safety_margin_s=1, close_timeout_s=2)


def say(what: object) -> None:
    print(what, flush=True)


async def in_a_scope(locks: PostgresLockManager) -> None:
    with contextlib.suppress(LeaseLostError):
        async with locks.hold("a"):
            say("held")
            try:
                await asyncio.Event().wait()
            finally:
                say(time.monotonic())


class Saying:
    """The locks, to be closed."""

    def __init__(self, locks: PostgresLockManager) -> None:
        self._locks = locks

    async def aclose(self) -> None:
        await self._locks.aclose()
        say("closed")


async def main(dsn: str, how: str) -> None:
    settings = Settings() if how == "fork" else SHORT
    locks = PostgresLockManager(
        dsn, settings=settings, allow_proxy=Settings.from_env().lock_allow_proxy
    )
    await locks.open()
    if how == "scope":
        await in_a_scope(locks)
        return
    lease = await locks.acquire("a")
    async with contextlib.AsyncExitStack() as stack:
        if how == "signals":  # before it is said: the signal comes at once
            await stack.enter_async_context(close_on_signals(Saying(locks)))
        say("held")
        if how == "fork":
            child = os.fork()
            if child == 0:
                os.closerange(0, 3)  # the process that started us waits for these to close
                signal.pause()
                os._exit(0)
            say(child)
        if how in ("leave", "exit"):
            sys.stdin.readline()
            if how == "exit":
                sys.exit(3)
            return
        await lease.wait_lost()
        say("lost")
        await asyncio.Event().wait()


loops.run(main(sys.argv[1], sys.argv[2] if len(sys.argv) > 2 else ""))
