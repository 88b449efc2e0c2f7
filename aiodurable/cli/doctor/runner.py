"""Runs the checks in order, and skips those that make no sense after an earlier finding."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable

from aiodurable.cli.doctor import configuration, connectivity, server, tables, values
from aiodurable.cli.doctor.finding import Finding, Grade, fail
from aiodurable.dsn import Dsn
from aiodurable.errors import AiodurableError
from aiodurable.locks.statements import LockStatements
from aiodurable.postgres.grants import Kind
from aiodurable.postgres.pool import PsycopgPool
from aiodurable.settings import Settings

__all__ = ["examine"]

_BOUND_S = 30.0


async def examine(dsn: str | None, kind: Kind = Kind.RUN) -> AsyncIterator[Finding]:
    """Yield each finding as soon as it is known. Changes nothing and ends in bounded time."""
    settings, finding = configuration.read_settings()
    yield finding
    for finding in configuration.types(settings):
        yield finding
    pooled, direct, findings = configuration.read_dsn(dsn, settings)
    for finding in findings:
        yield finding
    if pooled is None or direct is None:
        return
    database = PsycopgPool(
        pooled, min_size=0, max_size=1, connect_timeout_s=settings.connect_timeout_s
    )
    statements: LockStatements | None = None
    try:
        yield (by_psycopg := await _bounded("psycopg", connectivity.by_psycopg(database)))
        reached = by_psycopg.grade is Grade.OK
        try:
            statements, finding = await connectivity.by_asyncpg(direct, settings.connect_timeout_s)
        except Exception as error:  # any error is a finding
            finding = _unexpected("asyncpg", error)
        yield finding
        if statements is not None:
            async for finding in _locks(statements, direct, settings):
                yield finding
            yield await _bounded("compression", values.compression(direct, settings))
        if reached:
            async for finding in _server(
                database, statements if direct is not pooled else None, settings, kind
            ):
                yield finding
            if direct is not pooled:
                yield await _bounded("pooling", connectivity.pooling(database, settings))
    finally:
        if statements is not None:
            statements.terminate()
        await database.aclose()


async def _locks(
    statements: LockStatements, direct: Dsn, settings: Settings
) -> AsyncIterator[Finding]:
    yield (
        exclusion := await _bounded("locks", connectivity.exclusion(statements, direct, settings))
    )
    if exclusion.grade is Grade.OK:
        yield await _bounded("silence", connectivity.silence(direct, settings))


async def _server(
    database: PsycopgPool, other: LockStatements | None, settings: Settings, kind: Kind
) -> AsyncIterator[Finding]:
    """Check the server. `other`: a direct connection, if it has a DSN of its own."""
    try:
        async with asyncio.timeout(_BOUND_S):
            facts = await server.facts_of(database)
    except Exception as error:  # any error is a finding
        yield _unexpected("server", error)
        return
    for check in server.CHECKS:
        if kind is Kind.READ and check is server.primary:
            continue  # a reader may use a standby
        try:
            finding = check(facts, settings)
        except Exception as error:  # as above
            finding = _unexpected(check.__name__.replace("_", " "), error)
        yield finding
    yield await _bounded("clock", server.clock(database))
    if other is not None:
        yield await _bounded("same database", connectivity.same_database(database, other))
    yield (schema := await _bounded("schema", tables.tables(database.dsn, settings)))
    yield await _bounded(
        "rights", tables.rights(database, settings, ready=schema.grade is Grade.OK, kind=kind)
    )
    yield await _bounded("everybody", tables.everybody(database))


async def _bounded(name: str, check: Awaitable[Finding]) -> Finding:
    try:
        async with asyncio.timeout(_BOUND_S):
            return await check
    except Exception as error:  # as above
        return _unexpected(name, error)


def _unexpected(name: str, error: Exception) -> Finding:
    if isinstance(error, AiodurableError):
        return fail(name, str(error))
    # A driver's text may contain a secret of the DSN.
    state = getattr(error, "sqlstate", None)
    return fail(
        name,
        f"cannot check: {type(error).__name__}{f', SQLSTATE {state}' if state else ''}",
    )
