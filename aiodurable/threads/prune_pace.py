"""The pace of a prune: how much it removes at once, and how long live traffic is left alone."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Iterator, Sequence

__all__ = ["Pace"]

_LONG_S = 0.03
_MUCH = 256 * 1024
"""If a transaction takes longer than `_LONG_S` or removes more bytes than `_MUCH`, the next one
removes half as many threads. A live commit waits until all WAL before it is on disk, and the first
change of a page after a database checkpoint logs the whole page."""

_FIRST = 10
"""Threads of the first transaction."""


class Pace:
    """How many threads a transaction removes, and how long live traffic is left alone after it.

    Args:
        batch_size: threads per transaction, at most.
        duty_cycle: the part of the time spent working.
    """

    def __init__(self, batch_size: int, duty_cycle: float) -> None:
        self._batch_size = batch_size
        self._duty_cycle = duty_cycle
        self._size = min(batch_size, _FIRST)
        self.begin()

    def pieces(self, thread_ids: Sequence[str]) -> Iterator[Sequence[str]]:
        """Split the threads into batches; each has the size that is right at that moment."""
        start = 0
        while start < len(thread_ids):
            some = thread_ids[start : start + self._size]
            start += len(some)
            yield some

    def adapt(self, removed: int) -> None:
        """Adapt the batch size after a transaction that removed `removed` bytes. Threads differ in
        length by orders of magnitude."""
        much = max((time.monotonic() - self._began) / _LONG_S, removed / _MUCH)
        if much > 1:
            self._size = max(1, self._size // 2)
        elif much < 1 / 2:
            self._size = min(self._batch_size, self._size * 2)

    def begin(self) -> None:
        """Start to count time as work."""
        self._began = time.monotonic()

    async def rest(self) -> None:
        """Sleep long enough to keep the duty cycle, then start to count again."""
        took = time.monotonic() - self._began
        await asyncio.sleep(took * (1 - self._duty_cycle) / self._duty_cycle)
        self.begin()
