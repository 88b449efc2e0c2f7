"""Runs a call that may block in a thread of its own.

The loop's default executor also runs the nodes of a graph that are plain functions. A few slow ones
fill it, and then no connection can be opened: lock sessions that ended meanwhile would not be
replaced in time, and every lease would be lost.
"""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable
from concurrent.futures import Future
from typing import TypeVar

__all__ = ["in_own_thread"]

T = TypeVar("T")


async def in_own_thread(call: Callable[[], T], *, name: str) -> T:
    """What `call` returns or raises in a new thread of that name. Cancelled, it leaves the thread
    running.
    """
    future: Future[T] = Future()

    def run() -> None:
        if not future.set_running_or_notify_cancel():
            return
        try:
            future.set_result(call())
        except BaseException as error:  # the caller gets it, whatever it is
            future.set_exception(error)

    # Not from a pool, which may be full, or broken in a forked child. A daemon: a name server that
    # does not answer must not keep the process from ending.
    threading.Thread(target=run, name=name, daemon=True).start()
    return await asyncio.wrap_future(future)
