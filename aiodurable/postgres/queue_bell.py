"""Wakes a worker that sleeps: while its flag is up, accepting a run sends a notification.

The flag is a shared advisory lock of a connection that also listens. Without a connection nothing
is lost: a worker polls as well.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
from typing import Final

import asyncpg

from aiodurable.dsn import Dsn
from aiodurable.errors import AiodurableError
from aiodurable.postgres.connect import connect_direct
from aiodurable.postgres.errors import DRIVER_FAILURES
from aiodurable.postgres.sql import load

__all__ = ["QueueBell"]

CHANNEL: Final = "aiodurable_queue"
_SQL = load("worker")
_log = logging.getLogger(__name__)


class QueueBell:
    """The flag of one worker, and the event that a notification sets.

    Args:
        dsn: the database, not through a pooler.
        queues: those that the worker serves.
        timeout_s: seconds to connect, and for each statement.
    """

    def __init__(self, dsn: Dsn, queues: tuple[str, ...], *, timeout_s: float) -> None:
        self._dsn = dsn
        self._queues = frozenset(queues)
        self._timeout_s = timeout_s
        self._connection: asyncpg.Connection | None = None
        self._up = False
        self.rung = asyncio.Event()

    @property
    def up(self) -> bool:
        """Whether runs that are accepted now are announced."""
        return self._up and self._connection is not None and not self._connection.is_closed()

    async def put_up(self) -> None:
        """Raise the flag; without Postgres it stays down."""
        try:
            if self._connection is None or self._connection.is_closed():
                self._connection = await connect_direct(
                    self._dsn, role="worker", timeout_s=self._timeout_s
                )
                await self._connection.add_listener(CHANNEL, self._notified)
            await self._connection.execute(_SQL["flag_up"], timeout=self._timeout_s)
            self._up = True
        except (AiodurableError, TimeoutError, *DRIVER_FAILURES) as error:
            _log.debug("a worker's flag could not be raised: %s", type(error).__name__)
            await self.aclose()

    async def take_down(self) -> None:
        """Lower the flag."""
        if not self.up or self._connection is None:
            return
        self._up = False
        try:
            await self._connection.execute(_SQL["flag_down"], timeout=self._timeout_s)
        except (TimeoutError, *DRIVER_FAILURES):
            await self.aclose()

    async def aclose(self) -> None:
        """Close the connection, and the flag with it. Idempotent."""
        connection, self._connection, self._up = self._connection, None, False
        if connection is not None:
            with contextlib.suppress(TimeoutError, *DRIVER_FAILURES):
                connection.terminate()

    def _notified(self, _connection: object, _pid: int, _channel: str, queue: object) -> None:
        if queue in self._queues:
            self.rung.set()
