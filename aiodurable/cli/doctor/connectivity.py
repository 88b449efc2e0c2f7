"""Checks of the connections: both drivers, poolers in between, and whether locks exclude."""

from __future__ import annotations

import asyncio
import random
import time

from aiodurable.cli.doctor.finding import Finding, fail, ok, warn
from aiodurable.dsn import Dsn
from aiodurable.errors import PostgresUnavailableError, SessionLocksUnsupportedError
from aiodurable.locks import selfcheck
from aiodurable.locks.statements import LockStatements
from aiodurable.postgres.connect import connect_direct
from aiodurable.postgres.pool import PsycopgPool
from aiodurable.postgres.sql import load
from aiodurable.settings import Settings

__all__ = ["by_asyncpg", "by_psycopg", "exclusion", "pooling", "same_database", "silence"]

_SQL = load("doctor")
_SILENCE_S = 0.3
_PATIENCE_S = 5.0


async def by_psycopg(database: PsycopgPool) -> Finding:
    """Whether psycopg can connect with the pool's DSN."""
    began = time.monotonic()
    try:
        await database.open()
    except PostgresUnavailableError as error:
        return fail("psycopg", str(error))
    return ok("psycopg", f"connected in {(time.monotonic() - began) * 1000:.0f} ms")


async def by_asyncpg(direct: Dsn, timeout_s: float) -> tuple[LockStatements | None, Finding]:
    """Whether asyncpg can connect with the direct DSN. The caller closes the connection."""
    began = time.monotonic()
    try:
        statements = await LockStatements.open(direct, timeout_s=timeout_s)
    except (PostgresUnavailableError, SessionLocksUnsupportedError) as error:
        return None, fail("asyncpg", str(error))
    return statements, ok("asyncpg", f"connected in {(time.monotonic() - began) * 1000:.0f} ms")


async def exclusion(statements: LockStatements, direct: Dsn, settings: Settings) -> Finding:
    """Whether advisory locks on the direct connections exclude; tries it."""
    proxied = statements.announced != statements.pid
    try:
        await selfcheck.check(
            statements, direct, allow_proxy=True, probe=True, timeout_s=settings.connect_timeout_s
        )
    except (SessionLocksUnsupportedError, PostgresUnavailableError) as error:
        return fail("locks", str(error))
    if not proxied:
        return ok("locks", "the connection is direct, and advisory locks exclude")
    if settings.lock_allow_proxy:
        return ok("locks", "a pooler in session mode is in between; advisory locks exclude")
    return fail(
        "locks",
        "a pooler in session mode is in between; advisory locks exclude, but nothing allows it",
        "set lock_dsn (AIODURABLE_LOCK_DSN) to a direct connection, or"
        " AIODURABLE_LOCK_ALLOW_PROXY=true",
    )


async def pooling(database: PsycopgPool, settings: Settings) -> Finding:
    """Which pooler the pool's DSN leads through, where the locks have a DSN of their own."""
    async with database.connection() as connection:
        announced = connection.info.backend_pid
        row = await (await connection.execute(_SQL["backend"].encode())).fetchone()
    if row is not None and row["pid"] == announced:
        return ok("pooling", "dsn is direct, too: lock_dsn is not needed")
    statements: LockStatements | None = None
    mode = "session"
    try:
        statements = await LockStatements.open(database.dsn, timeout_s=settings.connect_timeout_s)
        await selfcheck.check(
            statements,
            database.dsn,
            allow_proxy=True,
            probe=True,
            timeout_s=settings.connect_timeout_s,
        )
    except SessionLocksUnsupportedError:
        mode = "transaction"
    finally:
        if statements is not None:
            statements.terminate()
    return ok(
        "pooling",
        f"a pooler in {mode} mode, used without prepared statements; locks use lock_dsn",
    )


async def silence(direct: Dsn, settings: Settings) -> Finding:
    """Whether the server ends a silent session, which makes a lock a lease; tries it.

    Not for a pooler in transaction mode, where the setting would reach another client.
    """
    name = "silence"
    connection = await connect_direct(direct, role="doctor", timeout_s=settings.connect_timeout_s)
    try:
        ended = asyncio.Event()

        def note_end(_: object) -> None:
            ended.set()

        connection.add_termination_listener(note_end)
        await connection.execute(_SQL["fall_silent"].replace("$1", str(round(_SILENCE_S * 1000))))
        began = time.monotonic()
        async with asyncio.timeout(_PATIENCE_S):
            await ended.wait()
    except TimeoutError:
        return fail(
            name,
            f"a session with idle_session_timeout {_SILENCE_S:g} s still lived after"
            f" {_PATIENCE_S:g} s",
            "connect directly: something in between keeps silent sessions alive, or the server is"
            " not Postgres, so the locks of a host that vanished would never be released",
        )
    finally:
        connection.terminate()
    return ok(
        name,
        f"the server ended a session after {time.monotonic() - began:.1f} s of silence, as"
        " configured",
    )


async def same_database(database: PsycopgPool, statements: LockStatements) -> Finding:
    """Whether dsn and lock_dsn lead to the same database: a lock of one is visible to the other."""
    key = random.getrandbits(64) - (1 << 63)
    if not await statements.probe_lock(key):
        return warn("same database", "cannot check: somebody holds a random lock", "try again")
    try:
        [row] = await database.fetch(_SQL["sees"], key)
    finally:
        await statements.probe_unlock(key)
    if row["sees"]:
        return ok("same database", "dsn sees a lock that lock_dsn took")
    return fail(
        "same database",
        "dsn does not see a lock that lock_dsn took: they lead to different databases",
        "name the same database of the same server in both: locks and fences belong together",
    )
