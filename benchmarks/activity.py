"""What a Postgres did in a moment: commits, WAL, syncs, notifications, and what its backends waited
for.
"""

from __future__ import annotations

import asyncio
from collections import Counter
from contextlib import suppress
from typing import Any, Self

import asyncpg

from aiodurable.dsn import parse_dsn

from .meter import ServerCpu

CHANNELS = ("aiodurable_lock", "aiodurable_queue", "aiodurable_cancel")
EACH_S = 0.02

_COMMITS = "SELECT xact_commit FROM pg_stat_database WHERE datname = current_database()"
_SYNCS = {
    18: "SELECT sum(fsyncs), sum(fsync_time) FROM pg_stat_io WHERE object = 'wal'",
    14: "SELECT wal_sync, wal_sync_time FROM pg_stat_wal",
}
"""By the first version that has it. Milliseconds need `track_wal_io_timing`."""
_OTHERS = """
SELECT count(*) FROM pg_stat_activity
WHERE datname = current_database() AND backend_type = 'client backend' AND pid <> ALL($1)
"""
_WAITS = """
SELECT coalesce(wait_event_type || ': ' || wait_event, 'on the CPU, or ready for it') AS what,
       count(*) FILTER (WHERE state = 'active') AS active, count(*) AS connections
FROM pg_stat_activity
WHERE datname = current_database() AND backend_type = 'client backend' AND pid <> ALL($1)
GROUP BY 1
"""


class Activity:
    """Of one database whose clients come and go.

    A backend adds its counts to the server's when it ends, so they are complete only while no
    client is connected (`counts`). What is sampled (`async with`) is of connected ones.
    """

    def __init__(self, admin: asyncpg.Connection, sampler: asyncpg.Connection) -> None:
        self._admin, self._sampler = admin, sampler
        self._own = [admin.get_server_pid(), sampler.get_server_pid()]
        self._samples = 0
        self._active: Counter[str] = Counter()
        self._task: asyncio.Task[None] | None = None
        self.connections = 0
        """The most that a sample saw."""
        self.notifications = 0

    @classmethod
    async def of(cls, dsn: str) -> Self:
        """Two connections of its own; `close` closes them."""
        admin, sampler = [await asyncpg.connect(**parse_dsn(dsn).asyncpg) for _ in range(2)]
        made = cls(admin, sampler)
        for channel in CHANNELS:
            await admin.add_listener(channel, made._notified)
        return made

    async def close(self) -> None:
        for connection in (self._admin, self._sampler):
            await connection.close()

    async def counts(self) -> dict[str, float]:
        """Since ever: commits, syncs of the WAL and the milliseconds that these took. Waits until
        no other client is connected.
        """
        while await self._admin.fetchval(_OTHERS, self._own):  # noqa: ASYNC110 - Postgres sends no event for it
            await asyncio.sleep(EACH_S)
        version = self._admin.get_server_version().major
        syncs = await self._admin.fetchrow(_SYNCS[18 if version >= 18 else 14])
        assert syncs is not None
        return {
            "commits": float(await self._admin.fetchval(_COMMITS) or 0),
            "wal_syncs": float(syncs[0] or 0),
            "wal_sync_ms": float(syncs[1] or 0),
        }

    async def version(self) -> str:
        return await self._admin.fetchval("SHOW server_version") or ""

    async def server(self) -> ServerCpu:
        return await ServerCpu.of(self._admin)

    async def wal_bytes(self) -> float:
        """Since ever."""
        return float(await self._admin.fetchval("SELECT pg_current_wal_insert_lsn() - '0/0'") or 0)

    async def __aenter__(self) -> Self:
        self.connections = self.notifications = self._samples = 0
        self._active.clear()
        self._task = asyncio.create_task(self._sample(), name="samples of pg_stat_activity")
        return self

    async def __aexit__(self, *exc_info: object) -> None:
        assert self._task is not None
        self._task.cancel()
        with suppress(asyncio.CancelledError):
            await self._task

    def waits(self) -> dict[str, float]:
        """How many backends at a time, on average, stood in each state while at work."""
        return {
            what: number / self._samples for what, number in self._active.most_common() if number
        }

    async def _sample(self) -> None:
        while True:
            rows = await self._sampler.fetch(_WAITS, self._own)
            self._samples += 1
            self._active.update({row["what"]: row["active"] for row in rows})
            self.connections = max(self.connections, sum(row["connections"] for row in rows))
            await asyncio.sleep(EACH_S)

    def _notified(self, *notification: Any) -> None:
        del notification
        self.notifications += 1
