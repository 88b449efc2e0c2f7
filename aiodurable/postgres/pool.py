"""Ways to Postgres: a psycopg pool for statements that may go through a pooler, single asyncpg connections for the rest."""

from __future__ import annotations

import asyncio
import os
import random
import socket
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from contextlib import asynccontextmanager, nullcontext, suppress
from functools import partial
from typing import Any, cast

import asyncpg
import psycopg
from psycopg import AsyncConnection, AsyncRawCursor
from psycopg.conninfo import conninfo_to_dict
from psycopg.rows import DictRow, dict_row
from psycopg_pool import AsyncConnectionPool, PoolClosed, PoolTimeout

from aiodurable.dsn import Dsn
from aiodurable.errors import ClosedError, ConfigurationError
from aiodurable.postgres.circuit_breaker import CircuitBreaker
from aiodurable.postgres.errors import is_disconnect, is_out_of_connections, to_denied, to_unavailable, translate
from aiodurable.postgres.name_resolution import ResolvingLoop, with_addresses
from aiodurable.postgres.plan_cache import PlanCache
from aiodurable.postgres.sql import load

__all__ = [
    "Database",
    "application_name",
    "connect_direct",
]

Pool = AsyncConnectionPool[AsyncConnection[DictRow]]

_SILENCE_S = 20.0
"""After so long without an answer another connection is asked whether the statement is still being worked on."""

_KEEPALIVES = {
    "keepalives_idle": "20",
    "keepalives_interval": "5",
    "keepalives_count": "3",
    "tcp_user_timeout": "20000",  # milliseconds
}
"""libpq's own, unless the DSN says otherwise: Linux would take 2 hours to notice that an idle
connection is dead, and 15 minutes for one that a statement was sent on."""

_RETRY_S = (0.1, 0.3)
"""Seconds between two tries of the pool to reach a Postgres that is away."""

_RETRY_FOR_S = 60.0
"""And for how long; then the pool's own, growing pauses come in between. A restart or a failover is over by then."""


def application_name(role: str) -> str:
    """What `pg_stat_activity` shows of a connection: role, host and process, cut to Postgres's 63 bytes."""
    tail = f":{os.getpid()}"
    return f"aiodurable:{role}@{socket.gethostname()}".encode()[: 63 - len(tail)].decode(errors="ignore") + tail


async def connect_direct(
    dsn: Dsn, *, role: str, server_settings: Mapping[str, str] | None = None, timeout_s: float = 10.0
) -> asyncpg.Connection:
    """Open one asyncpg connection that belongs to the caller alone.

    Never from `asyncpg.Pool`: it runs `pg_advisory_unlock_all()` when a connection is returned.

    Args:
        dsn: where to.
        role: what `application_name` says it is for.
        server_settings: parameters set at connection start.
        timeout_s: seconds until it gives up.

    Raises:
        PostgresUnavailableError: it could not be reached or refused; the driver's error is the cause.
    """
    settings = {
        "application_name": application_name(role),
        "standard_conforming_strings": "on",
        **(server_settings or {}),
    }
    with translate(dsn):  # no variable holds the password: a crash reporter would show it
        connection: asyncpg.Connection = await asyncpg.connect(**_for_asyncpg(dsn, settings, timeout_s))
    connection._loop = asyncio.get_running_loop()  # noqa: SLF001  # pyright: ignore[reportPrivateUsage] - it looks for its own tasks there
    return connection


def _for_asyncpg(dsn: Dsn, settings: Mapping[str, str], timeout_s: float) -> dict[str, Any]:
    options = dsn.asyncpg
    options["server_settings"] = {**options.get("server_settings", {}), **settings}
    options["max_cacheable_statement_size"] = 0  # any: above 15 kB it would be parsed and planned each time
    return {**options, "timeout": timeout_s, "loop": ResolvingLoop(asyncio.get_running_loop())}


_BY_INDEX = load("direct")["by_index"]
_ISOLATION = load("direct")["isolation"]
_AT_WORK = load("direct")["at_work"].replace("$1", "%s").encode()
_EXPECTED = {"DateStyle": "ISO", "standard_conforming_strings": "on"}
"""What psycopg needs to read times, and our statements to mean what they say. PgBouncer hands both on, in any mode."""


async def _configure(connection: AsyncConnection[DictRow]) -> None:
    """For the pool's new connections."""
    for name, wanted in _EXPECTED.items():
        if not (connection.info.parameter_status(name) or wanted).startswith(wanted):
            await connection.execute(f"SET {name} TO {wanted}".encode())
    await _prepare_where_statements_stay(connection)


async def _prepare_where_statements_stay(connection: AsyncConnection[DictRow]) -> None:
    """Prepare statements and plan them for look-ups, unless a pooler stands in between: there each may reach another backend.

    A pooler shows by announcing another backend than the one that answers (PgBouncer makes process ids up).
    """
    stays = await connection.execute(_BY_INDEX.replace("$1", str(connection.info.backend_pid)).encode())
    connection.prepare_threshold = 0 if stays.rowcount else None


def _note_farewell(farewells: list[str], notice: psycopg.errors.Diagnostic) -> None:
    state = notice.sqlstate or ""
    if notice.severity_nonlocalized == "FATAL" or state.startswith("57P"):  # an immediate shutdown only warns
        farewells.append(state)


async def _refuse_other_isolation(connection: AsyncConnection[DictRow], dsn: Dsn) -> None:
    """A pooler's sessions are not ours to set (`by_index`), and our statements need a snapshot for each of them."""
    found = await (await connection.execute(_ISOLATION.encode())).fetchone()
    assert found is not None
    if found["pid"] != connection.info.backend_pid and found["isolation"] != "read committed":
        raise ConfigurationError(
            f"default_transaction_isolation is {found['isolation']} at {dsn.safe}, and its sessions are a pooler's, so that "
            "it cannot be set for them: ALTER ROLE … SET default_transaction_isolation = 'read committed'"
        )


def _where(options: Mapping[str, Any]) -> dict[str, Any]:
    return {name: options[name] for name in ("host", "hostaddr", "port") if name in options}


class _PoolConnection(AsyncConnection[DictRow]):
    """A connection of the pool, which has plans, and does not wait for ever for an answer."""

    def __init__(self, *args: Any, **options: Any) -> None:
        super().__init__(*args, **options)
        self._plans = PlanCache()
        self._farewells: list[str] = []
        self.add_notice_handler(partial(_note_farewell, self._farewells))
        self.beside: Callable[..., Awaitable[AsyncConnection[Any]]] = AsyncConnection.connect

    @classmethod
    async def connect(cls, conninfo: str = "", **options: Any) -> Any:
        addresses = await with_addresses(_where({**conninfo_to_dict(conninfo), **options}))
        connection = await super().connect(conninfo, **{**options, **addresses})
        connection.beside = partial(AsyncConnection.connect, conninfo, **options)
        return connection

    async def wait(self, *args: Any, **options: Any) -> Any:
        """As psycopg's; every statement waits here for its answer."""
        watching: asyncio.Task[None] | None = None

        def watch() -> None:
            nonlocal watching
            watching = asyncio.create_task(self._cut_if_dead(), name="aiodurable pool watch")

        timer = asyncio.get_running_loop().call_later(_SILENCE_S, watch)
        try:
            return await super().wait(*args, **options)
        finally:
            timer.cancel()
            if watching is not None:
                watching.cancel()

    async def _cut_if_dead(self) -> None:
        """Cut the connection unless its backend works on a statement, for as long as we wait for one.

        A statement may take minutes; but one that never reached the server, or whose answer was
        lost, will not be answered. Behind a pooler, which makes pids up, only TCP can tell.
        """
        if self.prepare_threshold is None:
            return
        while await self._is_at_work():  # noqa: ASYNC110 - nothing here would set an event
            await asyncio.sleep(_SILENCE_S)
        if self.pgconn.socket >= 0:
            with socket.socket(fileno=os.dup(self.pgconn.socket)) as wire, suppress(OSError):
                wire.shutdown(socket.SHUT_RDWR)  # libpq finds it closed, and whoever waits gets its error

    async def _is_at_work(self) -> bool:
        info = self.info  # of several hosts the one that this connection leads to
        here = {"host": info.host, "hostaddr": info.hostaddr, "port": info.port}
        try:
            async with asyncio.timeout(_SILENCE_S / 2), await self.beside(**here) as beside:
                for pause_s in (_SILENCE_S / 20, 0):  # its last answer may be under way
                    if await (await beside.execute(_AT_WORK, (info.backend_pid,))).fetchone() is not None:
                        return True
                    await asyncio.sleep(pause_s)
        except psycopg.OperationalError as error:
            return is_out_of_connections(error)  # then the server is there
        except TimeoutError:
            pass
        return False

    async def check(self) -> None:
        """Find out whether it still lives, before it is handed out: a backend may have been killed while idle.

        A backend that is ended says so, and libpq reads it without asking; that its connection ends comes later, when
        the process is gone. A pooler is asked, for it may have lost the server and kept us.

        Raises:
            psycopg.OperationalError: it is dead.
        """
        if self.prepare_threshold is None:
            await self.execute(b"")
        elif self._plans.due_for_discard():
            await self.execute(PlanCache.DISCARD.encode())
        else:
            self.pgconn.consume_input()
            self.pgconn.is_busy()  # reads what has come in: a notice calls its handler
            self.pgconn.consume_input()  # raises where nothing comes after it
            if self._farewells:
                await self.close()  # else the pool would hand it out again
                raise psycopg.OperationalError("the server has ended this connection")


async def _deliver(task: asyncio.Task[Any] | None, before: int) -> None:
    """Raise the cancellation of `task` that was asked for since `cancelling()` was `before`, if it was lost.

    `asyncio.wait_for` of Python 3.11, with which psycopg's pool waits for a connection, drops one that comes in the moment
    in which the wait ends (CPython gh-86296).
    """
    if task is None or task.cancelling() <= before:
        return
    for _ in range(2):  # a cancel scope of anyio delivers its own again, and must find it to be its own
        await asyncio.sleep(0)
    if task.cancelling() > before:
        raise asyncio.CancelledError


def _patient(
    given_up: Callable[[], bool], tried: Callable[[psycopg.Error | None], None]
) -> type[AsyncConnection[DictRow]]:
    """A connection for psycopg's pool that tries until Postgres is back, for a while or until it is given up.

    Left alone the pool doubles its pause from try to try: it would be back as long after Postgres as that was away, and
    the grace in which a run takes its lock again would be over. `tried` is told what became of each try: the pool says only
    that it took too long.
    """

    class Patient(_PoolConnection):
        @classmethod
        async def connect(cls, conninfo: str = "", **options: Any) -> Any:
            until = time.monotonic() + _RETRY_FOR_S
            while True:
                try:
                    connection = await super().connect(conninfo, **options)
                except psycopg.OperationalError as error:
                    tried(error)
                    if given_up() or time.monotonic() > until:
                        raise
                else:
                    tried(None)
                    return connection
                await asyncio.sleep(random.uniform(*_RETRY_S))

    return Patient


class Database:
    """The psycopg pool of a process: what rooms that know no driver run their statements on.

    Args:
        dsn: where to.
        min_size: connections kept open.
        max_size: connections at most.
        connect_timeout_s: seconds to wait for a connection, at open and at every statement.
        breaker: refuses statements at once while Postgres keeps failing; None: each waits for its own timeout.
    """

    def __init__(
        self,
        dsn: Dsn,
        *,
        min_size: int = 1,
        max_size: int = 10,
        connect_timeout_s: float = 10.0,
        breaker: CircuitBreaker | None = None,
    ) -> None:
        if not 0 <= min_size <= max_size or max_size < 1:
            raise ConfigurationError(
                f"pool sizes must be 0 <= min_size <= max_size >= 1, got {min_size} and {max_size}"
            )
        self.dsn = dsn
        self.breaker = breaker
        self._timeout_s = connect_timeout_s
        self._sizes = (min_size, max_size)
        self._pool: Pool | None = None
        self._loop: asyncio.AbstractEventLoop | None = None
        self._closing = False
        self._away: psycopg.Error | None = None

    def _tried(self, error: psycopg.Error | None) -> None:
        self._away = error

    @property
    def pool(self) -> Pool:
        """The pool itself, for LangGraph's saver. Raises `ClosedError` before `open`, after `aclose` and in another loop."""
        if self._pool is None or self._pool.closed:
            raise ClosedError("the connection pool is not open: use it inside `async with`, or call open() first")
        if self._loop is not asyncio.get_running_loop():
            raise ClosedError("this connection pool belongs to another event loop: open one in each loop")
        return self._pool

    async def open(self) -> None:
        """Reach Postgres once, so that a wrong DSN is told at the door, then let the pool fill in the background.

        Raises:
            PostgresUnavailableError: Postgres could not be reached or refused; the driver's error is the cause.
        """
        if self._pool is not None and not self._pool.closed:
            return
        self._closing = False
        options: dict[str, Any] = {"autocommit": True, "prepare_threshold": None, "row_factory": dict_row}
        options["application_name"] = application_name("pool")
        options |= {name: value for name, value in _KEEPALIVES.items() if name not in self.dsn.psycopg}
        with translate(self.dsn):
            async with asyncio.timeout(self._timeout_s):
                probe = await _PoolConnection.connect(self.dsn.conninfo, **options)
                await _refuse_other_isolation(probe, self.dsn)
                await probe.close()
        pool = AsyncConnectionPool(
            self.dsn.conninfo,
            connection_class=_patient(lambda: self._closing, self._tried),
            kwargs=options,
            min_size=self._sizes[0],
            max_size=self._sizes[1],
            timeout=self._timeout_s,
            configure=_configure,
            check=cast("Any", _PoolConnection.check),  # of our connections, which the pool's type does not know
            open=False,
        )
        await pool.open()
        self._pool, self._loop = pool, asyncio.get_running_loop()

    async def aclose(self, timeout_s: float = 5.0) -> None:
        """Close the pool. Idempotent, also before `open`; bounded: connections still out after `timeout_s` are cut."""
        self._closing = True
        if self._pool is not None:
            await self._pool.close(timeout=timeout_s)

    def stats(self) -> Mapping[str, int]:
        """psycopg_pool's own figures (`pool_size`, `pool_available`, `requests_waiting` …); none while it is not open."""
        return {} if self._pool is None or self._pool.closed else self._pool.get_stats()

    @asynccontextmanager
    async def connection(self, *, urgent: bool = False) -> AsyncIterator[AsyncConnection[DictRow]]:
        """One connection of the pool, given back afterwards.

        Args:
            urgent: for what must be tried also while the circuit is open, above all recovery.

        Raises:
            PostgresUnavailableError: Postgres could not be reached, or went away meanwhile.
            CircuitOpenError: it has failed for so long that it is not even asked.
            OutOfResourcesError: a disk, the lock table or the like is full.
            ConfigurationError: the role lacks a right, or the database a character.
        """
        try:
            async with self._connection(urgent=urgent) as connection:
                yield connection
        except psycopg.Error as error:
            # Outside of the breaker: reads may do well meanwhile.
            if (refused := to_denied(error, self.dsn)) is None:
                raise
            raise refused from error

    @asynccontextmanager
    async def _connection(self, *, urgent: bool) -> AsyncIterator[AsyncConnection[DictRow]]:
        async with nullcontext() if self.breaker is None else self.breaker.call(urgent=urgent):
            task = asyncio.current_task()
            cancelled = 0 if task is None else task.cancelling()
            try:
                async with self.pool.connection(timeout=self._wait_s()) as connection:
                    await _deliver(task, cancelled)
                    yield connection
                await _deliver(task, cancelled)
            except PoolClosed as error:
                raise ClosedError("the connection pool was closed while it was needed") from error
            except (PoolTimeout, psycopg.OperationalError, psycopg.InterfaceError) as error:
                if not isinstance(error, PoolTimeout) and not is_disconnect(error):
                    raise
                why = (self._away or error) if isinstance(error, PoolTimeout) else error
                raise to_unavailable(why, self.dsn) from why

    def _wait_s(self) -> float:
        """While Postgres is known to be away each call waits a little, not all of its time after the one before it."""
        return self._timeout_s if self.breaker is None else min(self._timeout_s, self.breaker.patience_s)

    async def fetch(self, query: str, *args: Any, urgent: bool = False) -> list[dict[str, Any]]:
        """Run one statement with `$1` parameters and return its rows. `urgent`: as for `connection`."""
        async with (
            self.connection(urgent=urgent) as connection,
            AsyncRawCursor(connection, row_factory=dict_row) as cursor,
        ):
            await cursor.execute(query.encode(), args)
            return await cursor.fetchall()

    async def fetch_one(self, query: str, *args: Any, urgent: bool = False) -> dict[str, Any] | None:
        """Run one statement with `$1` parameters and return its first row, if any. `urgent`: as for `connection`."""
        rows = await self.fetch(query, *args, urgent=urgent)
        return rows[0] if rows else None

    async def execute(self, query: str, *args: Any) -> int:
        """Run one statement with `$1` parameters and return how many rows it changed."""
        async with self.connection() as connection, AsyncRawCursor(connection) as cursor:
            await cursor.execute(query.encode(), args)
            return cursor.rowcount

    async def fetch_in_turn(self, *statements: tuple[str, Sequence[Any]]) -> list[list[dict[str, Any]]]:
        """Run several statements in one round trip and one transaction, each with a snapshot of its own (READ COMMITTED)."""
        async with self.connection() as connection, connection.pipeline():
            cursors = [AsyncRawCursor(connection, row_factory=dict_row) for _ in statements]
            for cursor, (query, args) in zip(cursors, statements, strict=True):
                await cursor.execute(query.encode(), args)
            return [await cursor.fetchall() for cursor in cursors]
