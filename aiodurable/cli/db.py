"""`aiodurable db`: create and check the tables, and which rights a role must be given."""

from __future__ import annotations

import asyncio

import click

from aiodurable.cli.database import dsn_option
from aiodurable.cli.migrate import migrate

__all__ = ["db"]

_KINDS = ("run", "look", "prune", "migrate")


@click.group(short_help="Create and check the tables, and print GRANTs.")
def db() -> None:
    """Create and check the tables, and print the GRANTs that a role needs."""


db.add_command(migrate)


@db.command(short_help="Whether the tables are those of this version.")
@dsn_option
def check(dsn: str | None) -> None:
    """Whether the tables are there, are those of this version, and were made by a trusted role;
    changes nothing.
    """
    from aiodurable.dsn import parse_dsn  # noqa: PLC0415 - loads psycopg
    from aiodurable.postgres import schema  # noqa: PLC0415 - loads psycopg and LangGraph's saver

    parsed = parse_dsn(dsn)
    asyncio.run(schema.check(parsed))
    click.echo(f"{parsed.safe}: schema {schema.VERSION}")


@db.command
@dsn_option
@click.option("--role", required=True, help="Who is to be granted them.")
@click.option(
    "--for",
    "kind",
    type=click.Choice(_KINDS),
    default="run",
    show_default=True,
    help="What it is to do; who prunes or deletes also runs.",
)
def grants(dsn: str | None, role: str, kind: str) -> None:
    """Print the GRANTs that a role needs, and no more; changes nothing.

    Who migrates owns what it makes. Where the tables are is looked up; before they are made, it is
    where the search path says that they will be.
    """
    for statement in asyncio.run(_statements(dsn, role, kind)):
        click.echo(f"{statement};")


async def _statements(dsn: str | None, role: str, kind: str) -> list[str]:
    from aiodurable.dsn import parse_dsn  # noqa: PLC0415 - loads psycopg
    from aiodurable.postgres import grants  # noqa: PLC0415 - as above
    from aiodurable.postgres.pool import PsycopgPool  # noqa: PLC0415 - as above

    database = PsycopgPool(parse_dsn(dsn), min_size=0, max_size=1)
    await database.open()
    try:
        return await grants.statements(database, role, grants.Kind(kind))
    finally:
        await database.aclose()
