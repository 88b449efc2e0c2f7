"""One connection of a process listens; everything that wants notifications subscribes here.

It is the first lock session, not a connection of its own: that one is open as long as the process
works, its heartbeats find a dead link within seconds, and a process that holds thousands of leases
stays at two lock connections. Without lock sessions nothing listens.

NOTIFY is best effort: what is sent while no connection listens is lost. So a subscriber only
hurries because of a notification, and has a tick or a poll that finds what it missed.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import TypeAlias

import asyncpg

__all__ = ["Notifier", "Subscriber"]

Subscriber: TypeAlias = Callable[[str], None]
"""Is called in the event loop with each payload. Any role may send one: check it."""

_log = logging.getLogger(__name__)


class Notifier:
    """The subscriptions of a process, by channel."""

    def __init__(self) -> None:
        self._subscribers: dict[str, list[Subscriber]] = {}
        self._attached = False

    def subscribe(self, channel: str, subscriber: Subscriber) -> Callable[[], None]:
        """Have `subscriber` called for each notification on `channel`. Returns a callable that
        unsubscribes; idempotent.

        Raises:
            RuntimeError: a connection listens already, and not on this channel: it is a lock
                session, where nobody else may run a LISTEN.
        """
        if self._attached and channel not in self._subscribers:
            raise RuntimeError(
                f"cannot subscribe to {channel!r}: subscribe to a new channel before the locks open"
            )
        subscribers = self._subscribers.setdefault(channel, [])
        subscribers.append(subscriber)

        def unsubscribe() -> None:
            if subscriber in subscribers:
                subscribers.remove(subscriber)

        return unsubscribe

    async def attach(self, connection: asyncpg.Connection) -> None:
        """Listen on `connection` from now on; the one before it, if any, is closed."""
        self._attached = True
        for channel in self._subscribers:
            await connection.add_listener(channel, self._notified)

    def _notified(self, _connection: object, _pid: int, channel: str, payload: object) -> None:
        for subscriber in tuple(self._subscribers[channel]):
            try:
                subscriber(str(payload))
            except Exception:  # the others must hear it all the same
                _log.exception("a subscriber to %s failed: please report this", channel)
