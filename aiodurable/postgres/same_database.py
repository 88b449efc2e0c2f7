"""Proves that two DSNs lead to the same database."""

from __future__ import annotations

import secrets

from aiodurable.dsn import Dsn
from aiodurable.errors import ConfigurationError
from aiodurable.postgres.connect import connect_direct
from aiodurable.postgres.errors import translate
from aiodurable.postgres.pool import PsycopgPool
from aiodurable.postgres.sql import load

__all__ = ["prove_same_database"]

_SQL = load("direct")


async def prove_same_database(database: PsycopgPool, direct: Dsn, *, timeout_s: float) -> None:
    """Take a random advisory lock through `direct`, and look for it through `database`.

    Names and ports prove nothing: a pooler, a tunnel or a service has its own. The lock is a
    transaction's, so that both may go through a pooler in transaction mode.

    Raises:
        ConfigurationError: `database` does not see the lock.
        PostgresUnavailableError: one of them could not be reached or refused.
    """
    if direct.identity == database.dsn.identity:
        return
    keys = [secrets.randbits(31), secrets.randbits(31)]
    connection = await connect_direct(direct, role="check", timeout_s=timeout_s)
    try:
        with translate(direct):
            async with connection.transaction():
                await connection.fetch(_SQL["mark_database"], *keys, timeout=timeout_s)
                seen = await database.fetch(_SQL["find_mark"], *keys)
    finally:
        connection.terminate()
    if not seen:
        raise ConfigurationError(
            f"cannot use lock_dsn {direct.safe}: it leads to another database than"
            f" {database.dsn.safe}, so that checkpoints would be written to the one and read from"
            " the other; let both lead to the same database of the same server"
        )
