"""Dedicated asyncpg connections for the statements that every run needs: no pool, no check before each statement.

psycopg's pool asks each connection whether it still lives before it hands it out: one more round trip. A link is replaced
when a statement finds it dead.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import Any, Final, TypeVar, cast

import asyncpg

from aiodurable.dsn import Dsn
from aiodurable.errors import ClosedError, OutOfResourcesError, PostgresUnavailableError
from aiodurable.postgres.connect import connect_direct
from aiodurable.postgres.errors import is_disconnect, to_denied, to_unavailable
from aiodurable.postgres.plan_cache import PlanCache
from aiodurable.postgres.retry import STATEMENT
from aiodurable.postgres.sql import load

__all__ = ["DirectConnection", "DirectPool", "Origin"]

T = TypeVar("T")

_SQL = load("direct")

_STATEMENT_S: Final = 20.0
"""A statement that got no answer for so long will get none: the connection is dead, whatever TCP believes."""


@dataclass(frozen=True, slots=True, eq=False)
class Origin:
    """Where the statements of one connection come from.

    Attributes:
        server: when the server began; of two servers, a primary and its promoted standby above all,
            it differs. None: unknown, for a pooler stands between.
        since: `time.monotonic` from which on the server knew the connection.
    """

    server: str | None
    since: float


class DirectConnection:
    """One connection, opened at its first statement and replaced when it dies. One statement at a time.

    Args:
        dsn: where to.
        role: what `application_name` says it is for.
        connect_timeout_s: seconds to reach Postgres, at each try.
    """

    def __init__(self, dsn: Dsn, *, role: str, connect_timeout_s: float) -> None:
        self._dsn = dsn
        self._role = role
        self._connect_timeout_s = connect_timeout_s
        self._connection: asyncpg.Connection | None = None
        self._origin: Origin | None = None
        self._pid = 0  # its backend, as announced: a connection that is closed cannot say it any more
        self._proxied = False
        self._plans = PlanCache()
        self._left: set[int] = set()  # backends of connections that were cut: they may have work to do yet

    @property
    def origin(self) -> Origin | None:
        """Where the current connection leads; None while there is none."""
        return self._origin

    async def ready(self) -> Origin:
        """Connect unless that is done, and say where the next statement will run.

        Call `fetch` without an `await` in between: then it runs there, or fails.
        """
        if self._connection is None or self._connection.is_closed() or self._origin is None:
            await self._connect()
        assert self._origin is not None
        return self._origin

    async def fetch(self, query: str, *args: Any) -> list[asyncpg.Record]:
        """Run one statement. A connection error leaves nothing behind: the next call connects anew."""
        connection = self._connection
        if connection is None or connection.is_closed():
            connection = await self._connect()
        elif not self._proxied and self._plans.due_for_discard():
            await self._run(connection.execute(PlanCache.DISCARD))
        ask = self._in_one_place(connection, query, args) if self._proxied else connection.fetch(query, *args)
        return await self._run(ask)

    async def _connect(self) -> asyncpg.Connection:
        connection = await connect_direct(self._dsn, role=self._role, timeout_s=self._connect_timeout_s)
        self.drop()  # one that closed by itself may have left its backend behind as well
        self._connection, self._pid = connection, connection.get_server_pid()
        try:
            if left := list(self._left):
                end_left = _SQL["end_left"].replace("$1", ", ".join(map(str, left)))
                with suppress(asyncpg.InsufficientPrivilegeError):  # a host may take it from everybody
                    await self._run(connection.execute(end_left))
                self._left.difference_update(left)
            plan_once = _SQL["plan_once"].replace("$1", str(self._pid))
            self._proxied = await self._run(connection.execute(plan_once)) == "SELECT 0"
            server = None if self._proxied else await self._run(connection.fetchval(_SQL["server"]))
            self._origin = Origin(server, time.monotonic())
        except BaseException:  # half set up, it must not serve the next statement
            self.drop()
            raise
        self._plans = PlanCache()
        return connection

    @staticmethod
    async def _in_one_place(connection: asyncpg.Connection, query: str, args: Sequence[Any]) -> list[asyncpg.Record]:
        """A pooler may give the parsing to one server connection and the execution to another: a transaction stays on one."""
        async with connection.transaction():
            statement = await connection.prepare(query, name="")  # a name may be taken by somebody else's statement
            return await statement.fetch(*args)

    async def _run(self, answer: Awaitable[T]) -> T:
        silent = False

        def cut() -> None:
            nonlocal silent
            silent = True
            self.drop()

        # Not asyncpg's own timeout: it opens a second connection to cancel the statement, which
        # hangs in a partition.
        timer = asyncio.get_running_loop().call_later(_STATEMENT_S, cut)
        try:
            return await answer
        except Exception as error:
            if silent:
                raise TimeoutError(f"no answer within {_STATEMENT_S:g} s") from error
            if is_disconnect(error):
                self.drop()
            raise
        finally:
            timer.cancel()

    def drop(self) -> None:
        """Cut the connection without telling the server, which may not hear it. Never raises.

        The next connection ends the backend that this leaves behind.
        """
        connection, self._connection = self._connection, None
        self._origin = None
        if connection is not None:
            self._left.add(self._pid)
            connection.terminate()


class DirectPool:
    """A few links that share what is asked of them: for statements that do no harm when they are run twice.

    Args:
        dsn: where to.
        role: what `application_name` says they are for.
        size: links at most; each connects when it is first needed.
        timeout_s: seconds to reach Postgres, and for which a statement that failed with its connection is sent again.

    Attributes:
        asked: how many statements were asked for, since the beginning.
    """

    def __init__(self, dsn: Dsn, *, role: str, size: int, timeout_s: float) -> None:
        self.asked = 0
        self._dsn = dsn
        self._timeout_s = timeout_s
        self._links = [DirectConnection(dsn, role=role, connect_timeout_s=timeout_s) for _ in range(size)]
        self._idle = list(reversed(self._links))
        self._free = asyncio.Semaphore(size)
        self._closed = False
        self._loop: asyncio.AbstractEventLoop | None = None

    async def fetch(self, query: str, *args: Any) -> list[Mapping[str, Any]]:
        """Run one statement with `$1` parameters and return its rows; and again where its connection was found dead.

        Raises:
            PostgresUnavailableError: Postgres stayed away; the statement may have been run.
            OutOfResourcesError: a disk, the lock table or the like is full.
            ClosedError: the links were closed, or were first used in another event loop.
        """
        loop = asyncio.get_running_loop()
        if self._loop is None:
            self._loop = loop
        if self._loop is not loop:
            raise ClosedError("these connections belong to another event loop: open a Durable in each loop")
        self.asked += 1
        async with self._free:
            link = self._idle.pop()
            try:
                return cast("list[Mapping[str, Any]]", await self._fetch(link, query, args))  # by name, a Record is one
            except asyncio.CancelledError:
                link.drop()  # its statement may be under way: nobody will read the answer
                raise
            finally:
                self._idle.append(link)

    async def _fetch(self, link: DirectConnection, query: str, args: Sequence[Any]) -> list[asyncpg.Record]:
        deadline = time.monotonic() + self._timeout_s
        sent = False
        failures = 0  # not counting the first: most often the connection died while it was idle
        while True:
            if self._closed:
                raise ClosedError("the connection was closed: keep it open for as long as graphs run")
            try:
                return await link.fetch(query, *args)
            except Exception as error:
                if not isinstance(error, PostgresUnavailableError) and not is_disconnect(error):
                    refused = to_denied(error, self._dsn)
                    if refused is None:
                        raise
                    # A disk is emptied by a person; room for a lock comes by itself.
                    if not isinstance(refused, OutOfResourcesError) or refused.resource == "disk":
                        raise refused from error
                if not (sent or isinstance(error, PostgresUnavailableError)):
                    sent = True  # how long it waited for an answer does not count
                    deadline = time.monotonic() + self._timeout_s
                if time.monotonic() > deadline:
                    raise (
                        error if isinstance(error, PostgresUnavailableError) else to_unavailable(error, self._dsn)
                    ) from error
            await STATEMENT.pause(failures)
            failures += 1

    @property
    def origin(self) -> Origin | None:
        """Where all of the connections that are open now lead; None: unknown, or to several servers."""
        origins = self.origins
        return origins[0] if len({origin.server for origin in origins}) == 1 else None

    @property
    def origins(self) -> list[Origin]:
        """Where the connections lead that are open now."""
        return [link.origin for link in self._links if link.origin is not None]

    def close(self) -> None:
        """Cut all connections; a statement that is under way fails with `ClosedError`. Idempotent."""
        self._closed = True
        for link in self._links:
            link.drop()
