"""Waiting for a key that another process holds: in the client, never inside Postgres.

A waiter wakes for one of two reasons: the holder let go and, seeing its flag, notified it; or a tick, for a holder that was
killed sends nothing. There is one tick for all waiting keys of the process, their tries travel in one batch, and where
nobody waits there is none.

Who finds no room in the server's lock table waits for that first, in order: a lock that this process lets go of makes room
for one, and a tick sees to what others let go of.
"""

from __future__ import annotations

import asyncio
import random
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Final

__all__ = ["CapacityWaiters", "KeyWaiters"]

TICK_S: Final = (0.1, 0.15)
"""Seconds between two tries of a waiting key, jittered, so that processes do not try in step."""


class KeyWaiters:
    """Wakes who waits for a key."""

    def __init__(self) -> None:
        self._wakes: dict[int, asyncio.Event] = {}
        self._tick: asyncio.TimerHandle | None = None

    def __len__(self) -> int:
        return len(self._wakes)

    @contextmanager
    def waiting(self, key: int) -> Iterator[asyncio.Event]:
        """An event that is set whenever it is worth a try. Clear it before the try: a key that is let go between the
        refusal and the clearing would go unnoticed until the tick."""
        wake = self._wakes[key] = asyncio.Event()
        if self._tick is None:
            self._arm()
        try:
            yield wake
        finally:
            del self._wakes[key]

    def ring(self, key: int) -> None:
        """`key` was let go."""
        if (wake := self._wakes.get(key)) is not None:
            wake.set()

    def ring_all(self) -> None:
        """Everybody look: the tick, a new session, the end."""
        for wake in self._wakes.values():
            wake.set()

    def _arm(self) -> None:
        self._tick = asyncio.get_running_loop().call_later(random.uniform(*TICK_S), self._ticked)

    def _ticked(self) -> None:
        self._tick = None
        if self._wakes:
            self.ring_all()
            self._arm()


class CapacityWaiters:
    """Wakes who waits for room in the server's lock table: one at a time, the first first.

    Attributes:
        wakes: an event for each who waits, in order.
    """

    def __init__(self) -> None:
        self.wakes: dict[asyncio.Event, None] = {}
        self._tick: asyncio.TimerHandle | None = None

    @contextmanager
    def waiting(self) -> Iterator[asyncio.Event]:
        """An event that is set whenever it is worth a try. Who leaves, with a lock or without, wakes the next one."""
        wake = asyncio.Event()
        self.wakes[wake] = None
        if self._tick is None:
            self._arm()
        try:
            yield wake
        finally:
            del self.wakes[wake]
            self.ring()

    def ring(self) -> None:
        """There may be room for one more."""
        for wake in self.wakes:
            if not wake.is_set():
                wake.set()
                return

    def _arm(self) -> None:
        self._tick = asyncio.get_running_loop().call_later(random.uniform(*TICK_S), self._ticked)

    def _ticked(self) -> None:
        self._tick = None
        if self.wakes:
            self.ring()
            self._arm()
