"""LangGraph's tables and ours, made by the first process that opens. Any number of processes may
start at once.

LangGraph's own `setup()` is not safe concurrently, and a *blocking* advisory lock around it hangs:
its `CREATE INDEX CONCURRENTLY` waits for the snapshot of the session that waits for the lock. So
the lock is polled, never awaited in Postgres. It is a transaction's, on a connection beside the one
that migrates: a pooler in transaction mode may give every statement another server connection, but
leaves a transaction on one.
"""

from __future__ import annotations

import asyncio
import re
import time
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from functools import cache
from textwrap import dedent

import asyncpg
import psycopg
from langgraph.checkpoint.postgres.aio import AsyncPostgresSaver
from psycopg import AsyncClientCursor, AsyncConnection, AsyncRawCursor
from psycopg.rows import DictRow, dict_row

from aiodurable.dsn import Dsn
from aiodurable.errors import ConfigurationError, PostgresUnavailableError, SchemaMismatchError
from aiodurable.lock_keys import MIGRATION_KEY
from aiodurable.postgres.connect import application_name
from aiodurable.postgres.errors import (
    is_disconnect,
    shown_cause,
    to_denied,
    to_refused,
    to_unavailable,
)
from aiodurable.postgres.ownership import RELATIONS, TOKENS, checked, made_by, refuse_other_path
from aiodurable.postgres.password import password_option
from aiodurable.postgres.retry import MIGRATION_LOCK, SETUP_RACE
from aiodurable.postgres.sql import literal, load, migration_files

__all__ = ["VERSION", "check", "ensure_lock_tokens", "migrate", "migrations", "script"]

_SQL = load("schema")
_LANGGRAPH = len(AsyncPostgresSaver.MIGRATIONS) - 1


@dataclass(frozen=True, slots=True)
class Migration:
    """One step of our schema. A step with CONCURRENTLY is one statement and runs outside a
    transaction.
    """

    version: int
    name: str
    sql: str

    @property
    def transactional(self) -> bool:
        return "CONCURRENTLY" not in self.sql


@cache
def migrations() -> tuple[Migration, ...]:
    """Our steps in order, from `migrations/NNNN_name.sql`."""
    steps: list[Migration] = []
    for name, text in migration_files().items():
        number, _, rest = name.partition("_")
        steps.append(Migration(int(number), rest.removesuffix(".sql"), text))
    return tuple(steps)


_CONNECT_S = 10
"""Seconds to reach Postgres, unless the DSN says otherwise."""

VERSION: int = migrations()[-1].version
"""The schema this library works with."""


def script(into: str | None = None) -> str:
    """LangGraph's migrations and ours as SQL for an empty database; it may run again, and not
    inside a transaction.

    Args:
        into: the schema that it creates, and the search path of its session; None: the search path
            of the role.
    """
    statements: list[str] = []
    if into is not None:
        statements = [f'CREATE SCHEMA IF NOT EXISTS "{into}"', f'SET search_path TO "{into}"']
    for version, statement in enumerate(AsyncPostgresSaver.MIGRATIONS):
        statements += [statement, literal(_SQL["record_langgraph_migration"], version)]
    statements.append(_SQL["create_migrations"])
    for step in migrations():
        body = [step.sql, literal(_SQL["record_migration"], step.version, step.name)]
        statements += ["BEGIN", *body, "COMMIT"] if step.transactional else body
    return "".join(f"{dedent(statement).strip().rstrip(';')};\n" for statement in statements)


async def migrate(dsn: Dsn, *, timeout_s: float = 60.0) -> int:
    """Bring the database up to this library's schema and return how many of our steps were applied
    (0: it was ready).

    Args:
        dsn: where to; the role must be allowed to create tables.
        timeout_s: seconds to wait while somebody else migrates.

    Raises:
        SchemaMismatchError: the database is newer than this library; nothing was changed.
        ConfigurationError: the role may not create what is missing, or somebody else made a
            relation under one of our names.
        PostgresUnavailableError: Postgres is away, or somebody else's migration took longer than
            `timeout_s`.
        StatementRefusedError: Postgres refused a step for another reason.
    """
    async with await _connect(dsn) as connection:
        try:
            async with asyncio.timeout(timeout_s):
                return await _migrate(connection, dsn)
        except TimeoutError as error:
            raise PostgresUnavailableError(
                f"cannot migrate {dsn.safe} within {timeout_s:g} s: another migration is still"
                " running, or a transaction has a table open that gets an index; look for a long"
                " transaction in pg_stat_activity, then try again"
            ) from error
        except psycopg.errors.InsufficientPrivilege as error:
            raise ConfigurationError(
                f"cannot migrate {dsn.safe}: its role may not create aiodurable's tables"
                f" ({error.diag.message_primary}); run `aiodurable db migrate` once with a role"
                " that may, and open with auto_migrate=False"
            ) from error
        except psycopg.Error as error:
            if not is_disconnect(error) and to_denied(error, dsn) is None:
                raise to_refused(error, f"cannot migrate {dsn.safe}") from None
            raise to_unavailable(error, dsn) from shown_cause(error)


async def check(dsn: Dsn) -> None:
    """Refuse a database that is not ready, without changing it.

    Raises:
        SchemaMismatchError: its tables are missing, older or newer.
        ConfigurationError: the role may not read them, or somebody else made a relation under one
            of our names.
    """
    async with await _connect(dsn) as connection:
        try:
            ours, langgraph = await _versions(connection, dsn)
        except psycopg.Error as error:
            raise to_unavailable(error, dsn) from shown_cause(error)
    _refuse_newer(ours)
    if ours != VERSION or langgraph < _LANGGRAPH:
        raise SchemaMismatchError(
            f"cannot use {dsn.safe}: its schema is {ours or 'missing'} instead of {VERSION}; run"
            " `aiodurable db migrate`, or open with auto_migrate=True",
            found=ours or None,
            wanted=VERSION,
        )


async def ensure_lock_tokens(
    connection: asyncpg.Connection, dsn: Dsn, *, setup: bool, timeout_s: float = 60.0
) -> None:
    """Create the sequence of the lock tokens if it is missing: a lock manager alone needs nothing
    else.

    Args:
        connection: to `dsn`.
        dsn: for messages.
        setup: whether to create it.
        timeout_s: seconds to wait while somebody else migrates.

    Raises:
        ConfigurationError: somebody else made a relation under its name.
        SchemaMismatchError: it is missing and `setup` is off.
        PostgresUnavailableError: somebody else's migration took longer than `timeout_s`.
    """
    if dsn.schema is not None:
        refuse_other_path(str(await connection.fetchval(_SQL["search_path"])), dsn)
    until = time.monotonic() + timeout_s
    while not checked(await connection.fetch(RELATIONS, *TOKENS), dsn):
        if not setup:
            raise SchemaMismatchError(
                "cannot take leases: the sequence aiodurable_lock_tokens is missing; run"
                " `aiodurable db migrate`, or allow setup"
            )
        # Under the migrations' lock: IF NOT EXISTS fails where two create the same at once.
        async with connection.transaction():
            if await connection.fetchval(_SQL["try_lock"], MIGRATION_KEY):
                for row in await connection.fetch(_SQL["create_schema"], dsn.schema):
                    await connection.execute(row["statement"])
                await connection.execute(_token_sequence())
                checked(await connection.fetch(RELATIONS, *TOKENS), dsn)
                return
        if time.monotonic() > until:
            raise PostgresUnavailableError(
                f"cannot create the sequence of the lock tokens at {dsn.safe} within"
                f" {timeout_s:g} s: a migration is still running; look for a long transaction in"
                " pg_stat_activity, then try again"
            )
        await MIGRATION_LOCK.pause()


@cache
def _token_sequence() -> str:
    """The statement of the first migration that creates it."""
    created = re.search(r"CREATE SEQUENCE [^;]* aiodurable_lock_tokens [^;]*", migrations()[0].sql)
    assert created is not None
    return created[0]


async def _connect(dsn: Dsn) -> AsyncConnection[DictRow]:
    # by default psycopg waits two minutes for a connection that fell silent while it opened, and
    # the next try to open a `Durable` would begin as late
    bound: dict[str, int] = (
        {} if "connect_timeout" in dsn.psycopg else {"connect_timeout": _CONNECT_S}
    )
    try:
        connection = await AsyncConnection[DictRow].connect(
            dsn.conninfo,
            autocommit=True,
            prepare_threshold=None,  # a pooler may lead each statement to another server connection
            row_factory=dict_row,
            application_name=application_name("schema"),
            **bound,
            **await password_option(dsn.password),
        )
    except (psycopg.Error, OSError) as error:
        raise to_unavailable(error, dsn) from error
    if dsn.schema is not None:
        try:
            row = await (await connection.execute(_SQL["search_path"].encode())).fetchone()
            assert row is not None
            refuse_other_path(row["search_path"], dsn)
        except BaseException:  # cancelled too: nobody else closes it
            await connection.close()
            raise
    return connection


async def _versions(connection: AsyncConnection[DictRow], dsn: Dsn) -> tuple[int, int]:
    """Our version (0: none) and LangGraph's (-1: none).

    Raises:
        ConfigurationError: a relation has one of our names or LangGraph's that somebody else made.
        SchemaMismatchError: a commit before the first release made the tables.
    """
    names = await _relations(connection, dsn)
    ours = langgraph = None
    if "aiodurable_migrations" in names:
        ours = await (await connection.execute(_SQL["version"].encode())).fetchone()
    if "checkpoint_migrations" in names:
        langgraph = await (await connection.execute(_SQL["langgraph_version"].encode())).fetchone()
    if ours and ours["first"] != migrations()[0].name:
        raise SchemaMismatchError(
            f"cannot use the tables of aiodurable in {dsn.safe}: a commit before the first release"
            ' made them, and they cannot be upgraded; remove them ("Remove it" in'
            " docs/reference/schema.md; LangGraph's stay), then run `aiodurable db migrate`",
            found=ours["version"],
            wanted=VERSION,
        )
    return (ours["version"] if ours else 0), (langgraph["version"] if langgraph else -1)


@cache
def _made() -> tuple[list[str], list[str]]:
    ours = [_SQL["create_migrations"], *(step.sql for step in migrations())]
    return made_by([*AsyncPostgresSaver.MIGRATIONS, *ours])


async def _relations(connection: AsyncConnection[DictRow], dsn: Dsn) -> frozenset[str]:
    """Which of LangGraph's relations and ours there are, all made by roles that are trusted; raises
    as `_versions`.
    """
    cursor = AsyncRawCursor(connection, row_factory=dict_row)
    return checked(await (await cursor.execute(RELATIONS.encode(), _made())).fetchall(), dsn)


def _refuse_newer(found: int) -> None:
    if found > VERSION:
        raise SchemaMismatchError(
            f"cannot use schema {found} of this database: a newer aiodurable has migrated it, and"
            f" this one needs {VERSION}; upgrade aiodurable",
            found=found,
            wanted=VERSION,
        )


async def _migrate(connection: AsyncConnection[DictRow], dsn: Dsn) -> int:
    ours, langgraph = await _versions(connection, dsn)
    _refuse_newer(ours)
    if ours == VERSION and langgraph >= _LANGGRAPH:
        return 0
    async with _locked(dsn):
        ours, langgraph = await _versions(connection, dsn)
        _refuse_newer(ours)
        if dsn.schema is not None:
            missing = await connection.execute(literal(_SQL["create_schema"], dsn.schema).encode())
            for row in await missing.fetchall():
                await connection.execute(row["statement"].encode())
        if langgraph < _LANGGRAPH:
            await connection.execute(AsyncPostgresSaver.MIGRATIONS[0].encode())
            await _relations(
                connection, dsn
            )  # what another role made since the last look is written to in what follows
            await _langgraph_setup(connection)
        await connection.execute(_SQL["create_migrations"].encode())
        await _relations(connection, dsn)
        pending = [step for step in migrations() if step.version > ours]
        for step in pending:
            await _drop_invalid_indexes(connection)
            if step.transactional:
                async with connection.transaction():
                    await _apply(connection, step)
            else:
                await _apply(connection, step)
        await _relations(connection, dsn)
        return len(pending)


@asynccontextmanager
async def _locked(dsn: Dsn) -> AsyncGenerator[None]:
    """Hold the migration lock for the body; the connection's end lets it go, whatever happens."""
    async with await _connect(dsn) as connection:
        # The transaction must keep no snapshot, or CREATE INDEX CONCURRENTLY waits for it. In
        # REPEATABLE READ it would, and so would the portal that the extended protocol leaves open;
        # a client cursor speaks the simple one.
        await connection.set_isolation_level(psycopg.IsolationLevel.READ_COMMITTED)
        cursor = AsyncClientCursor(connection, row_factory=dict_row)
        while True:
            async with connection.transaction():
                row = await (
                    await cursor.execute(literal(_SQL["try_lock"], MIGRATION_KEY).encode())
                ).fetchone()
                if row is not None and row["got"]:
                    yield
                    return
            await MIGRATION_LOCK.pause()


async def _langgraph_setup(connection: AsyncConnection[DictRow]) -> None:
    """LangGraph's own migrations. A plain app may run the same at this moment without our lock: try
    again then.
    """
    for attempt in range(5):
        await _drop_invalid_indexes(connection)
        try:
            await AsyncPostgresSaver(connection).setup()
            return
        except (
            psycopg.errors.UniqueViolation,
            psycopg.errors.DuplicateTable,
            psycopg.errors.DuplicateColumn,
        ):
            if attempt == 4:
                raise
            await SETUP_RACE.pause()


async def _drop_invalid_indexes(connection: AsyncConnection[DictRow]) -> None:
    """A CREATE INDEX CONCURRENTLY that was killed leaves an invalid index, which IF NOT EXISTS then
    takes for the real one.
    """
    for row in await (await connection.execute(_SQL["invalid_indexes"].encode())).fetchall():
        await connection.execute(row["statement"].encode())


async def _apply(connection: AsyncConnection[DictRow], step: Migration) -> None:
    # several statements: the simple protocol only
    await connection.execute(step.sql.encode(), prepare=False)
    record = literal(_SQL["record_migration"], step.version, step.name)
    await connection.execute(record.encode())
