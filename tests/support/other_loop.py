"""An event loop beside the one of the test."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from concurrent.futures import Future
from contextvars import copy_context
from threading import Thread
from typing import TypeVar

from tests.support import loops
from tests.support.waiting import within

T = TypeVar("T")


async def in_another_loop(call: Callable[[], Awaitable[T]]) -> T:
    """What `call` returns in a loop of its own. Raises `TimeoutError` if that loop does not end: its
    thread is left behind then, where `asyncio.to_thread` would let this loop wait for it for good.
    """
    result: Future[T] = Future()
    result.set_running_or_notify_cancel()  # it is settled although nobody waits any more

    async def main() -> T:
        return await call()

    def settle() -> None:
        try:
            result.set_result(loops.run(main()))
        except BaseException as error:
            result.set_exception(error)

    Thread(target=copy_context().run, args=(settle,), daemon=True).start()
    return await within(60, asyncio.wrap_future(result), what="another event loop to end")
