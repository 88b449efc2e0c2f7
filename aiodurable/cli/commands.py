"""The group `aiodurable`: its commands, and how their errors end it.

A new command is one line here: its name, its place and its line of help. Its module is imported
when it is used, so `--help` takes no longer with every command more.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Generator
from contextlib import contextmanager
from typing import Any

import click

from aiodurable.cli.lazy_group import LazyGroup

__all__ = ["cli", "threads"]

_STATUS = ("status:status", "Show a thread's status, or count threads by status.")

_WHY = ("why:why", "Say why a thread stands as it does, and what happens next.")

_THREADS = {
    "answer": ("answer:answer", "Answer the questions of a thread."),
    "cancel": ("cancel:cancel", "End the running run of a thread."),
    "delete": ("delete:delete", "Delete threads and their runs."),
    "fork": ("fork:fork", "Start a new thread from a checkpoint of another."),
    "list": ("listing:list_threads", "List the threads that need attention."),
    "prune": ("prune:prune", "Remove old checkpoints and runs."),
    "resume": ("resume:resume", "Go on with an unfinished thread."),
    "resume-many": ("resume_many:resume_many", "Resume the threads that need no person."),
    "retry": ("retry:retry", "Try a failed or quarantined thread again."),
    "show": ("show:show", "Show a thread's status and history."),
    "signal": ("signal:signal", "Send a signal that a node waits for."),
    "status": _STATUS,
    "why": _WHY,
}
_COMMANDS = {
    "check": ("check:check", "List the unfinished threads that new code cannot resume."),
    "completion": ("completion:completion", "Print the script of completion in a shell."),
    "dashboard": ("dashboard:dashboard", "Serve the dashboard on this machine."),
    "db": ("db:db", "Create and check the tables, and print GRANTs."),
    "doctor": ("doctor.command:doctor", "Check whether this host can use that Postgres."),
    "locks": ("locks:locks", "Show who holds which lock, and who waits."),
    "mcp": ("mcp:mcp", "Let an assistant read why a thread is stuck."),
    "pg": ("pg:pg", "Start and stop a local Postgres server."),
    "queues": ("queues:queues", "Show, pause, resume and limit queues."),
    "runs": ("runs:runs", "Accept runs for workers, look at them, cancel and retry them."),
    "schedules": ("schedules:schedules", "Create, show, pause, trigger and backfill schedules."),
    "stats": ("stats:stats", "Show what runs, waits and fails, in numbers."),
    "status": _STATUS,
    "threads": ("commands:threads", "Read threads, go on with them, fork and remove them."),
    "top": ("top:top", "Show what runs, waits and fails, live."),
    "verify": ("verify:verify", "Check that what is stored is what must be."),
    "why": _WHY,
    "worker": ("worker:worker", "Execute accepted runs until SIGTERM or Ctrl-C."),
}


class _Commands(LazyGroup):
    def make_context(self, *args: Any, **options: Any) -> click.Context:
        with _ending_at_a_broken_pipe(), _printable():
            return super().make_context(*args, **options)

    def invoke(self, ctx: click.Context) -> Any:
        with _ending_at_a_broken_pipe(), _printable(), _ending_with_a_code():
            return super().invoke(ctx)


@contextmanager
def _ending_with_a_code() -> Generator[None]:
    """End without a traceback where the library refuses: its message says what failed, why and what
    to do.
    """
    try:
        yield
    except (click.ClickException, click.Abort, click.exceptions.Exit):
        raise
    except Exception as error:
        from aiodurable.cli.advice import with_commands  # noqa: PLC0415 - for --help
        from aiodurable.cli.exit_codes import FailedCommand, exit_of  # noqa: PLC0415 - as above
        from aiodurable.errors import AiodurableError  # noqa: PLC0415 - as above

        if not isinstance(error, AiodurableError):
            raise
        raise FailedCommand(with_commands(str(error)), exit_of(error)) from error


@contextmanager
def _printable() -> Generator[None]:
    """Remove what a terminal obeys from click's own errors, which repeat what was typed or
    pasted.
    """
    try:
        yield
    except click.ClickException as error:
        from aiodurable.cli.format import lines  # noqa: PLC0415 - for --help

        shown = lines(error.format_message())
        error.format_message = lambda: shown
        raise


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
        from aiodurable.cli.exit_codes import Exit  # noqa: PLC0415 - for --help

        # Python flushes its buffers at exit
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        raise click.exceptions.Exit(Exit.PIPE) from error


@click.group(
    cls=_Commands,
    lazy=_COMMANDS,
    context_settings={"help_option_names": ["-h", "--help"]},
    epilog="Exit codes: 0 ok, 1 failed, 2 usage, 3 not found, 4 already running, 5 database.",
)
@click.version_option(package_name="aiodurable", prog_name="aiodurable")
def cli() -> None:
    """Durable LangGraph workflows on Postgres.

    Finds Postgres through --dsn or --dsn-file, AIODURABLE_DSN, DATABASE_URL or libpq's PG*
    variables, in this order.
    """


@click.group(cls=LazyGroup, lazy=_THREADS)
def threads() -> None:
    """Read threads, go on with them, fork and remove them."""
