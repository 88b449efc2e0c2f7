"""The bounded queue of writes before their commit: it keeps the order of each thread's writes, and
no thread is in two batches at once.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Final

from aiodurable.checkpoints.encoding import Write
from aiodurable.errors import ClosedError

__all__ = ["QueueLoad", "WriteQueue"]

_ENTERING: Final = 8
"""How many calls may serialise values at once. The queue cannot count their bytes until they are
done.
"""

_SMALL: Final = 12
"""Threads that one batch may carry however few are leased: where a handful of runs is under way,
two statements cost the client more than the wait for one.
"""


@dataclass(frozen=True, slots=True)
class QueueLoad:
    """How much a write queue holds.

    Attributes:
        rows, bytes_: rows and bytes that are accepted and not yet settled.
        serialising: callers that serialise their values.
        callers: callers that wait for capacity, with nothing serialised yet.
        writes: writes in no batch yet, by thread.
        under_way: threads whose writes are in a batch, or rest before the next try.
    """

    rows: int
    bytes_: int
    serialising: int
    callers: int
    writes: Mapping[str, int]
    under_way: frozenset[str]


class WriteQueue:
    """The queue between the runs of this process and its writers.

    Between `enter`, which waits for capacity, first come first served, and `leave`, serialise and
    `add`. So the values that are serialised and not yet committed stay bounded however many runs
    there are. A single write larger than the bound is accepted alone.

    Args:
        batch_rows, batch_bytes: the largest batch; a larger single write goes alone.
        rows, bytes_: how much may be accepted and not yet settled before new callers wait.
        leased: how many threads this process has leased; None: unknown. A batch carries two thirds
            of them at most. Without that bound all runs end up in the same batch: then the process
            idles while Postgres commits, and Postgres while the runs go on.
    """

    def __init__(
        self,
        *,
        batch_rows: int,
        batch_bytes: int,
        rows: int,
        bytes_: int,
        leased: Callable[[], int] | None = None,
    ) -> None:
        self._leased = leased
        self._batch_rows = batch_rows
        self._batch_bytes = batch_bytes
        self.max_rows = rows
        self.max_bytes = bytes_
        self._rows = self._bytes = self._entering = 0
        self._callers: deque[asyncio.Future[None]] = deque()
        self._waiting: dict[str, deque[Write]] = {}
        self._ready: deque[str] = deque()  # threads with something waiting and nothing under way
        self._under_way: set[str] = set()
        self._settling: list[asyncio.Future[None]] = []
        self._writers: list[asyncio.Future[None]] = []  # idle ones, the last to serve at the end
        self._woken = 0
        self._closed = False

    @property
    def is_full(self) -> bool:
        """Whether a caller has to wait for capacity: else it may serialise a value at once, and
        `add` it without another `await` in between.
        """
        return (
            self._entering >= _ENTERING
            or self._rows >= self.max_rows
            or self._bytes >= self.max_bytes
        )

    async def enter(self) -> None:
        """Wait for capacity. Raises `ClosedError` after `close`."""
        self._refuse_closed()
        if not (self._callers or self.is_full):
            self._entering += 1
            return
        admitted: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._callers.append(admitted)
        try:
            await admitted
        except asyncio.CancelledError:
            if admitted.done() and not admitted.cancelled() and admitted.exception() is None:
                self.leave()  # admitted in the same moment: the next caller gets the place
            raise

    def leave(self) -> None:
        """Leave the place that `enter` gave to the next caller."""
        self._entering -= 1
        self._admit()

    def _admit(self) -> None:
        while self._callers and not self.is_full:
            admitted = self._callers.popleft()
            if not admitted.done():
                self._entering += 1
                admitted.set_result(None)

    def _refuse_closed(self) -> None:
        if self._closed:
            raise ClosedError(
                "cannot write a checkpoint: the checkpointer pool is closed; keep it open while"
                " graphs run"
            )

    @property
    def waiting(self) -> int:
        """Writes accepted and in no batch yet."""
        return sum(map(len, self._waiting.values()))

    @property
    def load(self) -> QueueLoad:
        """How much the queue holds now."""
        return QueueLoad(
            self._rows,
            self._bytes,
            self._entering,
            len(self._callers),
            {thread_id: len(writes) for thread_id, writes in self._waiting.items()},
            frozenset(self._under_way),
        )

    @property
    def ready(self) -> bool:
        """Whether `take` would return a batch at once."""
        return bool(self._ready)

    def add(self, write: Write) -> None:
        """Queue a write for the next batch. Raises `ClosedError` after `close`."""
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
            self._wake()

    async def take(self) -> list[Write]:
        """The next batch: of each thread its oldest writes under one fence.

        Waits until there is one. Empty: the queue is closed and all writes are settled. Of several
        idle writers the last to serve gets it: what its backend needs is still in a cache. A lone
        run has all its commits on one connection.
        """
        while not self._ready:
            if self._closed and not self._waiting and not self._under_way:
                self._wake()
                return []
            await self._idle()
        batch: list[Write] = []
        rows = size = 0
        for _ in range(min(len(self._ready), self._most_threads())):
            thread_id = self._ready[0]
            waiting = self._waiting[thread_id]
            standing = waiting[0].fence.standing
            while waiting and waiting[0].fence.standing == standing:
                write = waiting[0]
                if batch and (
                    rows + write.count > self._batch_rows or size + write.size > self._batch_bytes
                ):
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
                break  # full, or a second fence of the thread, which needs a batch of its own
        if self._ready:
            self._wake()
        return batch

    async def _idle(self) -> None:
        waiting: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._writers.append(waiting)
        try:
            await waiting
        except asyncio.CancelledError:
            if not waiting.cancelled():  # woken in the same moment: the next one gets the batch
                self._woken -= 1
                self._wake()
            raise
        self._woken -= 1

    def _wake(self) -> None:
        """Wake one writer, which wakes the next if it leaves something; all, once it is closed."""
        while self._writers and (self._closed or not self._woken):
            writer = self._writers.pop()
            if not writer.done():
                writer.set_result(None)
                self._woken += 1

    async def settle(self, thread_id: str) -> None:
        """Return once no write of the thread is accepted and not settled."""
        while thread_id in self._under_way or thread_id in self._waiting:
            changed: asyncio.Future[None] = asyncio.get_running_loop().create_future()
            self._settling.append(changed)
            await changed

    def _most_threads(self) -> int:
        if self._leased is None:
            return len(self._ready)
        return max(_SMALL, self._leased() * 2 // 3)

    def settled(
        self, batch: Sequence[Write], *, back: Sequence[Write] = (), rest_s: float = 0.0
    ) -> None:
        """Settle a batch.

        Args:
            batch: all of it. Its settled writes, committed or failed, free their capacity, and
                their threads may be in a batch again.
            back: writes of it that must be tried again. They come first after their threads have
                rested for `rest_s` seconds; until then no later write of those threads is in a
                batch.
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
        self._admit()

    def _release(self, thread_ids: Iterable[str]) -> None:
        for thread_id in thread_ids:
            self._under_way.discard(thread_id)
            if thread_id in self._waiting:
                self._ready.append(thread_id)
        if self._ready or self._closed:
            self._wake()
        self._recheck()

    def _recheck(self) -> None:
        """Let those look again that wait for the writes of a thread."""
        settling, self._settling = self._settling, []
        for changed in settling:
            if not changed.done():
                changed.set_result(None)

    def close(self) -> None:
        """Accept nothing more: fail the callers that wait. `take` still returns the accepted
        writes.
        """
        self._closed = True
        self._wake()
        for admitted in self._callers:
            if not admitted.done():
                admitted.set_exception(
                    ClosedError(
                        "cannot write a checkpoint: the checkpointer pool was closed while it"
                        " waited for capacity; keep it open while graphs run"
                    )
                )
        self._callers.clear()

    def drain(self) -> list[Write]:
        """Remove and return every accepted write that is in no batch."""
        left = [write for waiting in self._waiting.values() for write in waiting]
        self._waiting.clear()
        self._ready.clear()
        self._recheck()
        return left
