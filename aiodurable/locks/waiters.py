"""Waiting in the client, never inside Postgres.

A task that waits for a key wakes for one of two reasons: the holder released it, saw the waiter's
flag and notified it; or the tick, because a holder that was killed notifies nobody. One tick serves
all waiting keys of the process, and their tries travel in one batch.

A task that finds the server's lock table full waits for capacity first, in order: each lock that
this process releases frees a slot, and the tick covers what others release.
"""

from __future__ import annotations

import asyncio
import random
from abc import ABC, abstractmethod
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Final

__all__ = ["CapacityWaiters", "KeyWaiters"]

TICK_S: Final = (0.1, 0.15)
"""Seconds between two tries of a waiter, jittered, so that processes do not try in step."""


class _TickedWaiters(ABC):
    """Runs a tick while somebody waits."""

    def __init__(self) -> None:
        self._tick: asyncio.TimerHandle | None = None

    @abstractmethod
    def __len__(self) -> int: ...

    @abstractmethod
    def _wake_on_tick(self) -> None: ...

    def _ensure_tick(self) -> None:
        if self._tick is None:
            self._arm()

    def _arm(self) -> None:
        loop = asyncio.get_running_loop()
        self._tick = loop.call_later(random.uniform(*TICK_S), self._ticked)

    def _ticked(self) -> None:
        self._tick = None
        if len(self):
            self._wake_on_tick()
            self._arm()


class KeyWaiters(_TickedWaiters):
    """Wakes the tasks that wait for a key which another process holds; one task for each key."""

    def __init__(self) -> None:
        super().__init__()
        self._events: dict[int, asyncio.Event] = {}

    def __len__(self) -> int:
        return len(self._events)

    @contextmanager
    def waiting(self, key: int) -> Iterator[asyncio.Event]:
        """An event that is set whenever a try is worthwhile.

        Clear it before the try: otherwise a key that is released between the refusal and the
        clearing goes unnoticed until the tick.
        """
        event = self._events[key] = asyncio.Event()
        self._ensure_tick()
        try:
            yield event
        finally:
            del self._events[key]

    def wake(self, key: int) -> None:
        """Wake who waits for `key`: it was released."""
        if (event := self._events.get(key)) is not None:
            event.set()

    def wake_all(self) -> None:
        """Wake everybody: a new session is up, or none will be."""
        for event in self._events.values():
            event.set()

    def _wake_on_tick(self) -> None:
        self.wake_all()


class CapacityWaiters(_TickedWaiters):
    """Wakes the tasks that wait for a slot of the server's lock table: one at a time, in order.

    Attributes:
        events: one for each waiter, in order.
    """

    def __init__(self) -> None:
        super().__init__()
        self.events: dict[asyncio.Event, None] = {}

    def __len__(self) -> int:
        return len(self.events)

    @contextmanager
    def waiting(self) -> Iterator[asyncio.Event]:
        """An event that is set whenever a try is worthwhile. Who leaves wakes the next waiter."""
        event = asyncio.Event()
        self.events[event] = None
        self._ensure_tick()
        try:
            yield event
        finally:
            del self.events[event]
            self.wake_next()

    def wake_next(self) -> None:
        """Wake one more: there may be a slot for it."""
        for event in self.events:
            if not event.is_set():
                event.set()
                return

    def _wake_on_tick(self) -> None:
        self.wake_next()
