"""A process that holds the lock "a": `holder.py DSN [fork|signals|leave|exit]`. Says "held", and later "lost"."""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import sys

from aiodurable.locks import PostgresLockManager, close_on_signals
from aiodurable.settings import Settings

SHORT = Settings(lease_ttl_s=2.5, heartbeat_s=0.5, lease_margin_s=1, close_timeout_s=2)


def say(what: object) -> None:
    print(what, flush=True)


async def main(dsn: str, how: str) -> None:
    settings = Settings() if how == "fork" else SHORT
    locks = PostgresLockManager(dsn, settings=settings)
    await locks.open()
    lease = await locks.acquire("a")
    async with contextlib.AsyncExitStack() as stack:
        if how == "signals":  # before it is said: the signal comes at once
            await stack.enter_async_context(close_on_signals(locks))
        say("held")
        if how == "fork":
            child = os.fork()
            if child == 0:
                os.closerange(0, 3)  # whoever started us waits for these to close
                signal.pause()
                os._exit(0)
            say(child)
        if how == "leave":
            return
        if how == "exit":
            sys.exit(3)
        await lease.wait_lost()
        say("lost")
        await asyncio.Event().wait()


asyncio.run(main(sys.argv[1], sys.argv[2] if len(sys.argv) > 2 else ""))
