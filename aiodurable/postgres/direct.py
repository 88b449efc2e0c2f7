"""Dedicated asyncpg connections for the statements that every run needs: no check before each
statement.

psycopg's pool checks a connection before it hands it out, which may cost a round trip. A direct
connection is replaced when a statement finds it dead.
"""

from __future__ import annotations

import asyncio
import socket
import time
from collections.abc import Awaitable, Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import Any, Final, TypeVar, cast

import asyncpg

from aiodurable.dsn import Dsn
from aiodurable.errors import ClosedError, OutOfResourcesError, PostgresUnavailableError
from aiodurable.postgres.connect import connect_direct
from aiodurable.postgres.errors import (
    DRIVER_FAILURES,
    is_disconnect,
    shown_cause,
    to_denied,
    to_refused,
    to_unavailable,
)
from aiodurable.postgres.plan_cache import PlanCache
from aiodurable.postgres.pool_connection import BOUND_SILENCE
from aiodurable.postgres.retry import STATEMENT
from aiodurable.postgres.sql import literal, load

__all__ = ["DirectConnection", "DirectPool", "Origin"]

T = TypeVar("T")

_SQL = load("direct")

_STATEMENT_S: Final = 20.0
"""Seconds without an answer after which a connection counts as dead, whatever TCP believes."""

_KEEPALIVE: Final = {"TCP_KEEPIDLE": 20, "TCP_KEEPINTVL": 5, "TCP_KEEPCNT": 3}
"""Of psycopg's pool (`pool_connection.KEEPALIVES`), where the system has them. A spare connection
may be idle for hours: a NAT must not forget it, or the next statement on it waits in vain.
"""

_SEND_BYTES: Final = 1 << 20
"""The send buffer of a Unix socket; the system may limit it (`net.core.wmem_max`). What does not
fit is copied once more and sent in pieces, with a turn of the loop for each. A TCP socket's grows
by itself.
"""


@dataclass(frozen=True, slots=True, eq=False)
class Origin:
    """The server at the other end of one connection.

    Attributes:
        server: when it started, which tells two servers apart, above all a primary and its promoted
            standby. None: unknown, a pooler stands in between.
        since: `time.monotonic` at which the server knew the connection.
    """

    server: str | None
    since: float


class DirectConnection:
    """One connection, opened by its first statement and replaced when it dies. One statement at a
    time.

    Args:
        dsn: the database.
        role: the purpose, for `application_name`.
        connect_timeout_s: seconds to reach Postgres, at each try.
        statement_timeout_s: seconds to wait for an answer, after which the connection counts as
            dead; None: 20.
        on_connect: runs on each new connection before its first statement; what it raises refuses
            the connection.
    """

    def __init__(
        self,
        dsn: Dsn,
        *,
        role: str,
        connect_timeout_s: float,
        statement_timeout_s: float | None = None,
        on_connect: Callable[[asyncpg.Connection], Awaitable[None]] | None = None,
    ) -> None:
        self._dsn = dsn
        self._role = role
        self._connect_timeout_s = connect_timeout_s
        self._statement_timeout_s = statement_timeout_s
        self._on_connect = on_connect
        self._connection: asyncpg.Connection | None = None
        self._origin: Origin | None = None
        self._pid = 0  # the announced backend: a closed connection no longer knows it
        self._proxied = False
        self._plans = PlanCache()
        # backends of connections that were cut: they may still work
        self._abandoned: set[int] = set()

    @property
    def origin(self) -> Origin | None:
        """The server of the current connection; None while there is none."""
        connection = self._connection
        return None if connection is None or connection.is_closed() else self._origin

    async def ready(self) -> Origin:
        """Connect if necessary, and return the server on which the next statement will run.

        Call `fetch` without another `await` in between: then it runs there, or fails.
        """
        if self._connection is None or self._connection.is_closed() or self._origin is None:
            await self._connect()
        assert self._origin is not None
        return self._origin

    async def fetch(self, query: str, *args: Any) -> list[asyncpg.Record]:
        """Run one statement. After a connection error the next call connects again.

        Raises:
            PostgresUnavailableError: Postgres could not be reached. Errors of the statement are the
                driver's.
        """
        connection = self._connection
        if connection is None or connection.is_closed():
            connection = await self._connect()
        elif not self._proxied and self._plans.due_for_discard():
            await self._run(connection.execute(PlanCache.DISCARD))
        ask = (
            self._in_one_place(connection, query, args)
            if self._proxied
            else connection.fetch(query, *args)
        )
        return await self._run(ask)

    async def _connect(self) -> asyncpg.Connection:
        connection = await connect_direct(
            self._dsn, role=self._role, timeout_s=self._connect_timeout_s
        )
        self.drop()  # one that closed by itself may have left its backend as well
        self._connection, self._pid = connection, connection.get_server_pid()
        _tune_socket(connection)
        try:
            if abandoned := list(self._abandoned):
                end_left = _SQL["terminate_abandoned_backends"].replace(
                    "$1", ", ".join(map(str, abandoned))
                )
                # a host may revoke it from everybody
                with suppress(asyncpg.InsufficientPrivilegeError):
                    await self._run(connection.execute(end_left))
                self._abandoned.difference_update(abandoned)
            plan_once = literal(_SQL["plan_once"], self._pid, self._dsn.compression)
            self._proxied = await self._run(connection.execute(plan_once)) == "SELECT 0"
            server = None if self._proxied else await self._run(connection.fetchrow(_SQL["server"]))
            if self._on_connect is not None:
                await self._run(self._on_connect(connection))
            self._origin = Origin(server and server["server"], time.monotonic())
        except BaseException:  # half set up, it must not run the next statement
            self.drop()
            raise
        self._plans = PlanCache(grown=bool(server and server["grown"]))
        return connection

    @staticmethod
    async def _in_one_place(
        connection: asyncpg.Connection, query: str, args: Sequence[Any]
    ) -> list[asyncpg.Record]:
        """Run a statement in a transaction: without one a pooler may parse it on one server and
        execute it on another. The server ends it if its client vanishes, for nothing of ours can:
        who waits for its rows knows the pooler's backends only.
        """
        await connection.execute(f"BEGIN; {BOUND_SILENCE}")
        try:
            statement = await connection.prepare(query, name="")  # another client may use a name
            rows = await statement.fetch(*args)
        except Exception:  # the server's, or asyncpg's of a value that it cannot send
            if not connection.is_closed():
                await connection.execute("ROLLBACK")
            raise
        await connection.execute("COMMIT")
        return rows

    async def _run(self, answer: Awaitable[T]) -> T:
        silent = False

        def cut() -> None:
            nonlocal silent
            silent = True
            self.drop()

        # Not asyncpg's own timeout: it opens a second connection to cancel the statement, which
        # hangs in a partition.
        timeout_s = _STATEMENT_S if self._statement_timeout_s is None else self._statement_timeout_s
        timer = asyncio.get_running_loop().call_later(timeout_s, cut)
        try:
            return await answer
        except Exception as error:
            if silent:
                raise TimeoutError(f"no answer within {timeout_s:g} s") from error
            if is_disconnect(error):
                self.drop()
            raise
        finally:
            timer.cancel()

    def drop(self) -> None:
        """Cut the connection without a message to the server, which might not get it. Never raises.

        The next connection terminates the backend that this one abandons.
        """
        connection, self._connection = self._connection, None
        self._origin = None
        if connection is not None:
            self._abandoned.add(self._pid)
            connection.terminate()


def _tune_socket(connection: asyncpg.Connection) -> None:
    transport: asyncio.Transport = connection._transport  # noqa: SLF001  # pyright: ignore[reportPrivateUsage]
    wire = transport.get_extra_info("socket")
    if wire is None:
        return
    with suppress(OSError):  # it has closed already: its first statement says so
        if wire.family not in (socket.AF_INET, socket.AF_INET6):
            wire.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, _SEND_BYTES)
            return
        wire.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
        for name, value in _KEEPALIVE.items():
            if (option := getattr(socket, name, None)) is not None:
                wire.setsockopt(socket.IPPROTO_TCP, option, value)


class DirectPool:
    """A few direct connections, for statements that may run twice without harm.

    Not `asyncpg.Pool`, which neither cuts a connection that falls silent, nor terminates the
    backend of one it cut, nor tells which server answered.

    Args:
        dsn: the database.
        role: the purpose, for `application_name`.
        size: the most connections; each connects when it is first needed.
        timeout_s: seconds to reach Postgres, and for which a statement whose connection died is
            sent again.

    Attributes:
        sent: the number of statements since the start.
    """

    def __init__(self, dsn: Dsn, *, role: str, size: int, timeout_s: float) -> None:
        self.sent = 0
        self._dsn = dsn
        self._timeout_s = timeout_s
        self._connections = [
            DirectConnection(dsn, role=role, connect_timeout_s=timeout_s) for _ in range(size)
        ]
        self._idle = list(reversed(self._connections))
        self._free = asyncio.Semaphore(size)
        self._closed = False
        self._loop: asyncio.AbstractEventLoop | None = None

    def open(self) -> None:
        """Belong to the running event loop, not to the one of the first statement."""
        self._loop = asyncio.get_running_loop()

    async def fetch(self, query: str, *args: Any) -> list[Mapping[str, Any]]:
        """Run one statement with `$1` parameters and return its rows; run it again if its
        connection died.

        Raises:
            PostgresUnavailableError: Postgres stayed away; the statement may have run.
            OutOfResourcesError: a disk, the lock table or the like is full.
            ConfigurationError: the role lacks a right, or the database's encoding a character.
            StatementRefusedError: Postgres refused it for another reason.
            ClosedError: the pool was closed, or was opened or first used in another event loop.
        """
        loop = asyncio.get_running_loop()
        if self._loop is None:
            self._loop = loop
        if self._loop is not loop:
            raise ClosedError(
                "these connections belong to another event loop: open a Durable in each loop"
            )
        self.sent += 1
        async with self._free:
            connection = self._idle.pop()
            try:
                return cast(
                    "list[Mapping[str, Any]]", await self._fetch(connection, query, args)
                )  # a Record is one, by name
            except asyncio.CancelledError:
                connection.drop()  # nobody will read the answer of the statement under way
                raise
            finally:
                self._idle.append(connection)

    async def _fetch(
        self, connection: DirectConnection, query: str, args: Sequence[Any]
    ) -> list[asyncpg.Record]:
        # A loop of its own, not stamina's: the deadline starts again with the first statement that
        # was sent, and the usual case, no failure at all, must cost nothing.
        deadline = time.monotonic() + self._timeout_s
        sent = False
        failures = 0  # not counting the first: most often the connection died while it was idle
        while True:
            if self._closed:
                raise ClosedError(
                    "the connection was closed: keep it open for as long as graphs run"
                )
            try:
                return await connection.fetch(query, *args)
            except (PostgresUnavailableError, *DRIVER_FAILURES) as error:
                if not isinstance(error, PostgresUnavailableError) and not is_disconnect(error):
                    denied = to_denied(error, self._dsn)
                    if denied is None:
                        what = f"cannot run a statement at {self._dsn.safe}"
                        raise to_refused(error, what) from None
                    # Somebody has to clear a full disk; locks, memory and connections become free
                    # by themselves.
                    if not isinstance(denied, OutOfResourcesError) or denied.resource == "disk":
                        raise denied from shown_cause(error)
                if not (sent or isinstance(error, PostgresUnavailableError)):
                    sent = True  # the wait for an answer does not count
                    deadline = time.monotonic() + self._timeout_s
                if time.monotonic() > deadline:
                    if isinstance(error, PostgresUnavailableError):
                        raise
                    raise to_unavailable(error, self._dsn) from shown_cause(error)
            await STATEMENT.pause(failures)
            failures += 1

    @property
    def origin(self) -> Origin | None:
        """The server of all open connections; None: unknown, or several servers."""
        origins = self.origins
        return origins[0] if len({origin.server for origin in origins}) == 1 else None

    @property
    def origins(self) -> list[Origin]:
        """The servers of the open connections."""
        return [origin for one in self._connections if (origin := one.origin) is not None]

    def close(self) -> None:
        """Cut all connections; a statement under way fails with `ClosedError`. Idempotent."""
        self._closed = True
        for connection in self._connections:
            connection.drop()
