"""Tests wait for facts, never for time."""

import asyncio
import inspect
import time
from collections.abc import Awaitable, Callable
from typing import TypeVar, cast

from aiodurable import Durable

T = TypeVar("T")

LIMIT_S = 30.0
"""Seconds until a fact that did not come counts as missing: a loaded machine is slow, not wrong."""

_TICK_S = 0.01


async def wait_until(
    predicate: Callable[[], T | Awaitable[T]], timeout: float = LIMIT_S, *, what: str = ""
) -> T:
    """Poll `predicate` (plain or async) until it returns something true, and return that.

    Raises `TimeoutError` after `timeout` seconds, naming `what` (or the predicate) and the last
    value seen.
    """
    deadline = time.monotonic() + timeout
    while True:
        found = predicate()
        value = cast("T", await found if inspect.isawaitable(found) else found)
        if value:
            return value
        if time.monotonic() > deadline:
            raise TimeoutError(_missed(predicate, value, timeout, what))
        await asyncio.sleep(_TICK_S)


async def is_held(durable: Durable, thread_id: str) -> bool:
    """Whether anybody has the lock of a thread."""
    return (await durable.threads.status(thread_id)).holder is not None


async def until_free(durable: Durable, thread_id: str) -> None:
    """Return when nobody has the lock of a thread: it is released, or its process ended, a moment
    before the server knows.
    """

    async def is_free() -> bool:
        return not await is_held(durable, thread_id)

    await wait_until(is_free, what=f"the end of the lease of {thread_id!r}")


async def within(timeout: float, awaitable: Awaitable[T], *, what: str = "") -> T:
    """The result of `awaitable`. Raises `TimeoutError` after `timeout` seconds, naming `what`, or
    what it is.
    """
    limit = asyncio.timeout(timeout)
    try:
        async with limit:
            return await awaitable
    except TimeoutError:
        if limit.expired():
            raise TimeoutError(f"waited {timeout:g} s for: {what or _named(awaitable)}") from None
        raise


def _named(awaitable: object) -> str:
    of_a_task = awaitable.get_coro() if isinstance(awaitable, asyncio.Task) else awaitable
    return getattr(of_a_task, "__qualname__", repr(awaitable))


def wait_until_sync(predicate: Callable[[], T], timeout: float = LIMIT_S, *, what: str = "") -> T:
    """`wait_until` for tests without an event loop."""
    deadline = time.monotonic() + timeout
    while not (value := predicate()):
        if time.monotonic() > deadline:
            raise TimeoutError(_missed(predicate, value, timeout, what))
        time.sleep(_TICK_S)
    return value


def _missed(predicate: object, value: object, timeout: float, what: str) -> str:
    name = what or getattr(predicate, "__qualname__", repr(predicate))
    return f"waited {timeout:g} s for: {name}; last seen: {value!r}"
