"""Statements on a connection of the caller's own, inside of whatever transaction it is in."""

from __future__ import annotations

from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from typing import Any, cast

import asyncpg
import psycopg
from asyncpg.pool import PoolConnectionProxy
from psycopg import AsyncConnection
from psycopg.pq import TransactionStatus

from aiodurable.dsn import Dsn
from aiodurable.errors import InvalidArgumentError
from aiodurable.postgres.errors import is_disconnect, to_denied, to_unavailable
from aiodurable.postgres.fetch import Fetch, fetch_on
from aiodurable.postgres.sql import load

__all__ = ["transaction_of"]

_SQL = load("schema")
_NO_TABLES = ("42P01", "42883")
"""A table, and a function, that is not there."""


@asynccontextmanager
async def transaction_of(connection: Any, dsn: Dsn) -> AsyncGenerator[Fetch]:
    """Run statements on `connection` for the body: all or none of them, and in its own transaction,
    which neither begins nor ends here.

    Args:
        connection: an asyncpg connection, a psycopg `AsyncConnection`, or a SQLAlchemy
            `AsyncConnection` or `AsyncSession` on either of them.
        dsn: what errors call the database; its schema, where it names one, has the tables.

    Raises:
        InvalidArgumentError: it is something else, or finds no tables of aiodurable.
        PostgresUnavailableError: the connection is dead.
    """
    raw = await _driver_connection(connection)
    try:
        if isinstance(raw, asyncpg.Connection | PoolConnectionProxy):
            async with raw.transaction():
                fetch = cast("Fetch", raw.fetch)
                async with _in_schema(fetch, dsn.schema):
                    yield fetch
        else:
            if not raw.autocommit and raw.info.transaction_status == TransactionStatus.IDLE:
                await raw.execute("SELECT 1")  # or the block below would commit it
            async with raw.transaction():
                fetch = fetch_on(raw)
                async with _in_schema(fetch, dsn.schema):
                    yield fetch
    except (psycopg.Error, asyncpg.PostgresError, asyncpg.InterfaceError, OSError) as error:
        if (denied := to_denied(error, dsn)) is not None:
            raise denied from error
        if is_disconnect(error):
            raise to_unavailable(error, dsn) from error
        if getattr(error, "sqlstate", None) in _NO_TABLES:
            raise InvalidArgumentError(
                f"cannot use conn: it finds no tables of aiodurable; connect it to {dsn.safe}, with"
                " a search path that leads to them",
                argument="conn",
            ) from error
        raise


@asynccontextmanager
async def _in_schema(fetch: Fetch, schema: str | None) -> AsyncGenerator[None]:
    """Find the tables in `schema` for the body: the caller's connection has a search path of its
    own, which may lead to another tenant's. If the body fails, its transaction restores that path.
    """
    if schema is None:
        yield
        return
    (found,) = await fetch(_SQL["search_path"])
    await fetch(_SQL["use_search_path"], f'"{schema}"')
    yield
    await fetch(_SQL["use_search_path"], found["search_path"])


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
