"""Who in this process may have a key: one at a time, first come, first served.

Session locks are re-entrant: Postgres would say yes to the same session twice. So the process excludes itself first, by
the 64-bit key (two names may share one), and only whoever has the turn of a key asks Postgres for it.
"""

from __future__ import annotations

import asyncio
from collections import OrderedDict
from collections.abc import Callable
from typing import Final

from aiodurable.locks.session import LockSession

__all__ = ["LocalQueue"]

HANDOFFS: Final = 32
"""A key goes from task to task within the process so often, then other processes get their chance."""


class _Queue:
    __slots__ = ("handoffs", "waiting")

    def __init__(self) -> None:
        self.waiting: OrderedDict[asyncio.Future[LockSession | None], None] = OrderedDict()
        self.handoffs = 0


class LocalQueue:
    """One turn a key. Whoever has it, by `take` or `wait`, passes it on by `hand_on` or `end`."""

    def __init__(self) -> None:
        self._queues: dict[int, _Queue | None] = {}  # None: nobody has waited yet, and for most keys nobody ever does

    @property
    def waiting(self) -> int:
        """How many wait for a turn."""
        return sum(len(queue.waiting) for queue in self._queues.values() if queue is not None)

    def take(self, key: int) -> bool:
        """Take the turn of a key if nobody has it."""
        if key in self._queues:
            return False
        self._queues[key] = None
        return True

    async def wait(self, key: int) -> LockSession | None:
        """Wait until it is our turn. The session on which the key is still locked for us, or None: ask Postgres."""
        queue = self._queues[key]
        if queue is None:
            queue = self._queues[key] = _Queue()
        turn: asyncio.Future[LockSession | None] = asyncio.get_running_loop().create_future()
        queue.waiting[turn] = None
        try:
            return await turn
        except asyncio.CancelledError:
            if turn.cancelled():
                queue.waiting.pop(turn, None)  # gone already if its turn came just after it was cancelled
            elif turn.exception() is None:  # it became our turn in the very moment we were cancelled
                self._pass(key, turn.result())
            raise

    def crowded(self, key: int) -> bool:
        """Whether somebody in this process waits for the turn of a key that is taken."""
        queue = self._queues[key]
        return queue is not None and any(not turn.done() for turn in queue.waiting)

    def end_alone(self, key: int) -> bool:
        """End the turn if nobody has waited for it; whether that was so."""
        if self._queues[key] is not None:
            return False
        del self._queues[key]
        return True

    def hand_on(self, key: int, session: LockSession) -> bool:
        """Give the turn, and the key as it is locked on `session`, to who has waited longest.

        False: nobody waits, or it is time that another process had it. The key then has to be unlocked.
        """
        queue = self._queues[key]
        if queue is None or queue.handoffs >= HANDOFFS or not self._next(queue, session):
            return False
        queue.handoffs += 1
        return True

    def end(self, key: int) -> None:
        """End the turn: whoever waits has to ask Postgres."""
        if (queue := self._queues[key]) is not None:
            queue.handoffs = 0
        self._pass(key, None)

    def fail(self, error: Callable[[], BaseException]) -> None:
        """Nobody will have a turn any more."""
        for queue in filter(None, self._queues.values()):
            while queue.waiting:
                turn, _ = queue.waiting.popitem(last=False)
                if not turn.done():
                    turn.set_exception(error())

    def _pass(self, key: int, session: LockSession | None) -> None:
        if not self._next(self._queues[key], session):
            if session is not None:
                session.release(key)
            del self._queues[key]

    def _next(self, queue: _Queue | None, session: LockSession | None) -> bool:
        while queue is not None and queue.waiting:
            turn, _ = queue.waiting.popitem(last=False)
            if not turn.done():
                turn.set_result(session)
                return True
        return False
