"""`aiodurable migrate`: make or bring up to date LangGraph's tables and ours."""

from __future__ import annotations

import asyncio

import click

from aiodurable.cli.database import dsn_option

__all__ = ["migrate"]


@click.command(short_help="Create or migrate the tables.")
@dsn_option
@click.option(
    "--timeout", "timeout_s", type=click.FloatRange(min=0), default=60.0, show_default=True, metavar="SECONDS"
)
def migrate(dsn: str | None, timeout_s: float) -> None:
    """Create or migrate the tables. Safe at any time, also from many hosts at once.

    Waits up to --timeout for somebody else's migration. Opening a Durable does the same, unless auto_migrate=False.
    """
    from aiodurable.dsn import parse_dsn  # noqa: PLC0415 - loads psycopg
    from aiodurable.postgres import schema  # noqa: PLC0415 - loads psycopg and LangGraph's saver

    parsed = parse_dsn(dsn)
    applied = asyncio.run(schema.migrate(parsed, timeout_s=timeout_s))
    done = f"{applied} step{'' if applied == 1 else 's'} applied" if applied else "it was ready"
    click.echo(f"{parsed.safe}: schema {schema.VERSION}, {done}")
