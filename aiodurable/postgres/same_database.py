"""Whether two ways lead to the same database."""

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
    """Take a random advisory lock by way of `direct`, and look for it by way of `database`.

    Names and ports prove nothing: a pooler, a tunnel or a service has others. Only a transaction's
    lock is taken, so that both ways may go through a pooler in transaction mode.

    Raises:
        ConfigurationError: the lock is not seen there.
        PostgresUnavailableError: one of them could not be reached or refused.
    """
    if direct.identity == database.dsn.identity:
        return
    keys = [secrets.randbits(31), secrets.randbits(31)]
    connection = await connect_direct(direct, role="check", timeout_s=timeout_s)
    try:
        with translate(direct):
            async with connection.transaction():
                await connection.fetch(_SQL["mark"], *keys, timeout=timeout_s)
                seen = await database.fetch(_SQL["marked"], *keys)
    finally:
        connection.terminate()
    if not seen:
        raise ConfigurationError(
            f"lock_dsn leads to {direct.safe}, another database than {database.dsn.safe}: checkpoints would be written "
            "to the one and read from the other. Both must lead to the same database of the same server"
        )
