"""Cancels a coroutine at each of its suspensions in turn: between two of them nothing can arrive."""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine, Generator
from typing import Any


class _Counted(Coroutine[Any, Any, Any]):
    """`inner`, which cancels its task as it suspends for the given times."""

    def __init__(self, inner: Coroutine[Any, Any, Any], times: tuple[int, ...]) -> None:
        self.cancellations = 0
        self._inner = inner
        self._times = times
        self._suspended = 0

    def send(self, value: Any) -> Any:
        return self._after(self._inner.send(value))

    def throw(self, *error: Any) -> Any:
        return self._after(self._inner.throw(*error))

    def close(self) -> None:
        self._inner.close()

    def __await__(self) -> Generator[Any, Any, Any]:
        return self._inner.__await__()

    def _after(self, awaited: Any) -> Any:
        self._suspended += 1
        if self._suspended in self._times:
            task = asyncio.current_task()
            assert task is not None
            task.cancel()
            self.cancellations += 1
        return awaited


async def cancelled_at(work: Coroutine[Any, Any, Any], *times: int) -> bool:
    """Run `work` in a task that is cancelled as it suspends for the first of `times`, and again at
    the later ones. False: it ended before the first.

    Raises `AssertionError` if a cancellation was dropped, and what `work` raises if there was none.
    """
    counted = _Counted(work, times)
    task = asyncio.get_running_loop().create_task(counted)
    await asyncio.wait({task})
    if counted.cancellations:
        assert task.cancelled(), f"a cancellation at {times} was dropped: {task!r}"
        return True
    await task
    return False
