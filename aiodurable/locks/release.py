"""Releasing leases: to the next task of this process, or on the server."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from typing import Final

from aiodurable.locks.lease import Lease
from aiodurable.locks.local_queue import LocalQueue
from aiodurable.locks.session import LockSession, SessionState
from aiodurable.locks.statements import NOTIFIED
from aiodurable.locks.waiters import CapacityWaiters

__all__ = ["Releaser"]

YIELD_S: Final = 0.005
"""Seconds for which this process leaves a key to another one that it notified."""

_OVER: Final = SessionState.OVER


class Releaser:
    """Unlocks keys, or hands them over within the process.

    Args:
        queue: which task of this process may request a key.
        capacity_waiters: tasks that wait for a slot of the server's lock table.
    """

    def __init__(self, queue: LocalQueue, capacity_waiters: CapacityWaiters) -> None:
        self._queue = queue
        self._capacity_waiters = capacity_waiters
        # Read with each release: a call would cost a percent of a pair.
        self._capacity_events = capacity_waiters.events

    def release(
        self, session: LockSession, lease: Lease
    ) -> asyncio.Future[Mapping[int, int]] | None:
        """Unlock the key of a lease, or hand it to the next task of this process."""
        if session.state is not _OVER and self._queue.leave_uncontended(lease.key):  # usually
            if self._capacity_events:
                self._wake_capacity_waiter()
            return session.release(lease.key)
        return self.hand_over(session, lease.key)

    def hand_over(self, session: LockSession, key: int) -> asyncio.Future[Mapping[int, int]] | None:
        """Hand a locked key to the next task of this process, or unlock it: then the future has the
        server's answer."""
        if session.state is _OVER:
            self._queue.leave(key)
            return None
        if self._queue.hand_off(key, session):
            return None
        has_waiters = self._queue.has_waiters(key)
        if self._capacity_events:
            self._wake_capacity_waiter()
        answer = session.release(key)
        if has_waiters:
            answer.add_done_callback(lambda done: self._yield(key, done.result().get(key)))
        else:
            self._queue.leave(key)
        return answer

    def _wake_capacity_waiter(self) -> None:
        # Soon: the release has to be requested before the waiter's try.
        asyncio.get_running_loop().call_soon(self._capacity_waiters.wake_next)

    def _yield(self, key: int, result: int | None) -> None:
        """The key was handed on within this process often enough: if another process waits for it,
        it has a moment to take it."""
        if result == NOTIFIED:
            asyncio.get_running_loop().call_later(YIELD_S, self._queue.leave, key)
        else:
            self._queue.leave(key)
