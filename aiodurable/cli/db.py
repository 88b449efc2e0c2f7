"""`aiodurable db`: create and check the tables, and print the GRANTs of a role."""

from __future__ import annotations

import asyncio

import click

from aiodurable.cli.database import dsn_option
from aiodurable.cli.format import quoted
from aiodurable.cli.migrate import migrate
from aiodurable.settings import Settings

__all__ = ["db"]

_KINDS = ("run", "read", "prune", "migrate")


@click.group
def db() -> None:
    """Create and check the tables, and print the GRANTs that a role needs."""


db.add_command(migrate)


@db.command(short_help="Check that the tables match this version.")
@dsn_option
def check(dsn: str | None) -> None:
    """Check that the tables exist, match this version and belong to a trusted role. Changes
    nothing.
    """
    from aiodurable.dsn import parse_dsn  # noqa: PLC0415 - loads psycopg
    from aiodurable.postgres import schema  # noqa: PLC0415 - loads psycopg and LangGraph's saver

    parsed = parse_dsn(dsn, schema=Settings.from_env().schema)
    asyncio.run(schema.check(parsed))
    click.echo(f"{parsed.safe}: schema {schema.VERSION}")


@db.command
@dsn_option
@click.option("--role", required=True, help="The role to grant them to.")
@click.option(
    "--for",
    "kind",
    type=click.Choice(_KINDS),
    default="run",
    show_default=True,
    help="What the role does. `prune` includes `run`.",
)
def grants(dsn: str | None, role: str, kind: str) -> None:
    """Print the GRANTs that a role needs, and no more. Changes nothing.

    A role that migrates owns the tables that it creates. The GRANTs name the schema of the tables,
    or before they exist the schema in which the search path will create them.
    """
    if not role.isprintable():
        raise click.UsageError(
            f"cannot print GRANTs to role {quoted(role)}: a terminal would obey its name; rename it"
        )
    for statement in asyncio.run(_statements(dsn, role, kind)):
        click.echo(f"{statement};")


async def _statements(dsn: str | None, role: str, kind: str) -> list[str]:
    from aiodurable.dsn import parse_dsn  # noqa: PLC0415 - loads psycopg
    from aiodurable.postgres import grants  # noqa: PLC0415 - as above
    from aiodurable.postgres.pool import PsycopgPool  # noqa: PLC0415 - as above

    database = PsycopgPool(
        parse_dsn(dsn, schema=Settings.from_env().schema), min_size=0, max_size=1
    )
    await database.open()
    try:
        return await grants.statements(database, role, grants.Kind(kind))
    finally:
        await database.aclose()
