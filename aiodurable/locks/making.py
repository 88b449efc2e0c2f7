"""What leases need in the database, made where nobody has migrated it: for a lock manager alone."""

from __future__ import annotations

import time
from typing import Final

import asyncpg

from aiodurable.dsn import Dsn
from aiodurable.errors import PostgresUnavailableError, SchemaMismatchError
from aiodurable.lock_keys import MIGRATION_KEY
from aiodurable.postgres.ownership import RELATIONS, TOKENS, checked
from aiodurable.postgres.retry import MIGRATION_LOCK
from aiodurable.postgres.sql import load

__all__ = ["make_missing"]

_SQL = load("locks")

WITHIN_S: Final = 60.0
"""Seconds to wait while somebody else migrates."""


async def make_missing(connection: asyncpg.Connection, dsn: Dsn, *, setup: bool) -> None:
    """Make the sequence of the tokens if it is missing and `setup` is on.

    Under the migrations' lock, for IF NOT EXISTS fails where two make the same at once; it is only
    ever tried.

    Raises:
        ConfigurationError: somebody else made a relation under its name.
        SchemaMismatchError: it is missing and `setup` is off.
        PostgresUnavailableError: somebody else's migration took longer than `WITHIN_S`.
    """
    until = time.monotonic() + WITHIN_S
    while not checked(await connection.fetch(RELATIONS, *TOKENS), dsn):
        if not setup:
            raise SchemaMismatchError(
                "cannot take leases: the sequence aiodurable_lock_tokens is missing; run"
                " `aiodurable migrate`, or allow setup"
            )
        async with connection.transaction():
            if await connection.fetchval(_SQL["try_migration_lock"], MIGRATION_KEY):
                await connection.execute(_SQL["make_sequence"])
                checked(await connection.fetch(RELATIONS, *TOKENS), dsn)
                return
        if time.monotonic() > until:
            raise PostgresUnavailableError(
                f"cannot create the sequence of the lock tokens at {dsn.safe} within {WITHIN_S:g}"
                " s: a migration is still running; look for a long transaction in pg_stat_activity,"
                " then try again"
            )
        await MIGRATION_LOCK.pause()
