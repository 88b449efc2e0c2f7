"""The lease of a thread: a lock and a fencing token, and what happens when the lock is lost.

Only a lock holder raises a thread's token. So when a lock session dies (a restart of Postgres, a
killed backend, a failing proxy) the guard takes the lock again and reads the token: unchanged
proves that nobody held the lease in between, and the run goes on as if nothing had happened.
Changed, or still unknown after the grace, and the lease is lost: its fence is revoked at once here,
and Postgres refuses its writes whatever this process believes.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Coroutine
from typing import Any, TypeVar

from aiodurable.checkpoints.fences import Fence
from aiodurable.checkpoints.write_session import WriteSession
from aiodurable.errors import (
    ClosedError,
    LeaseLostError,
    LockCapacityError,
    PostgresUnavailableError,
)
from aiodurable.locks import Lease
from aiodurable.postgres.retry import LEASE_RECOVERY
from aiodurable.runs.services import Services
from aiodurable.shield import run_to_completion

__all__ = ["ThreadLease"]

T = TypeVar("T")

_log = logging.getLogger(__name__)


class ThreadLease:
    """The right to advance one thread, as long as it is not `lost`.

    Attributes:
        thread_id: the thread.
        fence: what every checkpoint write of the run shows.
        first: nothing was known of the thread when its token was raised.
        waits: nothing but one run, which waits in a queue.
        session: of the newest attempt; before the first one, the lease's own.
    """

    def __init__(
        self,
        services: Services,
        lock: Lease,
        fence: Fence,
        *,
        first: bool = False,
        waits: bool = False,
    ) -> None:
        self.thread_id = fence.thread_id
        self.fence = fence
        self._services = services
        self._lock = lock
        self._lost = asyncio.Event()
        self._callbacks: list[Callable[[], None]] = []
        self._recovery: asyncio.Task[None] | None = None
        self._releasing = False
        self._sessions = services.checkpoints.sessions
        self.first = first
        self.waits = waits
        self.session = WriteSession(fence)
        self._sessions.hold(self.session)
        fence.on_revoked(self._lose)
        self._unwatch: Callable[[], None] | None = lock.on_lost(self._lock_lost)

    @property
    def name(self) -> str:
        """The thread_id, as the name of the lock."""
        return self.thread_id

    @property
    def token(self) -> int:
        """The fencing token: larger than that of every earlier lease of the thread.

        A crash of Postgres can undo that of a run before its first node, and only until then.
        """
        return self.fence.token

    def write_with(self, session: WriteSession) -> WriteSession:
        """Have the writes of the thread go through the session of an attempt from now on."""
        self.session = session
        self._sessions.hold(session)
        return session

    @property
    def lost(self) -> bool:
        """Whether the lease is gone for good. A lock that is being taken again within the grace
        does not count yet.
        """
        return self._lost.is_set() or (self.fence.revoked and not self.fence.deleted)

    @property
    def over(self) -> bool:
        """Whether nothing can be written under it any more: it is lost, or its thread was deleted
        under it.
        """
        return self.lost or self.fence.deleted

    def check(self) -> None:
        """Raise `LeaseLostError` if the lease is over."""
        if self.fence.deleted:
            self.fence.check()
        if self.lost:
            raise self.loss()

    def loss(self) -> LeaseLostError:
        """The error that says why the lease was lost, and whether somebody has had it since."""
        return self.fence.lost()

    async def wait_lost(self) -> None:
        """Return when the lease is lost."""
        await self._lost.wait()

    def on_lost(self, callback: Callable[[], None]) -> Callable[[], None]:
        """Have `callback` called once when the lease is lost (at once if it is); returns what takes
        that back.
        """
        if self.lost:
            callback()
            return lambda: None
        self._callbacks.append(callback)
        return lambda: self._callbacks.remove(callback) if callback in self._callbacks else None

    async def while_locked(self, work: Coroutine[Any, Any, T]) -> T | None:
        """Run `work`, but no longer than the lock is held; None where it was cut then."""
        loop = asyncio.get_running_loop()
        held = True
        bound = asyncio.timeout(None)

        def cut() -> None:
            if held:
                bound.reschedule(loop.time())

        try:
            async with bound:
                forget = self._lock.on_lost(cut)
                try:
                    return await work
                finally:
                    held = False
                    forget()
        except TimeoutError:
            if not bound.expired():
                raise
            return None

    async def release(self) -> None:
        """Release it. Idempotent. The fence is revoked first: what still runs of the body can write
        nothing more. A cancellation that arrives meanwhile is raised once it is released.
        """
        self._releasing = True
        self._callbacks.clear()
        if self._unwatch is not None:
            self._unwatch()
            self._unwatch = None  # their cycle would be left to the garbage collector
        self.fence.on_revoked(None)
        try:
            if self._recovery is not None:
                self._recovery.cancel()
                await run_to_completion(asyncio.wait({self._recovery}))
        finally:
            self.fence.revoke()
            self._sessions.drop(self.fence)
            await self._lock.release()  # to its end, without a task that shields it

    def _lock_lost(self) -> None:
        if self._releasing:
            return  # the callback was due already when the lease was released
        if self._services.recovery_grace_s <= 0:
            self.fence.revoke(self._unknown("its lock was lost, and recovery_grace_s is 0"))
        elif self._recovery is None or self._recovery.done():
            self._recovery = asyncio.create_task(
                self._recover(), name=f"aiodurable recover {self.thread_id}"
            )

    async def _recover(self) -> None:
        grace_s = self._services.recovery_grace_s
        try:
            async with asyncio.timeout(grace_s):
                await self._take_again()
        except TimeoutError:
            self.fence.revoke(
                self._unknown(f"its lock was lost and could not be had again within {grace_s:g} s")
            )
        except ClosedError:  # closing under a run takes its lease
            self.fence.revoke(
                self._unknown("this process closed its connections while the run was at work")
            )
        except Exception as error:  # unknown means lost, whatever made it unknown
            _log.exception(
                "cannot check whether the lease of a thread is still ours: it counts as lost"
            )
            self.fence.revoke(
                self._unknown(
                    f"its lock was lost, and taking it again failed ({type(error).__name__})"
                )
            )

    def _unknown(self, why: str) -> LeaseLostError:
        return LeaseLostError(
            f"cannot keep the lease of thread {self.thread_id!r} (token {self.token}): {why}."
            " Whether another process has the thread now is not known; run it again, it goes on"
            " from its last checkpoint",
            thread_id=self.thread_id,
        )

    async def _take_again(self) -> None:
        """Take the lock again, then compare token and lease id: unchanged, nobody held the lease in
        between.

        Returns when the lease is ours again, or its fence was revoked because it is another's. The
        lost lock is released only with the lease: until then others in this process wait.
        """
        while True:
            try:
                if self._lock.lost and (again := await self._services.locks.reacquire(self._lock)):
                    self._lock = again
                    self._unwatch = again.on_lost(self._lock_lost)
                standing = await self._services.checkpoints.standing(self.thread_id)
                if standing != self.fence.standing:
                    self.fence.overtaken(standing)
                    return
                if not self._lock.lost:
                    self.session.history.doubt()  # it may have been a failover
                    return
            except (PostgresUnavailableError, LockCapacityError):
                pass
            # The server may hold our dead session's lock a moment longer, be starting, or have a
            # full lock table.
            await LEASE_RECOVERY.pause()

    def _lose(self) -> None:
        """The fence was revoked, and not because the lease is released."""
        if self.fence.deleted:
            return  # by the run itself: there is nobody to stop
        self._lost.set()
        callbacks, self._callbacks = self._callbacks, []
        for callback in callbacks:
            callback()
