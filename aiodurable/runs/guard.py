"""The lease of a thread: a lock and a fencing token, and what happens when the lock is lost.

Only a lock holder raises a thread's token. So when a lock session dies (a restart of Postgres, a killed backend, a
failing proxy) the guard takes the lock again and reads the token: unchanged proves that nobody held the lease in
between, and the run goes on as if nothing had happened. Changed, or still unknown after the grace, and the lease is
lost: its fence is revoked at once here, and Postgres refuses its writes whatever this process believes.
"""

from __future__ import annotations

import asyncio
import logging
import random
from collections.abc import Callable

from aiodurable.checkpoints.fences import Fence
from aiodurable.errors import ClosedError, LeaseLostError, LockCapacityError, PostgresUnavailableError
from aiodurable.events import LeaseLost, emit
from aiodurable.locks import Lease
from aiodurable.runs.rooms import Rooms

__all__ = ["ThreadLease"]

_log = logging.getLogger(__name__)


class ThreadLease:
    """The right to advance one thread, as long as it is not `lost`.

    Attributes:
        thread_id: the thread.
        fence: what every checkpoint write of the run carries.
    """

    def __init__(self, rooms: Rooms, lock: Lease, fence: Fence) -> None:
        self.thread_id = fence.thread_id
        self.fence = fence
        self._rooms = rooms
        self._lock = lock
        self._lost = asyncio.Event()
        self._callbacks: list[Callable[[], None]] = []
        self._recovery: asyncio.Task[None] | None = None
        self._fences = rooms.checkpoints.get_checkpointer().fences
        self._fences.hold(fence)
        self._unwatch = lock.on_lost(self._lock_lost)

    @property
    def name(self) -> str:
        """The thread_id, as the name of the lock."""
        return self.thread_id

    @property
    def token(self) -> int:
        """The fencing token: larger than that of every earlier lease of the thread."""
        return self.fence.token

    @property
    def lost(self) -> bool:
        """Whether the lease is gone for good. A lock that is being taken again within the grace does not count yet."""
        return self._lost.is_set() or (self.fence.revoked and not self.fence.deleted)

    @property
    def over(self) -> bool:
        """Whether nothing can be written under it any more: it is lost, or its thread was deleted under it."""
        return self.lost or self.fence.deleted

    def check(self) -> None:
        """Raise `LeaseLostError` if the lease is over."""
        if self.fence.deleted:
            self.fence.check()
        if self.lost:
            raise LeaseLostError(
                f"the lease of thread {self.thread_id!r} (token {self.token}) is gone: another process may advance it now",
                thread_id=self.thread_id,
            )

    async def wait_lost(self) -> None:
        """Return when the lease is lost."""
        await self._lost.wait()

    def on_lost(self, callback: Callable[[], None]) -> Callable[[], None]:
        """Have `callback` called once when the lease is lost (at once if it is); returns what takes that back."""
        if self.lost:
            callback()
            return lambda: None
        self._callbacks.append(callback)
        return lambda: self._callbacks.remove(callback) if callback in self._callbacks else None

    async def release(self) -> None:
        """Let go. Idempotent. The fence is revoked first: what still runs of the body can write nothing more."""
        self._callbacks.clear()
        self._unwatch()
        if self._recovery is not None:
            self._recovery.cancel()
            await asyncio.wait({self._recovery})
        self.fence.revoke()
        self._fences.drop(self.fence)
        await self._lock.release()

    def _lock_lost(self) -> None:
        if self._rooms.recovery_grace_s <= 0:
            self._lose()
        elif self._recovery is None or self._recovery.done():
            self._recovery = asyncio.create_task(self._recover(), name=f"aiodurable recover {self.thread_id}")

    async def _recover(self) -> None:
        try:
            async with asyncio.timeout(self._rooms.recovery_grace_s):
                same = await self._take_again()
        except (TimeoutError, ClosedError):  # whoever closes under a run takes its lease
            same = False
        except Exception:  # unknown means lost, whatever made it unknown
            _log.exception("could not tell whether the lease of a thread is still ours: it counts as lost")
            same = False
        if not same:
            self._lose()

    async def _take_again(self) -> bool:
        """Take the lock again and compare the token. True: nobody held the lease in between.

        The lost lock is let go of only where the lease is: until then whoever waits for the thread in this process waits.
        """
        while True:
            try:
                if self._lock.lost and (again := await self._rooms.locks.take_again(self._lock)):
                    self._lock = again
                    self._unwatch = again.on_lost(self._lock_lost)
                if await self._rooms.checkpoints.standing(self.thread_id) != self.fence.standing:
                    return False
                if not self._lock.lost:
                    return True
            except (PostgresUnavailableError, LockCapacityError):
                pass
            # The server may hold our dead session's lock a moment longer, be starting, or be short of room for the moment.
            await asyncio.sleep(random.uniform(0.02, 0.1))

    def _lose(self) -> None:
        if self._lost.is_set():
            return
        self.fence.revoke()
        self._lost.set()
        callbacks, self._callbacks = self._callbacks, []
        for callback in callbacks:
            callback()
        emit(self._rooms.observers, LeaseLost(self.thread_id, token=self.token))
