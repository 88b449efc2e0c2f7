"""One task at a time for each key within this process.

Postgres grants a key to the same session twice, so it cannot keep the tasks of one process apart. A
task enters a key here before it requests it from Postgres.
"""

from __future__ import annotations

import asyncio
from collections import OrderedDict
from collections.abc import Callable
from typing import Final

from aiodurable.locks.session import LockSession

__all__ = ["LocalQueue"]

HANDOFFS: Final = 32
"""How often in a row a key is handed from task to task within the process; then other processes can
have it."""


class _Waiters:
    __slots__ = ("handoffs", "waiting")

    def __init__(self) -> None:
        self.waiting: OrderedDict[asyncio.Future[LockSession | None], None] = OrderedDict()
        self.handoffs = 0


class LocalQueue:
    """A FIFO lock for each key. Who has entered, by `try_enter` or `wait`, ends with `hand_off` or
    `leave`."""

    def __init__(self) -> None:
        # None: nobody has waited for the key yet. For most keys nobody ever does.
        self._entered: dict[int, _Waiters | None] = {}

    @property
    def waiting(self) -> int:
        """How many tasks wait to enter a key."""
        return sum(len(queue.waiting) for queue in self._entered.values() if queue is not None)

    @property
    def empty(self) -> bool:
        """Whether no key is entered."""
        return not self._entered

    def try_enter(self, key: int) -> bool:
        """Enter a key if nobody else has."""
        if key in self._entered:
            return False
        self._entered[key] = None
        return True

    async def wait(self, key: int) -> LockSession | None:
        """Wait for a key that somebody has entered, and enter it.

        Returns the session on which the key is locked for us already, or None: request it from
        Postgres.
        """
        queue = self._entered[key]
        if queue is None:
            queue = self._entered[key] = _Waiters()
        entered: asyncio.Future[LockSession | None] = asyncio.get_running_loop().create_future()
        queue.waiting[entered] = None
        try:
            return await entered
        except BaseException:
            entered.cancel()  # a coroutine that is closed has not cancelled what it awaits
            if entered.cancelled():
                # It is not there if we were cancelled just before we would have entered.
                queue.waiting.pop(entered, None)
            elif entered.exception() is None:  # cancelled in the very moment in which we entered
                self._pass_on(key, entered.result())
            raise

    def has_waiters(self, key: int) -> bool:
        """Whether somebody in this process waits for a key that is entered."""
        queue = self._entered[key]
        return queue is not None and any(not entered.done() for entered in queue.waiting)

    def leave_uncontended(self, key: int) -> bool:
        """Leave the key if nobody has waited for it. Returns whether that was so."""
        if self._entered[key] is not None:
            return False
        del self._entered[key]
        return True

    def hand_off(self, key: int, session: LockSession) -> bool:
        """Let the task that has waited longest enter, with the key as it is locked on `session`.

        False: nobody waits, or other processes have waited long enough. The key has to be unlocked.
        """
        queue = self._entered[key]
        if queue is None or queue.handoffs >= HANDOFFS or not self._admit_next(queue, session):
            return False
        queue.handoffs += 1
        return True

    def leave(self, key: int) -> None:
        """Leave the key, which is not locked: the next task requests it from Postgres."""
        if (queue := self._entered[key]) is not None:
            queue.handoffs = 0
        self._pass_on(key, None)

    def fail_all(self, error: Callable[[], BaseException]) -> None:
        """Fail everybody who waits."""
        for queue in filter(None, self._entered.values()):
            while queue.waiting:
                entered, _ = queue.waiting.popitem(last=False)
                if not entered.done():
                    entered.set_exception(error())

    def _pass_on(self, key: int, session: LockSession | None) -> None:
        if not self._admit_next(self._entered[key], session):
            if session is not None:
                session.release(key)
            del self._entered[key]

    def _admit_next(self, queue: _Waiters | None, session: LockSession | None) -> bool:
        while queue is not None and queue.waiting:
            entered, _ = queue.waiting.popitem(last=False)
            if not entered.done():
                entered.set_result(session)
                return True
        return False
