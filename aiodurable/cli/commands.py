"""The group `aiodurable`: its commands, and how their errors end it."""

from __future__ import annotations

import os
import sys
from collections.abc import Generator
from contextlib import contextmanager
from importlib.metadata import version
from typing import Any

import click

from aiodurable.cli.cancel import cancel
from aiodurable.cli.check import check
from aiodurable.cli.db import db
from aiodurable.cli.delete import delete
from aiodurable.cli.doctor.command import doctor
from aiodurable.cli.exit_codes import Exit, FailedCommand, exit_of
from aiodurable.cli.fork import fork
from aiodurable.cli.listing import list_threads
from aiodurable.cli.locks import locks
from aiodurable.cli.migrate import migrate
from aiodurable.cli.pg import pg
from aiodurable.cli.prune import prune
from aiodurable.cli.queues import queues
from aiodurable.cli.retry import retry
from aiodurable.cli.runs import runs
from aiodurable.cli.schedules import schedules
from aiodurable.cli.show import show
from aiodurable.cli.status import status
from aiodurable.cli.worker import worker
from aiodurable.errors import AiodurableError

__all__ = ["cli"]


class _Commands(click.Group):
    def make_context(self, *args: Any, **options: Any) -> click.Context:
        with _ending_at_a_broken_pipe():
            return super().make_context(*args, **options)

    def invoke(self, ctx: click.Context) -> Any:
        try:
            with _ending_at_a_broken_pipe():
                return super().invoke(ctx)
        except AiodurableError as error:
            # Its message says what failed, why and what to do: a traceback adds nothing.
            raise FailedCommand(str(error), exit_of(error)) from error


@contextmanager
def _ending_at_a_broken_pipe() -> Generator[None]:
    """End as SIGPIPE would. click and rich exit with 1, which means that the command failed."""
    try:
        yield
    except (BrokenPipeError, SystemExit) as error:
        # rich raises SystemExit
        if not isinstance(error, BrokenPipeError) and not isinstance(
            error.__context__, BrokenPipeError
        ):
            raise
        # Python flushes its buffers at exit
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        raise click.exceptions.Exit(Exit.PIPE) from error


@click.group(
    cls=_Commands,
    context_settings={"help_option_names": ["-h", "--help"]},
    epilog="Exit codes: 0 ok, 1 failed, 2 usage, 3 not found, 4 already running, 5 database.",
)
@click.version_option(version("aiodurable"), prog_name="aiodurable")
def cli() -> None:
    """Durable LangGraph workflows on Postgres.

    Finds Postgres through --dsn or --dsn-file, AIODURABLE_DSN, DATABASE_URL or libpq's PG*
    variables, in this order.
    """


for _command in (
    cancel,
    check,
    db,
    delete,
    doctor,
    fork,
    list_threads,
    locks,
    migrate,
    pg,
    prune,
    queues,
    retry,
    runs,
    schedules,
    show,
    status,
    worker,
):
    cli.add_command(_command)
