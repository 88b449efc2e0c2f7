"""Statements on a connection of the caller's own, inside of whatever transaction it is in."""

from __future__ import annotations

from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from typing import Any, cast

import asyncpg
from asyncpg.pool import PoolConnectionProxy
from psycopg import AsyncConnection
from psycopg.pq import TransactionStatus

from aiodurable.dsn import Dsn
from aiodurable.errors import (
    AiodurableError,
    InvalidArgumentError,
    StatementRefusedError,
    WorkflowExecutionError,
)
from aiodurable.postgres.errors import (
    DRIVER_FAILURES,
    is_disconnect,
    is_rule,
    is_transient,
    shown_cause,
    to_denied,
    to_refused,
    to_unavailable,
)
from aiodurable.postgres.fetch import Fetch, fetch_on
from aiodurable.postgres.sql import load

__all__ = ["transaction_of"]

_SQL = load("schema")
_NO_TABLES = ("42P01", "42883")
"""A table, and a function, that is not there."""
_FAILED_BEFORE = "25P02"
"""The transaction ends with a rollback only."""


@asynccontextmanager
async def transaction_of(connection: Any, dsn: Dsn) -> AsyncGenerator[Fetch]:
    """Run statements on `connection` for the body: all or none of them, and in its own transaction,
    which neither begins nor ends here.

    Args:
        connection: an asyncpg connection, a psycopg `AsyncConnection`, or a SQLAlchemy
            `AsyncConnection` or `AsyncSession` on either of them.
        dsn: what errors call the database; its schema, where it names one, has the tables.

    Raises:
        InvalidArgumentError: it is something else, finds no tables of aiodurable, or refuses the
            statement, as in a transaction that has failed before.
        WorkflowExecutionError: another transaction is in the way; the caller's has to be repeated.
        StatementRefusedError: a constraint or a trigger of the operator's own is in the way.
        PostgresUnavailableError: the connection is dead.
    """
    raw = await _driver_connection(connection, dsn)
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
    except DRIVER_FAILURES as error:
        refused = _refused(error, dsn, dead=_is_closed(raw))
        cause = None if isinstance(refused, StatementRefusedError) else shown_cause(error)
        raise refused from cause


def _refused(error: BaseException, dsn: Dsn, *, dead: bool) -> AiodurableError:
    """The error that says what a failure on the caller's connection means, without the driver's
    text, which may quote values.

    Args:
        error: the driver's.
        dsn: the database.
        dead: whether the connection is closed. A driver says it by the same class as that somebody
            else uses the connection.
    """
    state: str | None = getattr(error, "sqlstate", None)
    if (denied := to_denied(error, dsn)) is not None:
        return denied
    if is_disconnect(error) and (dead or state is not None):
        return to_unavailable(error, dsn)
    if is_rule(error):
        return to_refused(error, "cannot write in the transaction of conn")
    what = f"{type(error).__name__}{'' if state is None else f', SQLSTATE {state}'}"
    if state is not None and is_transient(error):
        return WorkflowExecutionError(
            f"cannot write in the transaction of conn: another one is in its way ({what}). Roll"
            " yours back, and repeat the whole of it"
        )
    if state in _NO_TABLES:
        why = (
            f"it finds no tables of aiodurable; connect it to {dsn.safe}, with a search path that"
            " leads to them"
        )
    elif state == _FAILED_BEFORE:
        why = "its transaction has failed before; roll that back, and repeat the whole of it"
    else:
        why = (
            f"a statement failed on it ({what}); the cause is the driver's error. Let no other task"
            " use it meanwhile, and pass one that can write to the tables of aiodurable"
        )
    return InvalidArgumentError(f"cannot use conn: {why}", argument="conn")


def _is_closed(raw: Any) -> bool:
    if isinstance(raw, AsyncConnection):
        return raw.closed
    try:
        return raw.is_closed()
    except asyncpg.InterfaceError:  # a pool has it again
        return False


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


async def _driver_connection(
    connection: Any, dsn: Dsn
) -> asyncpg.Connection | AsyncConnection[Any]:
    """The driver's own, in the transaction that the caller is in."""
    if type(connection).__module__.startswith("sqlalchemy."):
        try:
            if hasattr(connection, "get_bind"):  # a session
                connection = await connection.connection()
            # SQLAlchemy begins a transaction of asyncpg's with its own first statement
            await connection.exec_driver_sql("SELECT 1")
            connection = (await connection.get_raw_connection()).driver_connection
        except Exception as error:  # its own errors: aiodurable does not depend on it
            dead = bool(getattr(error, "connection_invalidated", False))
            raise _refused(getattr(error, "orig", None) or error, dsn, dead=dead) from error
    if isinstance(connection, asyncpg.Connection | PoolConnectionProxy | AsyncConnection):
        return cast("Any", connection)
    raise InvalidArgumentError(
        f"cannot use a {type(connection).__module__}.{type(connection).__qualname__} as conn: pass"
        " an asyncpg connection, a psycopg AsyncConnection, or an AsyncConnection or AsyncSession"
        " of SQLAlchemy",
        argument="conn",
    )
