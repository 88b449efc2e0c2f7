"""A connection of psycopg's pool: checked without a round trip, cut when it falls silent, opened
for as long as it takes.
"""

from __future__ import annotations

import asyncio
import json
import os
import socket
import time
from collections.abc import AsyncGenerator, Awaitable, Callable, Mapping
from contextlib import asynccontextmanager, suppress
from functools import partial
from typing import Any, Final

import psycopg
from psycopg import AsyncConnection
from psycopg.conninfo import conninfo_to_dict
from psycopg.rows import DictRow
from psycopg.types.json import set_json_loads

from aiodurable.dsn import Dsn, PasswordFunction
from aiodurable.errors import ConfigurationError
from aiodurable.models import Compression
from aiodurable.postgres.errors import is_out_of_connections
from aiodurable.postgres.name_resolution import with_addresses
from aiodurable.postgres.ownership import refuse_other_path
from aiodurable.postgres.password import password_option
from aiodurable.postgres.plan_cache import PlanCache
from aiodurable.postgres.retry import POOL_RECONNECT
from aiodurable.postgres.sql import literal, load
from aiodurable.postgres.text_arrays import TextArrayDumper

__all__ = [
    "BOUND_SILENCE",
    "KEEPALIVES",
    "PoolConnection",
    "configure",
    "persistent",
    "read_json",
    "refuse_other_session",
    "transaction_on",
]

_SILENCE_S = 20.0
"""Seconds without an answer after which another connection finds out whether the statement is still
at work; and without a word from here after which the server ends a session in a transaction.
"""

KEEPALIVES: Final = {
    "keepalives_idle": "20",
    "keepalives_interval": "5",
    "keepalives_count": "3",
    "tcp_user_timeout": "20000",  # milliseconds
}
"""libpq's own parameters, unless the DSN sets them. By default Linux notices after two hours that
an idle connection is dead, and after fifteen minutes where a statement was sent on it."""

_RETRY_FOR_S: Final = 60.0
"""Seconds for which `POOL_RECONNECT` applies; then psycopg's own, growing pauses are added. A
restart or a failover is over by then."""

_BY_INDEX = load("direct")["by_index"]
_SESSION = load("direct")["session"]
_IS_ACTIVE = load("direct")["is_active"].replace("$1", "%s").encode()
_END = load("direct")["terminate_abandoned_backends"].replace("$1", "%s").encode()
_EXPECTED: Final = {"DateStyle": "ISO", "standard_conforming_strings": "on", "TimeZone": "UTC"}
"""psycopg reads times by the first, our statements need the second. With the third, the times that
it reads are in UTC: in a zone with daylight saving time, Python's differences, sums and comparisons
are those of the wall clock. PgBouncer passes all of them on in every mode.
"""


def read_json(data: str | bytes) -> Any:
    """The value of a JSON column; None where Postgres can store it and Python cannot read it:
    integers of thousands of digits, deep nesting. One row that has them must not fail all that are
    read with it."""
    try:
        return json.loads(data)
    except (ValueError, RecursionError):
        return None


BOUND_SILENCE: Final = f"SET LOCAL idle_in_transaction_session_timeout = '{_SILENCE_S:g}s'"
"""Has the server end a transaction whose client has vanished. Each transaction through a pooler
sets it: no session is ours to set there.
"""


@asynccontextmanager
async def transaction_on(connection: AsyncConnection[Any]) -> AsyncGenerator[None]:
    """A transaction for the body, which the server ends if its client vanishes."""
    async with connection.transaction():
        if connection.prepare_threshold is None:
            await connection.execute(BOUND_SILENCE.encode())
        yield


async def configure(connection: PoolConnection, compression: Compression, timeout_s: float) -> None:
    """Set up a new connection of the pool; one that does not answer within `timeout_s` is cut."""
    connection.set_up_s = min(timeout_s, _SILENCE_S)
    set_json_loads(read_json, connection)
    connection.adapters.register_dumper(list, TextArrayDumper)
    for name, wanted in _EXPECTED.items():
        if not (connection.info.parameter_status(name) or wanted).startswith(wanted):
            await connection.execute(f"SET {name} TO {wanted}".encode())
    await _prepare_where_statements_stay(connection, compression)
    connection.is_set_up = True


async def _prepare_where_statements_stay(
    connection: AsyncConnection[DictRow], compression: Compression
) -> None:
    """Prepare statements and plan them for index look-ups, except through a pooler: there each may
    reach another backend.

    A pooler gives itself away: it announces another backend than the one that answers (PgBouncer
    invents process ids).
    """
    by_index = literal(
        _BY_INDEX, connection.info.backend_pid, compression, f"{_SILENCE_S * 1000:.0f}ms"
    )
    stays = await connection.execute(by_index.encode())
    connection.prepare_threshold = 0 if stays.rowcount else None


def _note_farewell(farewells: list[str], notice: psycopg.errors.Diagnostic) -> None:
    state = notice.sqlstate or ""
    # an immediate shutdown only warns
    if notice.severity_nonlocalized == "FATAL" or state.startswith("57P"):
        farewells.append(state)


async def refuse_other_session(connection: AsyncConnection[DictRow], dsn: Dsn) -> None:
    """Refuse a pooler whose sessions are not READ COMMITTED, or have another search path than the
    schema of `dsn`.

    Each of our statements needs a snapshot of its own, and a pooler's sessions are not ours to set
    (`by_index`).

    Raises:
        ConfigurationError: they have another isolation level, or another search path.
    """
    found = await (await connection.execute(_SESSION.encode())).fetchone()
    assert found is not None
    refuse_other_path(found["search_path"], dsn)
    if found["pid"] != connection.info.backend_pid and found["isolation"] != "read committed":
        raise ConfigurationError(
            f"cannot use {dsn.safe}: default_transaction_isolation is {found['isolation']} there,"
            " and a pooler stands in between, so that no session can set it; ALTER ROLE … SET"
            " default_transaction_isolation = 'read committed'"
        )


def _where(options: Mapping[str, Any]) -> dict[str, Any]:
    return {name: options[name] for name in ("host", "hostaddr", "port") if name in options}


async def _connect_beside(
    conninfo: str, password: PasswordFunction | None, **options: Any
) -> AsyncConnection[Any]:
    return await AsyncConnection.connect(conninfo, **{**options, **await password_option(password)})


class PoolConnection(AsyncConnection[DictRow]):
    """A connection that discards its plans when due and does not wait for ever for an answer."""

    def __init__(self, *args: Any, **options: Any) -> None:
        super().__init__(*args, **options)
        self.is_set_up = False
        self.set_up_s = _SILENCE_S
        self._plans = PlanCache()
        self._farewells: list[str] = []
        self.add_notice_handler(partial(_note_farewell, self._farewells))
        self.beside: Callable[..., Awaitable[AsyncConnection[Any]]] = AsyncConnection.connect

    @classmethod
    async def connect(cls, conninfo: str = "", **options: Any) -> Any:
        """As psycopg's, but it resolves host names off the event loop, and takes a
        `password_function`, which it calls for each connection.
        """
        password: PasswordFunction | None = options.pop("password_function", None)
        addresses = await with_addresses(_where({**conninfo_to_dict(conninfo), **options}))
        connection = await super().connect(
            conninfo, **{**options, **addresses}, **await password_option(password)
        )
        connection.beside = partial(_connect_beside, conninfo, password, **options)
        return connection

    async def wait(self, *args: Any, **options: Any) -> Any:
        """As psycopg's: every statement waits here for its answer."""
        watching: asyncio.Task[None] | None = None

        def watch() -> None:
            nonlocal watching
            watching = asyncio.create_task(self._cut_if_dead(), name="aiodurable pool watch")

        silence_s = _SILENCE_S if self.is_set_up else self.set_up_s
        timer = asyncio.get_running_loop().call_later(silence_s, watch)
        try:
            return await super().wait(*args, **options)
        finally:
            timer.cancel()
            if watching is not None:
                watching.cancel()

    async def _cut_if_dead(self) -> None:
        """Cut the connection, and end its backend, once that no longer works on a statement.

        A statement may take minutes. One that never reached the server, or whose answer was lost,
        gets no answer at all. Through a pooler, which invents process ids, only TCP finds out. What
        sets a connection up takes no time at all, and the pool opens no other one meanwhile.
        """
        if self.is_set_up and self.prepare_threshold is None:
            return
        while self.is_set_up and not await self._is_over():  # noqa: ASYNC110 - nothing here would set an event
            await asyncio.sleep(_SILENCE_S)
        if self.pgconn.socket >= 0:
            with socket.socket(fileno=os.dup(self.pgconn.socket)) as wire, suppress(OSError):
                # libpq finds it closed, and the waiting statement fails
                wire.shutdown(socket.SHUT_RDWR)

    async def _is_over(self) -> bool:
        """Whether the backend is at no statement. It is ended then: it may have got a part of a
        pipeline, and would keep the rows that this locked.
        """
        info = self.info  # of several hosts, the one that this connection leads to
        here = {"host": info.host, "hostaddr": info.hostaddr, "port": info.port}
        try:
            async with asyncio.timeout(_SILENCE_S / 2), await self.beside(**here) as beside:
                for pause_s in (_SILENCE_S / 20, 0):  # its answer may be under way
                    if (
                        await (await beside.execute(_IS_ACTIVE, (info.backend_pid,))).fetchone()
                        is not None
                    ):
                        return False
                    await asyncio.sleep(pause_s)
                with suppress(psycopg.errors.InsufficientPrivilege):  # a host may revoke it
                    await beside.execute(_END, (info.backend_pid,))
        except psycopg.OperationalError as error:
            return not is_out_of_connections(error)  # then the server is alive
        except TimeoutError:
            pass
        return True

    async def check(self) -> None:
        """Find out whether the connection is alive before the pool hands it out: its backend may
        have been killed while idle.

        A backend that is terminated sends a notice, which libpq reads without a round trip; the
        connection itself ends later, with the process. Through a pooler it takes a round trip: the
        pooler may have lost the server and kept us.

        Raises:
            psycopg.OperationalError: the connection is dead.
        """
        if self.prepare_threshold is None:
            await self.execute(b"")
        elif self._plans.due_for_discard():
            await self.execute(PlanCache.DISCARD.encode())
        else:
            self.pgconn.consume_input()
            self.pgconn.is_busy()  # reads what has arrived: a notice calls its handler
            self.pgconn.consume_input()  # raises at the end of the connection
            if self._farewells:
                await self.close()  # else the pool would hand it out again
                raise psycopg.OperationalError("the server has ended this connection")


def persistent(
    given_up: Callable[[], bool], tried: Callable[[psycopg.Error | None], None]
) -> type[AsyncConnection[DictRow]]:
    """A connection class for psycopg's pool that tries to connect until Postgres is back.

    By itself the pool doubles its pause from try to try: after an outage it would stay away for as
    long again, and a run that lost its lock would not come back within `recovery_grace_s`.

    Args:
        given_up: whether nobody needs the connection any more.
        tried: called with the error of each try, or None; the pool itself only says that it took
            too long.
    """

    class Persistent(PoolConnection):
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
                await POOL_RECONNECT.pause()

    return Persistent
