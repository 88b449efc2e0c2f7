"""`aiodurable db migrate`: create or migrate LangGraph's tables and our own."""

from __future__ import annotations

import asyncio

import click

from aiodurable.cli.database import dsn_option
from aiodurable.settings import Settings

__all__ = ["migrate"]


@click.command
@dsn_option
@click.option(
    "--timeout",
    "timeout_s",
    type=click.FloatRange(min=0),
    default=60.0,
    show_default=True,
    metavar="SECONDS",
)
@click.option(
    "--print",
    "printed",
    is_flag=True,
    help="Print the SQL for an empty database, without connecting.",
)
def migrate(dsn: str | None, timeout_s: float, *, printed: bool) -> None:
    """Create or migrate the tables. Safe at any time, also from many hosts at once.

    Waits up to --timeout for another process's migration. Opening a Durable also migrates, unless
    auto_migrate=False. The SQL of --print may run again, but not inside a transaction: it builds
    some indexes CONCURRENTLY. With AIODURABLE_SCHEMA both create and fill that schema.
    """
    from aiodurable.dsn import parse_dsn  # noqa: PLC0415 - loads psycopg
    from aiodurable.postgres import schema  # noqa: PLC0415 - loads psycopg and LangGraph's saver

    into = Settings.from_env().schema
    if printed:
        click.echo(schema.script(into), nl=False)
        return
    parsed = parse_dsn(dsn, schema=into)
    applied = asyncio.run(schema.migrate(parsed, timeout_s=timeout_s))
    done = f"{applied} step{'' if applied == 1 else 's'} applied" if applied else "nothing to do"
    click.echo(f"{parsed.safe}: schema {schema.VERSION}, {done}")
