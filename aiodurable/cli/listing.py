"""`aiodurable threads list`: list the threads that need a person or a resumption."""

from __future__ import annotations

import asyncio
from typing import Any

import click

from aiodurable.cli.advice import stored_with_commands
from aiodurable.cli.database import dsn_option, open_read_only
from aiodurable.cli.format import age, one_line, quoted, shell_word
from aiodurable.cli.table import Column, print_table, terminal_width, wide_option
from aiodurable.cli.thread_filters import status_option, thread_filters
from aiodurable.cli.thread_json import thread_json
from aiodurable.jsonable import shown
from aiodurable.models import NEEDS_ATTENTION, ThreadStatus, WorkflowCheckpoint

__all__ = ["list_threads"]

_KNOWN = tuple(status.value for status in ThreadStatus if status is not ThreadStatus.NEW)
_WHAT_LENGTH = 24


@click.command("list")
@dsn_option
@status_option(
    _KNOWN,
    "Only these; may be given several times. Default: failed, crashed, interrupted, quarantined.",
)
@click.option("--all", "every", is_flag=True, help="Threads of every status.")
@thread_filters("graph", "error", "prefix", "older_than", "newer_than")
@click.option(
    "--holder",
    metavar="TEXT",
    help="Only running threads whose holder (host and process) contains TEXT.",
)
@click.option(
    "--orphaned",
    is_flag=True,
    help="Only durable runs whose process is gone; fast in any database.",
)
@click.option(
    "--resumable",
    is_flag=True,
    help="Only threads that may go on without a person; fast in any database.",
)
@click.option(
    "--reason",
    metavar="TEXT",
    help="Only threads paused for this reason: breakpoint, cancelled, drained…",
)
@click.option(
    "--doubtful/--certain",
    default=None,
    help="Only threads whose status is in doubt, or only the others.",
)
@click.option(
    "--after", metavar="THREAD", help="Only threads after this one: the last of the previous page."
)
@click.option(
    "--limit", type=click.IntRange(min=1), default=100, show_default=True, help="At most N threads."
)
@wide_option
@click.option("--json", "as_json", is_flag=True, help="One JSON object per line.")
def list_threads(
    dsn: str | None,
    statuses: tuple[str, ...],
    every: bool,
    filters: dict[str, Any],
    holder: str | None,
    orphaned: bool,
    resumable: bool,
    reason: str | None,
    doubtful: bool | None,
    after: str | None,
    limit: int,
    wide: bool,
    as_json: bool,
) -> None:
    """List the threads that need a person or a resumption, sorted by thread id."""
    if every and statuses:
        raise click.UsageError("cannot use both --all and --status: leave one out")
    filters |= {"holder": holder, "orphaned": orphaned, "after": after}
    filters |= {"resumable": resumable, "reason": reason, "doubtful": doubtful}
    if every or resumable or reason is not None or holder is not None:
        filters["status"] = None
    else:
        filters["status"] = statuses or NEEDS_ATTENTION
    found, more = asyncio.run(_find(dsn, filters, limit))
    if as_json:
        for thread in found:
            click.echo(thread_json(thread))
    elif found:
        _show(found, wide=wide)
    else:
        click.echo("no threads found")
    if more:
        click.echo(
            f"these are the first {limit}; the next: --after {shell_word(found[-1].thread_id)}",
            err=True,
        )


async def _find(
    dsn: str | None, filters: dict[str, Any], limit: int
) -> tuple[list[WorkflowCheckpoint], bool]:
    """Up to `limit` threads, and whether there are more."""
    async with open_read_only(dsn) as durable:
        found = [thread async for thread in durable.threads.search(**filters, limit=limit + 1)]
    return found[:limit], len(found) > limit


def _show(threads: list[WorkflowCheckpoint], *, wide: bool) -> None:
    columns = [
        Column("thread", folds=True),
        Column("status"),
        Column("graph", folds=True),
        Column("age", right=True),
    ]
    rows = [
        (quoted(thread.thread_id), str(thread.status), quoted(thread.graph or ""), age(thread.age))
        for thread in threads
    ]
    if wide:
        columns += [Column("step", right=True), Column("attempts", right=True), Column("run")]
        rows = [(*row, *_more(thread)) for thread, row in zip(threads, rows, strict=True)]
    taken = sum(
        max(map(len, column)) + 2
        for column in zip([column.heading for column in columns], *rows, strict=True)
    )
    # The rest of the line, so that each thread has one.
    left = None if wide else max(_WHAT_LENGTH, terminal_width() - taken)
    whats = [one_line(_what(thread)) for thread in threads]
    cut = [w if left is None or len(w) <= left else f"{w[: left - 1]}…" for w in whats]
    print_table(
        [*columns, Column("what", folds=True)],
        [(*row, what) for row, what in zip(rows, cut, strict=True)],
        wide=wide,
    )


def _more(thread: WorkflowCheckpoint) -> tuple[str, ...]:
    step = "" if thread.step is None else str(thread.step)
    return step, str(thread.attempts or ""), quoted(thread.run_id or "")


def _what(thread: WorkflowCheckpoint) -> str:
    """The most important fact about a thread."""
    if thread.error:
        error = stored_with_commands(thread.error)
        path = " > ".join(map(quoted, thread.failed_path))
        return f"{path}: {error}" if path else error
    if thread.interrupts:
        values = (getattr(question, "value", question) for question in thread.interrupts)
        return f"asks: {'; '.join(map(shown, values))}"
    if thread.holder:
        return f"held by {thread.holder}"
    return thread.reason or (
        f"next: {', '.join(map(quoted, thread.pending))}" if thread.pending else ""
    )
