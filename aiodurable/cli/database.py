"""The options `--dsn` and `--dsn-file`, and the `Durable` that a command opens."""

from __future__ import annotations

import os
import re
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from aiodurable.settings import Settings

if TYPE_CHECKING:
    from aiodurable.durable import Durable

__all__ = ["dsn_option", "few_connections", "is_configured", "open_read_only", "open_with_leases"]

_VARIABLES = (
    "AIODURABLE_DSN",
    "DATABASE_URL",
    "PGHOST",
    "PGHOSTADDR",
    "PGPORT",
    "PGDATABASE",
    "PGUSER",
    "PGSERVICE",
)

_FILE = "aiodurable.dsn_file"
_PASSWORD = re.compile(r"://[^/?#@]*:[^/?#]*@|\bpassword\s*=", re.IGNORECASE)


def _from_file(ctx: click.Context, _: click.Parameter, path: Path | None) -> None:
    if path is None:
        return
    try:
        text = path.read_text("utf-8").strip()
    except (OSError, ValueError) as error:
        raise click.UsageError(
            f"cannot read --dsn-file {path} ({type(error).__name__}): check its name and rights"
        ) from error
    if not text:
        raise click.UsageError(f"--dsn-file {path} is empty: write a DSN into it")
    ctx.meta[_FILE] = text


def _given(ctx: click.Context, _: click.Parameter, dsn: str | None) -> str | None:
    if (in_file := ctx.meta.get(_FILE)) is not None:
        if dsn is not None:
            raise click.UsageError("cannot use both --dsn and --dsn-file: leave one out")
        return in_file
    if dsn is not None and not ctx.resilient_parsing and _PASSWORD.search(dsn):
        click.echo(
            "ps shows the password in --dsn to every user of this host: use --dsn-file, or"
            " AIODURABLE_DSN",
            err=True,
        )
    return dsn


def dsn_option(command: Callable[..., Any]) -> Callable[..., Any]:
    """The options `--dsn` and `--dsn-file`; the command gets either as `dsn`."""
    command = click.option(
        "--dsn-file",
        type=click.Path(dir_okay=False, path_type=Path),
        is_eager=True,
        expose_value=False,
        callback=_from_file,
        help="A file that holds the DSN.",
    )(command)
    return click.option(
        "--dsn",
        metavar="DSN",
        callback=_given,
        help=(
            "The DSN of Postgres. Default: AIODURABLE_DSN, DATABASE_URL or PG* variables. Put a"
            " password into --dsn-file instead."
        ),
    )(command)


def is_configured(dsn: str | None) -> bool:
    """Whether an option or a variable says where Postgres is, rightly or wrongly."""
    return bool(dsn) or any(os.environ.get(name) for name in _VARIABLES)


def few_connections() -> Settings:
    """The settings of the environment, with as few connections as possible and no migration."""
    return replace(
        Settings.from_env(),
        auto_migrate=False,
        lock_connections=1,
        checkpoint_connections=1,
        pool_min_size=0,
        pool_max_size=2,
    )


@asynccontextmanager
async def open_read_only(dsn: str | None) -> AsyncIterator[Durable]:
    """Open a `Durable` that takes no lease; works on a standby, too.

    Raises:
        SchemaMismatchError: the tables are missing, older or newer.
        ConfigurationError, PostgresUnavailableError: see `Durable`.
    """
    from aiodurable.durable import Durable  # noqa: PLC0415 - loads LangGraph

    async with Durable(dsn, settings=replace(few_connections(), lock_connections=0)) as durable:
        yield durable


@asynccontextmanager
async def open_with_leases(dsn: str | None) -> AsyncIterator[Durable]:
    """Open a `Durable` that can take leases. Raises what `open_read_only` raises, and
    `SessionLocksUnsupportedError`.
    """
    from aiodurable.durable import Durable  # noqa: PLC0415 - as above

    async with Durable(dsn, settings=few_connections()) as durable:
        yield durable
