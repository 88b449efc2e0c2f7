"""Who holds which lock, from `pg_locks` and `pg_stat_activity`: never by trying a lock.

The lookup has a connection of its own, opened with the first call: a lock session does nothing but
locks, and reading `pg_locks` takes as long as the server's lock table is large.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence
from typing import Any

import asyncpg

from aiodurable.dsn import Dsn
from aiodurable.errors import ConfigurationError
from aiodurable.models import LockHolder
from aiodurable.postgres.batcher import Batcher
from aiodurable.postgres.direct import DirectConnection
from aiodurable.postgres.errors import translate
from aiodurable.postgres.sql import load

__all__ = ["HolderLookup"]

_SQL = load("holders")
_IDENTIFY = load("locks")["identify_backend"]


class HolderLookup:
    """Finds holders of locks. Calls made at the same time share one statement.

    Args:
        dsn: where to look.
        timeout_s: seconds to reach Postgres, and for an answer.
    """

    def __init__(self, dsn: Dsn, *, timeout_s: float) -> None:
        self._dsn = dsn
        self._timeout_s = timeout_s
        self._connection = DirectConnection(
            dsn,
            role="look",
            connect_timeout_s=timeout_s,
            statement_timeout_s=timeout_s,
            on_connect=self._refuse_standby,
        )
        self._lookups = self._batcher()

    def open(self) -> None:
        """Be usable again after `aclose`."""
        self._lookups = self._batcher()

    async def holders(self, key: int | None = None) -> list[LockHolder]:
        """The holder of `key`, of any role and name, or the holders of all leases in this database.

        Raises:
            PostgresUnavailableError: Postgres could not be reached, or failed.
            ConfigurationError: it is a standby, which knows nothing of the primary's locks.
            ClosedError: the lookup is closed, or was closed meanwhile.
        """
        return list(await self._lookups(key) or ())

    async def fetch(self, query: str, *args: Any) -> list[asyncpg.Record]:
        """Run one statement; one at a time."""
        try:
            with translate(self._dsn):
                return await self._connection.fetch(query, *args)
        except BaseException:  # also when cancelled: the connection's state is unknown
            self._connection.drop()
            raise

    async def aclose(self) -> None:
        """Cut the connection, and fail the calls under way with `ClosedError`. Idempotent."""
        self._connection.drop()
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

    async def _refuse_standby(self, connection: asyncpg.Connection) -> None:
        [(_, _, standby)] = await connection.fetch(_IDENTIFY)
        if standby:
            raise ConfigurationError(
                f"cannot read who holds locks at {self._dsn.safe}: it is a standby, which knows "
                "nothing of the primary's locks. Read them from the primary"
            )
