"""The pace of a prune: how much it removes at once, and how long live traffic is left alone."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import TypeVar

__all__ = ["Pace", "PageRanges"]

T = TypeVar("T")

_ROWS = 1400
_BYTES = 704 * 1024
_LONG_S = 0.1
"""What a transaction removes at most, and how long it takes: a live commit waits until all WAL
before it is on disk, and the first change of a page after a database checkpoint logs the whole
page. 1400 rows keep a core of the server busy for some 5 ms. They take longer where others want the
core too; fewer would not help there, for a transaction costs as much as 10 threads of its own. The
rest after it gets longer instead."""

_FIRST = 10
"""Threads of the first transaction."""

_SCAN_S = 0.005
"""What a statement that scans pages is to take, at most."""


class PageRanges:
    """The page ranges of a table, each as long as a statement can scan in a few milliseconds. A
    longer statement takes a core from live traffic all that time, however long the rest after it.

    Args:
        pages: of the table.
        fewest: pages of a range, at least.
        most: pages of a range, at most.
    """

    def __init__(self, pages: int, *, fewest: int, most: int) -> None:
        self._pages = pages
        self._fewest = self._size = max(1, fewest)
        self._most = most

    def __iter__(self) -> Iterator[tuple[int, int]]:
        """The first page of each range, and the first after it."""
        first = 0
        while first < self._pages:
            end = first + self._size
            yield first, end
            first = end

    @contextmanager
    def timed(self) -> Iterator[None]:
        """Adapt the size of the next range to the time that the body takes to scan this one."""
        began = time.monotonic()
        yield
        took = time.monotonic() - began
        if took > _SCAN_S:
            self._size = max(self._size // 2, self._fewest)
        elif took < _SCAN_S / 3:
            self._size = min(self._size * 2, self._most)


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
        self._taken = self._size
        self.begin()

    def pieces(self, threads: Sequence[T]) -> Iterator[Sequence[T]]:
        """Split the threads into batches; each has the size that is right at that moment."""
        start = 0
        while start < len(threads):
            some = threads[start : start + self._size]
            self._taken = len(some)
            yield some
            start += self._taken

    def adapt(self, taken: int | None = None, *, rows: int = 0, removed: int = 0) -> None:
        """Adapt the batch size after a transaction that removed `rows` rows of `removed` bytes.
        Threads differ in length by orders of magnitude.

        Args:
            taken: threads of the batch that it had, the first ones; the others are the next
                batch's. None: all.
            rows, removed: what it removed.
        """
        if taken is not None:
            self._taken = taken
        much = max(rows / _ROWS, removed / _BYTES)
        fits = int(self._taken / much) if much else self._batch_size
        if time.monotonic() - self._began > _LONG_S:
            fits = min(fits, self._size // 2)
        self._size = max(1, min(fits, self._size * 2, self._batch_size))

    def begin(self) -> None:
        """Start to count time as work."""
        self._began = time.monotonic()

    async def rest(self) -> None:
        """Sleep long enough to keep the duty cycle, then start to count again."""
        took = time.monotonic() - self._began
        await asyncio.sleep(took * (1 - self._duty_cycle) / self._duty_cycle)
        self.begin()
