"""The commands by name, and what becomes of an error."""

from __future__ import annotations

from importlib.metadata import version
from typing import Any

import click

from aiodurable.cli.bench import bench
from aiodurable.cli.demo.command import demo
from aiodurable.cli.doctor.command import doctor
from aiodurable.cli.exits import FailedCommand, exit_of
from aiodurable.cli.fork import fork
from aiodurable.cli.listing import list_threads
from aiodurable.cli.locks import locks
from aiodurable.cli.migrate import migrate
from aiodurable.cli.pg import pg
from aiodurable.cli.prune import prune
from aiodurable.cli.retry import retry
from aiodurable.cli.show import show
from aiodurable.cli.status import status
from aiodurable.errors import AiodurableError

__all__ = ["cli"]


class _Commands(click.Group):
    def invoke(self, ctx: click.Context) -> Any:
        try:
            return super().invoke(ctx)
        except AiodurableError as error:  # its text says what was wanted, found and to do: no traceback adds to it
            raise FailedCommand(str(error), exit_of(error)) from error


@click.group(
    cls=_Commands,
    context_settings={"help_option_names": ["-h", "--help"]},
    epilog="Exit codes: 0 ok, 1 failed, 2 usage, 3 not found, 4 already running, 5 database.",
)
@click.version_option(version("aiodurable"), prog_name="aiodurable")
def cli() -> None:
    """Durable LangGraph workflows on Postgres.

    Postgres is found through --dsn, AIODURABLE_DSN, DATABASE_URL or libpq's PG* variables, in this order.
    """


for _command in (bench, demo, doctor, fork, list_threads, locks, migrate, pg, prune, retry, show, status):
    cli.add_command(_command)
