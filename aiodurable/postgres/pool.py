"""The pool of psycopg connections, for statements that may go through a pooler."""

from __future__ import annotations

import asyncio
import math
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from contextlib import asynccontextmanager, nullcontext, suppress
from functools import partial
from typing import Any, Final, TypeVar, cast

import psycopg
from psycopg import AsyncConnection, AsyncRawCursor
from psycopg.rows import DictRow, dict_row
from psycopg_pool import AsyncConnectionPool, PoolClosed, PoolTimeout

from aiodurable.dsn import Dsn
from aiodurable.errors import ClosedError, ConfigurationError, PostgresUnavailableError
from aiodurable.postgres.circuit_breaker import CircuitBreaker
from aiodurable.postgres.connect import application_name
from aiodurable.postgres.errors import (
    is_disconnect,
    shown_cause,
    to_denied,
    to_refused,
    to_unavailable,
    translate,
)
from aiodurable.postgres.fetch import fetch_on
from aiodurable.postgres.pool_connection import (
    KEEPALIVES,
    PoolConnection,
    configure,
    persistent,
    refuse_other_session,
    transaction_on,
)
from aiodurable.shield import run_to_completion

__all__ = ["PsycopgPool"]

_T = TypeVar("_T")

_MOST_PATIENCE_S: Final = 3600.0
"""libpq takes whole seconds, and no infinity."""

Pool = AsyncConnectionPool[AsyncConnection[DictRow]]


class _UntilCancelled:
    """The maintenance tasks of a pool, for a worker that has not been cancelled yet."""

    def __init__(self, tasks: Any) -> None:
        self._tasks = tasks

    async def get(self) -> Any:
        task = asyncio.current_task()
        if task is not None and task.cancelling():
            raise asyncio.CancelledError
        return await self._tasks.get()


class _Event(asyncio.Event):
    """What psycopg's scheduler waits for, without the `asyncio.wait_for` of `_deliver`."""

    async def wait_timeout(self, timeout: float) -> bool:
        try:
            async with asyncio.timeout(timeout):
                return await self.wait()
        except TimeoutError:
            return False


class _Pool(AsyncConnectionPool[AsyncConnection[DictRow]]):
    @classmethod
    async def worker(cls, q: Any) -> None:
        """As psycopg's, which takes a cancellation for an error of what it does, such as to
        connect, and goes on: the event loop, which cancels each task once as it ends, would wait
        for it for good.
        """
        await super().worker(cast("Any", _UntilCancelled(q)))

    def _start_workers(self) -> None:
        with suppress(AttributeError):  # a later version may have another scheduler
            cast("Any", self._sched)._event = _Event()  # noqa: SLF001
        super()._start_workers()

    async def _putconn(self, conn: AsyncConnection[DictRow], from_getconn: bool) -> None:
        """As psycopg's, which loses the connection and its place for good if it is cancelled while
        it waits for the pool's lock, and a waiting caller if it is cancelled as it serves that one.
        And a pipeline whose caller was cancelled as it began or ended stays one: later statements
        would never be committed.
        """
        if conn.pgconn.pipeline_status:
            await conn.close()  # the pool opens another one
        await run_to_completion(super()._putconn(conn, from_getconn))


async def _deliver(task: asyncio.Task[Any] | None, before: int) -> None:
    """Raise a cancellation of `task` that got lost since `cancelling()` was `before`.

    psycopg's pool waits for a connection with `asyncio.wait_for`, which in Python 3.11 drops a
    cancellation that arrives at the moment in which the wait ends (CPython gh-86296).
    """
    if task is None or task.cancelling() <= before:
        return
    for _ in range(2):  # a cancel scope of anyio delivers its own again, and must recognise it
        await asyncio.sleep(0)
    if task.cancelling() > before:
        raise asyncio.CancelledError


class PsycopgPool:
    """The psycopg pool of a process, behind a circuit breaker: runs the statements of packages that
    know no driver.

    Args:
        dsn: the database.
        min_size: connections kept open.
        max_size: the most connections.
        connect_timeout_s: seconds to wait for a connection, in `open` and for every statement.
        breaker: refuses statements at once while Postgres keeps failing; None: each waits for its
            own timeout.

    Raises:
        ConfigurationError: the sizes contradict each other.
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
                f"cannot make a pool of {min_size} to {max_size} connections: min_size must be 0 to"
                " max_size, and max_size 1 or more"
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
        """The pool itself, for LangGraph's saver.

        Raises:
            ClosedError: before `open`, after `aclose` and in another event loop.
        """
        if self._pool is None or self._pool.closed:
            raise ClosedError(
                "the connection pool is not open: use it inside `async with`, or call open() first"
            )
        if self._loop is not asyncio.get_running_loop():
            raise ClosedError(
                "this connection pool belongs to another event loop: open one in each loop"
            )
        return self._pool

    async def open(self) -> None:
        """Connect once, so that a wrong DSN fails here, then let the pool fill in the background.
        Idempotent.

        Raises:
            PostgresUnavailableError: Postgres could not be reached or refused; the driver's error
                is the cause.
            ConfigurationError: a pooler stands in between whose sessions are not READ COMMITTED, or
                do not have the schema of the settings.
        """
        if self._pool is not None and not self._pool.closed:
            return
        self._closing = False
        options: dict[str, Any] = {
            "autocommit": True,
            "prepare_threshold": None,
            "row_factory": dict_row,
        }
        options["application_name"] = application_name("pool")
        options["password_function"] = self.dsn.password
        # by default psycopg waits two minutes for a connection that fell silent while it opened
        patience_s = math.ceil(min(self._timeout_s, _MOST_PATIENCE_S))
        bounds = {**KEEPALIVES, "connect_timeout": str(patience_s)}
        options |= {name: value for name, value in bounds.items() if name not in self.dsn.psycopg}
        with translate(self.dsn):
            async with asyncio.timeout(self._timeout_s):
                probe = await PoolConnection.connect(self.dsn.conninfo, **options)
                try:
                    await refuse_other_session(probe, self.dsn)
                finally:
                    await probe.close()
        pool = _Pool(
            self.dsn.conninfo,
            connection_class=persistent(lambda: self._closing, self._tried),
            kwargs=options,
            min_size=self._sizes[0],
            max_size=self._sizes[1],
            timeout=self._timeout_s,
            # of our connections, which the pool's type does not know
            configure=cast(
                "Any",
                partial(configure, compression=self.dsn.compression, timeout_s=self._timeout_s),
            ),
            check=cast("Any", PoolConnection.check),
            open=False,
        )
        await pool.open()
        self._pool, self._loop = pool, asyncio.get_running_loop()

    async def aclose(self, timeout_s: float = 5.0) -> None:
        """Close the pool, to the end also when cancelled; cut connections still in use after
        `timeout_s` seconds. Idempotent, also before `open`.
        """
        self._closing = True
        if self._pool is not None:
            # by itself it stops half-way, for good, or drops the cancellation (see `_deliver`)
            await run_to_completion(self._pool.close(timeout=timeout_s))

    def stats(self) -> Mapping[str, int]:
        """psycopg_pool's own figures (`pool_size`, `pool_available`, `requests_waiting` …); empty
        while it is closed.
        """
        return {} if self._pool is None or self._pool.closed else self._pool.get_stats()

    @asynccontextmanager
    async def connection(self, *, urgent: bool = False) -> AsyncIterator[AsyncConnection[DictRow]]:
        """Lend one connection of the pool to the body.

        Args:
            urgent: connect also while the circuit is open: above all for recovery.

        Raises:
            PostgresUnavailableError: Postgres could not be reached, or went away meanwhile.
            CircuitOpenError: Postgres has failed for so long that the breaker refuses to try.
            OutOfResourcesError: a disk, the lock table or the like is full.
            ConfigurationError: the role lacks a right, or the database's encoding a character.
            StatementRefusedError: Postgres refused a statement for another reason.
        """
        try:
            async with self._connection(urgent=urgent) as connection:
                yield connection
        except psycopg.Error as error:
            # Outside of the breaker: a server that denies one statement may run others.
            if (denied := to_denied(error, self.dsn)) is None:
                what = f"cannot run a statement at {self.dsn.safe}"
                raise to_refused(error, what) from None
            raise denied from shown_cause(error)

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
            except psycopg.Error as error:
                await _deliver(task, cancelled)
                if isinstance(error, PoolClosed):
                    raise ClosedError(
                        "the connection pool was closed while it was needed"
                    ) from error
                if not isinstance(error, PoolTimeout) and not is_disconnect(error):
                    raise
                why = (self._away or error) if isinstance(error, PoolTimeout) else error
                raise to_unavailable(why, self.dsn) from shown_cause(why)

    def _wait_s(self) -> float:
        """While Postgres is known to be away each call waits only briefly, so that calls in a row
        do not add up.
        """
        return (
            self._timeout_s
            if self.breaker is None
            else min(self._timeout_s, self.breaker.patience_s)
        )

    async def fetch(self, query: str, *args: Any, urgent: bool = False) -> list[dict[str, Any]]:
        """Run one statement with `$1` parameters and return its rows. `urgent`: as for
        `connection`.
        """
        async with (
            self.connection(urgent=urgent) as connection,
            AsyncRawCursor(connection, row_factory=dict_row) as cursor,
        ):
            await cursor.execute(query.encode(), args)
            return await cursor.fetchall()

    async def read(self, query: str, *args: Any) -> list[dict[str, Any]]:
        """`fetch`, for a statement that only reads: it is sent a second time if its connection ends
        meanwhile.
        """
        return await self.reading(lambda connection: fetch_on(connection)(query, *args))

    async def reading(self, statement: Callable[[AsyncConnection[DictRow]], Awaitable[_T]]) -> _T:
        """What `statement` reads on a connection, or on a second one if the first ends meanwhile: a
        restart or a failover of Postgres must not fail a run for what is under way at that moment.
        """
        lent = False
        try:
            async with self.connection() as connection:
                lent = True
                return await statement(connection)
        except PostgresUnavailableError:
            if not lent:  # it has waited for a connection as long as it may
                raise
        async with self.connection() as connection:
            return await statement(connection)

    async def fetch_one(
        self, query: str, *args: Any, urgent: bool = False
    ) -> dict[str, Any] | None:
        """Run one statement with `$1` parameters and return its first row, if any. `urgent`: as for
        `connection`.
        """
        rows = await self.fetch(query, *args, urgent=urgent)
        return rows[0] if rows else None

    async def execute(self, query: str, *args: Any) -> int:
        """Run one statement with `$1` parameters and return the number of rows it changed."""
        async with self.connection() as connection, AsyncRawCursor(connection) as cursor:
            await cursor.execute(query.encode(), args)
            return cursor.rowcount

    @asynccontextmanager
    async def transaction(self) -> AsyncIterator[Callable[..., Awaitable[list[dict[str, Any]]]]]:
        """Give the body a `fetch` whose statements are all committed when it ends, or none."""
        async with self.connection() as connection, transaction_on(connection):
            yield fetch_on(connection)

    @asynccontextmanager
    async def snapshot(self) -> AsyncIterator[Callable[..., Awaitable[list[dict[str, Any]]]]]:
        """Give the body a `fetch` whose statements all see the tables as they are at its first one,
        and cannot write.
        """
        async with self.connection() as connection, transaction_on(connection):
            await connection.execute("SET TRANSACTION ISOLATION LEVEL REPEATABLE READ, READ ONLY")
            yield fetch_on(connection)

    async def fetch_in_turn(
        self, *statements: tuple[str, Sequence[Any]]
    ) -> list[list[dict[str, Any]]]:
        """Run several statements in one round trip and one transaction; each has its own snapshot
        (READ COMMITTED).
        """
        async with self.connection() as connection, connection.pipeline():
            cursors = [AsyncRawCursor(connection, row_factory=dict_row) for _ in statements]
            for cursor, (query, args) in zip(cursors, statements, strict=True):
                await cursor.execute(query.encode(), args)
            return [await cursor.fetchall() for cursor in cursors]
