"""What waits to be committed: bounded, in order within a thread, and no thread in two batches at once."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Iterable, Sequence
from typing import Final, Self

from aiodurable.checkpoints.encoding import Write
from aiodurable.errors import ClosedError

__all__ = ["WriteQueue"]

_ENTERING: Final = 8
"""How many calls may serialise their values at once: what they produce is not counted before it is there."""


class WriteQueue:
    """The queue between the runs of this process and its writers.

    `async with backlog:` waits for capacity, first come first served; inside, serialise and `add`. However many runs
    there are, what they have serialised and not yet committed stays bounded, a single huge write excepted.

    Args:
        batch_rows, batch_bytes: what one batch carries at most; a larger single write goes alone.
        rows, bytes_: how much may be accepted and not yet settled before newcomers wait.
    """

    def __init__(self, *, batch_rows: int, batch_bytes: int, rows: int, bytes_: int) -> None:
        self._batch_rows = batch_rows
        self._batch_bytes = batch_bytes
        self._max_rows = rows
        self._max_bytes = bytes_
        self._rows = self._bytes = self._entering = 0
        self._waiters: deque[asyncio.Future[None]] = deque()
        self._waiting: dict[str, deque[Write]] = {}
        self._ready: deque[str] = deque()  # threads with something waiting and nothing under way
        self._under_way: set[str] = set()
        self._wake = asyncio.Event()
        self._closed = False

    async def __aenter__(self) -> Self:
        self._refuse_closed()
        if not self._waiters and self._has_capacity():
            self._entering += 1
            return self
        waiter: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._waiters.append(waiter)
        try:
            await waiter
        except asyncio.CancelledError:
            if waiter.done() and not waiter.cancelled() and waiter.exception() is None:
                self._leave()  # it had its place already: the next one gets it
            raise
        return self

    async def __aexit__(self, *exc_info: object) -> None:
        self._leave()

    def _has_capacity(self) -> bool:
        return self._entering < _ENTERING and self._rows < self._max_rows and self._bytes < self._max_bytes

    def _leave(self) -> None:
        self._entering -= 1
        self._let_in()

    def _let_in(self) -> None:
        while self._waiters and self._has_capacity():
            waiter = self._waiters.popleft()
            if not waiter.done():
                self._entering += 1
                waiter.set_result(None)

    def _refuse_closed(self) -> None:
        if self._closed:
            raise ClosedError("the checkpointer pool is closed: keep it open for as long as graphs run")

    @property
    def waiting(self) -> int:
        """Writes accepted and in no batch yet."""
        return sum(map(len, self._waiting.values()))

    def add(self, write: Write) -> None:
        """Have the write committed. Raises `ClosedError` after `close`."""
        self._refuse_closed()
        self._rows += write.count
        self._bytes += write.size
        thread_id = write.fence.thread_id
        waiting = self._waiting.get(thread_id)
        if waiting is not None:
            waiting.append(write)
            return
        self._waiting[thread_id] = deque((write,))
        if thread_id not in self._under_way:
            self._ready.append(thread_id)
            self._wake.set()

    async def take(self) -> list[Write]:
        """The next batch as soon as there is one, of each thread its oldest writes under one fence. Empty: closed, all done."""
        while not self._ready:
            if self._closed and not self._waiting and not self._under_way:
                self._wake.set()
                return []
            self._wake.clear()
            await self._wake.wait()
        batch: list[Write] = []
        rows = size = 0
        for _ in range(len(self._ready)):
            thread_id = self._ready[0]
            waiting = self._waiting[thread_id]
            standing = waiting[0].fence.standing
            while waiting and waiting[0].fence.standing == standing:
                write = waiting[0]
                if batch and (rows + write.count > self._batch_rows or size + write.size > self._batch_bytes):
                    break
                batch.append(waiting.popleft())
                rows += write.count
                size += write.size
            if batch and batch[-1].fence.thread_id == thread_id:
                self._ready.popleft()
                self._under_way.add(thread_id)
                if not waiting:
                    del self._waiting[thread_id]
            if waiting:
                break  # full, or a second fence of the thread, which takes its own turn
        return batch

    def settled(self, batch: Sequence[Write], *, back: Sequence[Write] = (), rest_s: float = 0.0) -> None:
        """A batch that was taken is through.

        Args:
            batch: all of it. What was settled, well or not, frees capacity, and its threads may be in a
                batch again.
            back: writes of it that could not go now. They come first again after their threads have
                rested for `rest_s` seconds; until then no later write of those threads goes.
        """
        resting = {write.fence.thread_id for write in back}
        again = {id(write) for write in back}
        for write in batch:
            if id(write) not in again:
                self._rows -= write.count
                self._bytes -= write.size
        for write in reversed(back):
            self._waiting.setdefault(write.fence.thread_id, deque()).appendleft(write)
        self._release({write.fence.thread_id for write in batch} - resting)
        if resting:
            asyncio.get_running_loop().call_later(rest_s, self._release, resting)
        self._let_in()

    def _release(self, thread_ids: Iterable[str]) -> None:
        for thread_id in thread_ids:
            self._under_way.discard(thread_id)
            if thread_id in self._waiting:
                self._ready.append(thread_id)
        if self._ready or self._closed:
            self._wake.set()

    def close(self) -> None:
        """Accept nothing more. Waiters for capacity get an error; what was accepted is still handed out."""
        self._closed = True
        self._wake.set()
        for waiter in self._waiters:
            if not waiter.done():
                waiter.set_exception(
                    ClosedError("the checkpointer pool was closed while a checkpoint waited for its turn")
                )
        self._waiters.clear()

    def drain(self) -> list[Write]:
        """Take out everything that was accepted and is under way nowhere."""
        left = [write for waiting in self._waiting.values() for write in waiting]
        self._waiting.clear()
        self._ready.clear()
        return left
