"""The tables, and what this role may do with them."""

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
    """Whether they are of the version that this library works with."""
    try:
        await schema.check(dsn)
    except SchemaMismatchError as error:
        if settings.auto_migrate and (error.found is None or error.found <= schema.VERSION):
            return warn(
                "schema",
                f"version {error.found or 'none'}, wanted {error.wanted}",
                "nothing, if this role may make tables: the first Durable does; or run `aiodurable"
                " migrate`",
            )
        return fail("schema", str(error))
    except ConfigurationError as error:
        return fail("schema", str(error))
    return ok("schema", f"version {schema.VERSION}")


async def rights(
    database: PsycopgPool, settings: Settings, *, ready: bool, kind: Kind = Kind.RUN
) -> Finding:
    """What this role may not do and must. `ready`: no table is left to be made. `kind`: what it is
    for.
    """
    if missing := await _missing(database, kind):
        names = ", ".join(f"{right} on {relation}" for relation, right in missing)
        if kind is not Kind.LOOK and not await _missing(database, Kind.LOOK):
            return fail(
                "rights", f"this role may look, not {kind}: it lacks {names}", _advice(kind)
            )
        return fail("rights", f"this role lacks {names}", _advice(kind))
    if kind is Kind.MIGRATE or (not ready and kind is not Kind.LOOK):
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
                f"this role may not make tables in schema {row['schema']}",
                "run `aiodurable migrate` as a role that may, and give this one rights on the"
                " tables"
                + (" (and AIODURABLE_AUTO_MIGRATE=false)" if settings.auto_migrate else ""),
            )
    return ok("rights", f"this role may do all that is needed to {kind}")


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
        f"GRANT them: `aiodurable db grants --role ROLE --for {kind}` prints how; --for says what a"
        " role is for"
    )


async def everybody(database: PsycopgPool) -> Finding:
    """What roles that have nothing to do with this may."""
    name = "everybody"
    [row] = await database.fetch(_SQL["public"])
    if row["creates"]:
        schemas = ", ".join(row["creates"])
        return warn(
            name,
            f"every role may create in schema {schemas}, which is in the search path",
            f"REVOKE CREATE ON SCHEMA {schemas} FROM PUBLIC: what is made there may be taken for"
            " what is meant",
        )
    if row["connects"]:
        return warn(
            name,
            "every role of the server may connect to this database, and so take locks that runs"
            " need",
            "REVOKE CONNECT ON DATABASE … FROM PUBLIC, and grant it to those who work with it",
        )
    return ok(name, "only roles that were granted it connect, and create in the search path")
