"""Statements on a connection of the caller's own, inside of whatever transaction it is in."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Awaitable, Callable, Mapping, Sequence
from contextlib import asynccontextmanager
from typing import Any, TypeAlias, cast

import asyncpg
import psycopg
from asyncpg.pool import PoolConnectionProxy
from psycopg import AsyncConnection, AsyncRawCursor
from psycopg.pq import TransactionStatus
from psycopg.rows import dict_row

from aiodurable.dsn import Dsn
from aiodurable.errors import InvalidArgumentError
from aiodurable.postgres.errors import is_disconnect, to_denied, to_unavailable

__all__ = ["Fetch", "transaction_of"]

Fetch: TypeAlias = Callable[..., Awaitable[Sequence[Mapping[str, Any]]]]
"""Runs one statement with `$1` parameters and returns its rows."""


@asynccontextmanager
async def transaction_of(connection: Any, dsn: Dsn) -> AsyncGenerator[Fetch]:
    """Run statements on `connection` for the body: all or none of them, and in its own transaction,
    which neither begins nor ends here.

    Args:
        connection: an asyncpg connection, a psycopg `AsyncConnection`, or a SQLAlchemy
            `AsyncConnection` or `AsyncSession` on either of them.
        dsn: what errors call the database.

    Raises:
        InvalidArgumentError: it is something else.
        PostgresUnavailableError: the connection is dead.
    """
    raw = await _driver_connection(connection)
    try:
        if isinstance(raw, asyncpg.Connection | PoolConnectionProxy):
            async with raw.transaction():
                yield cast("Fetch", raw.fetch)
        else:
            if not raw.autocommit and raw.info.transaction_status == TransactionStatus.IDLE:
                await raw.execute("SELECT 1")  # or the block below would commit it
            async with raw.transaction():
                yield _fetch_on(raw)
    except (psycopg.Error, asyncpg.PostgresError, asyncpg.InterfaceError, OSError) as error:
        if (denied := to_denied(error, dsn)) is not None:
            raise denied from error
        if is_disconnect(error):
            raise to_unavailable(error, dsn) from error
        raise


def _fetch_on(connection: AsyncConnection[Any]) -> Fetch:
    async def fetch(query: str, *args: Any) -> Sequence[Mapping[str, Any]]:
        async with AsyncRawCursor(connection, row_factory=dict_row) as cursor:
            await cursor.execute(query.encode(), args)
            return await cursor.fetchall()

    return fetch


async def _driver_connection(connection: Any) -> asyncpg.Connection | AsyncConnection[Any]:
    """The driver's own, in the transaction that the caller is in."""
    if type(connection).__module__.startswith("sqlalchemy."):
        if hasattr(connection, "get_bind"):  # a session
            connection = await connection.connection()
        # SQLAlchemy begins a transaction of asyncpg's with its own first statement
        await connection.exec_driver_sql("SELECT 1")
        connection = (await connection.get_raw_connection()).driver_connection
    if isinstance(connection, asyncpg.Connection | PoolConnectionProxy | AsyncConnection):
        return cast("Any", connection)
    raise InvalidArgumentError(
        f"cannot use a {type(connection).__module__}.{type(connection).__qualname__} as conn: pass"
        " an asyncpg connection, a psycopg AsyncConnection, or an AsyncConnection or AsyncSession"
        " of SQLAlchemy",
        argument="conn",
    )
