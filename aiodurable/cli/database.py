"""Which Postgres a command talks to."""

from __future__ import annotations

import os
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import replace
from typing import TYPE_CHECKING

import click

from aiodurable.settings import Settings

if TYPE_CHECKING:
    from aiodurable.durable import Durable

__all__ = ["changing", "dsn_option", "few_connections", "is_configured", "looking"]

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

dsn_option = click.option(
    "--dsn", metavar="DSN", help="Where Postgres is. Default: AIODURABLE_DSN, DATABASE_URL or PG* variables."
)


def is_configured(dsn: str | None) -> bool:
    """Whether somebody said where Postgres is, rightly or wrongly."""
    return bool(dsn) or any(os.environ.get(name) for name in _VARIABLES)


def few_connections() -> Settings:
    """Those of the environment, with as few connections as can be, and the tables left as they are."""
    return replace(Settings.from_env(), setup=False, lock_sessions=1, writers=1, pool_min_size=0, pool_max_size=2)


@asynccontextmanager
async def looking(dsn: str | None) -> AsyncIterator[Durable]:
    """A `Durable` for commands that only look, also at a standby: as few connections as can be, none of them for locks.

    Raises:
        SchemaMismatchError: the tables are missing, older or newer.
        ConfigurationError, PostgresUnavailableError: as `Durable` does.
    """
    from aiodurable.durable import Durable  # noqa: PLC0415 - loads LangGraph: 0.8 s that --help need not take

    async with Durable(dsn, settings=replace(few_connections(), lock_sessions=0)) as durable:
        yield durable


@asynccontextmanager
async def changing(dsn: str | None) -> AsyncIterator[Durable]:
    """A `Durable` for commands that take leases: otherwise as `looking`. Raises also what opening lock sessions does."""
    from aiodurable.durable import Durable  # noqa: PLC0415 - as above

    async with Durable(dsn, settings=few_connections()) as durable:
        yield durable
