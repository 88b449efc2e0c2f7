"""Releasing locks when the process is to end.

Opt-in: an application handles its signals in one place.
"""

from __future__ import annotations

import asyncio
import signal
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from typing import Protocol

__all__ = ["close_on_signals"]


class Closable(Protocol):
    """What is closed within a bounded time: a lock manager, a `Durable`."""

    async def aclose(self) -> None:
        """Close."""
        ...


@asynccontextmanager
async def close_on_signals(
    locks: Closable, signals: Sequence[signal.Signals] = (signal.SIGTERM, signal.SIGINT)
) -> AsyncIterator[None]:
    """While the body runs, one of `signals` closes `locks`, and is then raised again as if nobody
    had handled it.

    Closing takes at most `close_timeout_s`: leases are released, and the bodies under them
    cancelled. A second signal does not wait for it. asyncio's own handlers
    (`loop.add_signal_handler`) are used, so the main thread's event loop is needed.

    Raises:
        NotImplementedError: this event loop handles no signals (Windows).
        RuntimeError: not in the main thread.
    """
    loop = asyncio.get_running_loop()
    closing: list[asyncio.Task[None]] = []
    before = {each: signal.getsignal(each) for each in signals}

    def restore() -> None:
        for each, handler in before.items():
            loop.remove_signal_handler(each)
            signal.signal(each, handler)

    async def close_then_raise(which: signal.Signals) -> None:
        try:
            await locks.aclose()
        finally:
            signal.raise_signal(which)

    def received(which: signal.Signals) -> None:
        restore()
        task = loop.create_task(close_then_raise(which), name=f"aiodurable close on {which.name}")
        closing.append(task)

    for each in signals:
        loop.add_signal_handler(each, received, each)
    try:
        yield
    finally:
        if closing:
            await asyncio.wait(closing)
        else:
            restore()
