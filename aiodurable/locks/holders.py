"""Who holds which lock, from `pg_locks` and `pg_stat_activity`: never by trying a lock.

The lookup has a connection of its own, opened with the first call: a lock session does nothing but
locks, and reading `pg_locks` takes as long as the server's lock table is large.
"""

from __future__ import annotations

import asyncio
from collections import defaultdict
from collections.abc import Mapping, Sequence
from typing import Any

import asyncpg

from aiodurable.dsn import Dsn
from aiodurable.errors import ConfigurationError
from aiodurable.models import LockHolder
from aiodurable.postgres.batcher import Batcher
from aiodurable.postgres.connect import connect_direct
from aiodurable.postgres.errors import DRIVER_FAILURES, to_unavailable
from aiodurable.postgres.sql import load

__all__ = ["HolderLookup"]

_SQL = load("locks")
_BY_INDEX = load("direct")["by_index"]


class HolderLookup:
    """Finds holders of locks. Calls made at the same time share one statement.

    Args:
        dsn: where to look.
        timeout_s: seconds to reach Postgres, and for an answer.
    """

    def __init__(self, dsn: Dsn, *, timeout_s: float) -> None:
        self._dsn = dsn
        self._timeout_s = timeout_s
        self._connection: asyncpg.Connection | None = None
        self._lookups = self._batcher()

    def open(self) -> None:
        """Be usable again after `aclose`."""
        self._lookups = self._batcher()

    async def holders(self, key: int | None = None) -> list[LockHolder]:
        """The holder of `key`, whoever it is, or the holders of all leases in this database.

        Raises:
            PostgresUnavailableError: Postgres could not be reached, or failed.
            ConfigurationError: it is a standby, which knows nothing of the primary's locks.
            ClosedError: the lookup is closed, or was closed meanwhile.
        """
        return list(await self._lookups(key) or ())

    async def fetch(self, query: str, *args: Any) -> list[asyncpg.Record]:
        """Run one statement; one at a time."""
        try:
            if self._connection is None or self._connection.is_closed():
                self._connection = await self._connect()
            async with asyncio.timeout(self._timeout_s):
                return await self._connection.fetch(query, *args)
        except BaseException as error:  # also when cancelled: the connection's state is unknown
            self._cut()
            if isinstance(error, DRIVER_FAILURES):
                raise to_unavailable(error, self._dsn) from error
            raise

    async def aclose(self) -> None:
        """Cut the connection, and fail the calls under way with `ClosedError`. Idempotent."""
        self._cut()
        await self._lookups.aclose()

    def _batcher(self) -> Batcher[int | None, list[LockHolder]]:
        return Batcher(self._find, limit=1000, shared=True, name="aiodurable lock holders")

    async def _find(self, keys: Sequence[int | None]) -> Mapping[int | None, list[LockHolder]]:
        found: defaultdict[int | None, list[LockHolder]] = defaultdict(list)
        if None in keys:  # all that say they are ours
            found[None] = [LockHolder(*row) for row in await self.fetch(_SQL["holders"], None)]
        if some := [key for key in keys if key is not None]:
            for row in await self.fetch(_SQL["holders"], some):
                holder = LockHolder(*row)
                found[holder.key].append(holder)
        return found

    async def _connect(self) -> asyncpg.Connection:
        connection = await connect_direct(self._dsn, role="look", timeout_s=self._timeout_s)
        try:
            [(pid, _, standby)] = await connection.fetch(_SQL["identify_backend"], timeout=self._timeout_s)
            if standby:
                raise ConfigurationError(
                    f"cannot read who holds locks at {self._dsn.safe}: it is a standby, which knows "
                    "nothing of the primary's locks. Read them from the primary"
                )
            await connection.execute(_BY_INDEX.replace("$1", str(pid)), timeout=self._timeout_s)
        except BaseException:  # also when cancelled: it has no owner yet
            connection.terminate()
            raise
        return connection

    def _cut(self) -> None:
        connection, self._connection = self._connection, None
        if connection is not None:
            connection.terminate()
