"""What leases need in the database, made where nobody has migrated it: for a lock manager alone."""

from __future__ import annotations

import asyncio
import random
import time
from typing import Final

import asyncpg

from aiodurable.dsn import Dsn
from aiodurable.errors import PostgresUnavailableError, SchemaMismatchError
from aiodurable.keys import MIGRATION_KEY
from aiodurable.postgres.queries import load, migration

__all__ = ["make_missing"]

_SQL = load("locks")

WITHIN_S: Final = 60.0
"""Seconds to wait while somebody else migrates."""


async def make_missing(connection: asyncpg.Connection, dsn: Dsn, *, setup: bool) -> None:
    """Make the sequence of the tokens and the rows' table, function and view, if one of them is missing and `setup` is on.

    Under the migrations' lock, for IF NOT EXISTS and OR REPLACE fail where two make the same at once; it is only ever tried.

    Raises:
        SchemaMismatchError: something is missing and `setup` is off.
        PostgresUnavailableError: somebody else's migration took longer than `WITHIN_S`.
    """
    until = time.monotonic() + WITHIN_S
    while not await connection.fetchval(_SQL["schema"]):
        if not setup:
            raise SchemaMismatchError(
                "wanted the sequence aiodurable_lock_tokens and the table aiodurable_locks, found not both: "
                "run `aiodurable migrate`, or allow setup"
            )
        async with connection.transaction():
            if await connection.fetchval(_SQL["try_making"], MIGRATION_KEY):
                made = (_SQL["make_sequence"], migration("0009_lock_rows"), migration("0012_lock_rows_read"))
                await connection.execute(";\n".join(made))
                return
        if time.monotonic() > until:
            raise PostgresUnavailableError(
                f"wanted the tables of the locks made at {dsn.safe} within {WITHIN_S:g} s, found somebody else migrating "
                "still: look for a long transaction in pg_stat_activity, then try again"
            )
        await asyncio.sleep(random.uniform(0.02, 0.1))
