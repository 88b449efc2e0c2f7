"""Checks of the tables and of this role's rights."""

from __future__ import annotations

from aiodurable.cli.doctor.finding import Finding, fail, ok, warn
from aiodurable.dsn import Dsn
from aiodurable.errors import ConfigurationError, SchemaMismatchError
from aiodurable.postgres import schema
from aiodurable.postgres.grants import Kind, Right, needed
from aiodurable.postgres.pool import PsycopgPool
from aiodurable.postgres.sql import load
from aiodurable.settings import Settings

__all__ = ["everybody", "rights", "tables"]

_SQL = load("doctor")


async def tables(dsn: Dsn, settings: Settings) -> Finding:
    """Whether the tables have the version that this library needs."""
    try:
        await schema.check(dsn)
    except SchemaMismatchError as error:
        if settings.auto_migrate and (error.found is None or error.found <= schema.VERSION):
            return warn(
                "schema",
                f"version {error.found or 'none'} instead of {error.wanted}",
                "run `aiodurable db migrate`; or do nothing, if this role may create tables: the"
                " first Durable migrates",
            )
        return fail("schema", str(error))
    except ConfigurationError as error:
        return fail("schema", str(error))
    return ok("schema", f"version {schema.VERSION}")


async def rights(
    database: PsycopgPool, settings: Settings, *, ready: bool, kind: Kind = Kind.RUN
) -> Finding:
    """Whether this role has the rights that it needs.

    Args:
        database: where the tables are.
        settings: say whether a `Durable` migrates.
        ready: whether all tables exist.
        kind: what the role does.
    """
    if missing := await _missing(database, kind):
        names = ", ".join(f"{right} on {relation}" for relation, right in missing)
        if kind is not Kind.READ and not await _missing(database, Kind.READ):
            return fail(
                "rights", f"this role may read, not {kind}: it lacks {names}", _advice(kind)
            )
        return fail("rights", f"this role lacks {names}", _advice(kind))
    if kind is Kind.MIGRATE or (not ready and kind is not Kind.READ):
        [row] = await database.fetch(_SQL["may_create"])
        if row["schema"] is None:
            return fail(
                "rights",
                "the search path names no schema that exists",
                "ALTER ROLE … SET search_path",
            )
        if not row["may"]:
            return fail(
                "rights",
                f"this role may not create tables in schema {row['schema']}",
                "run `aiodurable db migrate` as a role that may, and grant this role rights on the"
                " tables"
                + (" (and AIODURABLE_AUTO_MIGRATE=false)" if settings.auto_migrate else ""),
            )
    return ok("rights", f"this role has all rights that it needs to {kind}")


async def _missing(database: PsycopgPool, kind: Kind) -> list[Right]:
    wanted = needed(kind)
    relations, privileges = (
        [relation for relation, _ in wanted],
        [privilege for _, privilege in wanted],
    )
    rows = await database.fetch(_SQL["rights"], relations, privileges)
    return [(row["relation"], row["privilege"]) for row in rows]


def _advice(kind: Kind) -> str:
    return (
        f"grant them: `aiodurable db grants --role ROLE --for {kind}` prints the statements; --for"
        " names what a role does"
    )


async def everybody(database: PsycopgPool) -> Finding:
    """Whether unrelated roles may connect, or create objects in the search path."""
    name = "everybody"
    [row] = await database.fetch(_SQL["public"])
    if row["creates"]:
        schemas = ", ".join(row["creates"])
        return warn(
            name,
            f"every role may create objects in schema {schemas}, which is in the search path",
            f"REVOKE CREATE ON SCHEMA {schemas} FROM PUBLIC: such an object can stand in for one of"
            " ours",
        )
    if row["connects"]:
        return warn(
            name,
            "every role of the server may connect to this database, and so take locks that runs"
            " need",
            "REVOKE CONNECT ON DATABASE … FROM PUBLIC, and grant it to the roles that use it",
        )
    return ok(name, "no unrelated role may connect, or create objects in the search path")
