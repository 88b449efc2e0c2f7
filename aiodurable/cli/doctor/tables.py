"""The tables, and what this role may do with them."""

from __future__ import annotations

from aiodurable.cli.doctor.finding import Finding, fail, ok, warn
from aiodurable.dsn import Dsn
from aiodurable.errors import SchemaMismatchError
from aiodurable.postgres import schema
from aiodurable.postgres.connections import Database
from aiodurable.postgres.queries import load
from aiodurable.settings import Settings

__all__ = ["rights", "tables"]

_SQL = load("doctor")
_WRITTEN = (
    "checkpoints",
    "checkpoint_blobs",
    "checkpoint_writes",
    "aiodurable_fences",
    "aiodurable_runs",
)
_READ = ("checkpoint_migrations", "aiodurable_migrations")


async def tables(dsn: Dsn, settings: Settings) -> Finding:
    """Whether they are of the version that this library works with."""
    try:
        await schema.check(dsn)
    except SchemaMismatchError as error:
        if settings.setup and (error.found is None or error.found <= schema.VERSION):
            return warn(
                "schema",
                f"version {error.found or 'none'}, wanted {error.wanted}",
                "nothing, if this role may make tables: the first Durable does; or run `aiodurable migrate`",
            )
        return fail("schema", str(error))
    return ok("schema", f"version {schema.VERSION}")


async def rights(database: Database, settings: Settings, *, ready: bool) -> Finding:
    """What this role may not do and must. `ready`: no table is left to be made."""
    wanted = [(table, right) for table in _WRITTEN for right in ("SELECT", "INSERT", "UPDATE", "DELETE")]
    wanted += [(table, "SELECT") for table in _READ]
    wanted += [("aiodurable_namespace", right) for right in ("SELECT", "INSERT")]
    wanted.append(("aiodurable_lock_tokens", "USAGE"))
    relations, privileges = map(list, zip(*wanted, strict=True))
    missing = await database.fetch(_SQL["rights"], relations, privileges)
    if missing:
        names = ", ".join(f"{row['privilege']} on {row['relation']}" for row in missing)
        return fail("rights", f"this role lacks {names}", "GRANT them to it")
    if not ready:
        [row] = await database.fetch(_SQL["may_create"])
        if row["schema"] is None:
            return fail("rights", "the search path names no schema that exists", "ALTER ROLE … SET search_path")
        if not row["may"]:
            return fail(
                "rights",
                f"this role may not make tables in schema {row['schema']}",
                "run `aiodurable migrate` as a role that may, and give this one rights on the tables"
                + (" (and AIODURABLE_SETUP=false)" if settings.setup else ""),
            )
    return ok("rights", "this role may do all that is needed")
