"""Looking at locks, from `pg_locks` and `pg_stat_activity`: never by trying one.

On a connection of its own, opened when somebody first looks: a lock session does nothing but locks, and reading `pg_locks`
takes as long as the server's lock table is large. Questions of one moment share one statement.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import Any

import asyncpg

from aiodurable.dsn import Dsn
from aiodurable.errors import ClosedError, ConfigurationError, PostgresUnavailableError
from aiodurable.models import LockHolder
from aiodurable.postgres.connect import connect_direct
from aiodurable.postgres.errors import DRIVER_FAILURES, to_unavailable
from aiodurable.postgres.sql import load

__all__ = ["HolderLookup"]

_SQL = load("locks")
_BY_INDEX = load("direct")["by_index"]


class HolderLookup:
    """Who holds what.

    Args:
        dsn: where to look.
        timeout_s: seconds to reach Postgres, and for an answer.
    """

    def __init__(self, dsn: Dsn, *, timeout_s: float) -> None:
        self._dsn = dsn
        self._timeout_s = timeout_s
        self._connection: asyncpg.Connection | None = None
        self._asked: list[tuple[int | None, asyncio.Future[list[LockHolder]]]] = []
        self._task: asyncio.Task[None] | None = None
        self._closed = False

    async def holders(self, key: int | None = None) -> list[LockHolder]:
        """The holder of `key`, whoever it is, or the holders of all leases in this database.

        Raises:
            PostgresUnavailableError: Postgres could not be asked.
            ConfigurationError: it is a standby, which knows nothing of the primary's locks.
        """
        if self._closed:
            raise ClosedError("the lock manager is closed: open it before you look")
        answer: asyncio.Future[list[LockHolder]] = asyncio.get_running_loop().create_future()
        self._asked.append((key, answer))
        if self._task is None or self._task.done():  # an eager task may be done before it is stored
            self._task = asyncio.create_task(self._look(), name="aiodurable locks looking")
        return await answer

    async def fetch(self, query: str, *args: Any) -> list[asyncpg.Record]:
        """Run one statement. For the one task that looks, or before there is one."""
        try:
            if self._connection is None or self._connection.is_closed():
                self._connection = await connect_direct(self._dsn, role="look", timeout_s=self._timeout_s)
                [(pid, _, standby)] = await self._connection.fetch(_SQL["look"], timeout=self._timeout_s)
                if standby:
                    raise ConfigurationError(
                        f"wanted to know who holds locks at {self._dsn.safe}, found a standby, which knows nothing of the "
                        "primary's locks: ask the primary"
                    )
                await self._connection.execute(_BY_INDEX.replace("$1", str(pid)), timeout=self._timeout_s)
            async with asyncio.timeout(self._timeout_s):
                return await self._connection.fetch(query, *args)
        except BaseException as error:  # also when cancelled: a connection in an unknown state is of no use
            self._cut()
            if isinstance(error, DRIVER_FAILURES):
                raise to_unavailable(error, self._dsn) from error
            raise

    async def aclose(self) -> None:
        """Cut the connection; who still waits for an answer gets `ClosedError`. Idempotent."""
        self._closed = True
        self._cut()
        task, self._task = self._task, None
        if task is not None:
            task.cancel()
            await asyncio.wait({task})
        self._fail(self._asked, ClosedError("the lock manager was closed while somebody looked"))

    async def _look(self) -> None:
        asked: list[tuple[int | None, asyncio.Future[list[LockHolder]]]] = []
        try:
            while self._asked:
                asked, self._asked = self._asked, []
                keys = None if any(key is None for key, _ in asked) else [key for key, _ in asked]
                try:
                    rows = await self.fetch(_SQL["holders"], keys)
                    if keys is None and (some := [key for key, _ in asked if key is not None]):
                        rows += await self.fetch(_SQL["holders"], some)
                except (PostgresUnavailableError, ConfigurationError) as error:
                    self._fail(asked, error)
                    continue
                found = list(dict.fromkeys(LockHolder(*row) for row in rows))
                for key, answer in asked:
                    if not answer.done():
                        answer.set_result([holder for holder in found if key in (None, holder.key)])
        finally:
            self._fail(asked, ClosedError("the lock manager was closed while somebody looked"))
            self._task = None

    @staticmethod
    def _fail(asked: Sequence[tuple[int | None, asyncio.Future[list[LockHolder]]]], error: BaseException) -> None:
        for _, answer in asked:
            if not answer.done():
                answer.set_exception(error)

    def _cut(self) -> None:
        connection, self._connection = self._connection, None
        if connection is not None:
            connection.terminate()
