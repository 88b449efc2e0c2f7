"""`aiodurable status [THREAD]`: show the status of one thread, or count threads by status."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Iterator
from typing import TYPE_CHECKING

import click

from aiodurable.cli.advice import stored_with_commands
from aiodurable.cli.database import dsn_option, open_read_only
from aiodurable.cli.exit_codes import Exit, FailedCommand
from aiodurable.cli.format import age, one_line, quoted
from aiodurable.cli.thread_argument import ThreadId
from aiodurable.cli.thread_json import thread_json
from aiodurable.jsonable import shown
from aiodurable.models import ThreadStatus, WorkflowCheckpoint

if TYPE_CHECKING:
    from aiodurable.threads import ThreadCounts

__all__ = ["checked_known", "print_thread", "status"]


@click.command
@click.argument("thread_id", metavar="[THREAD]", required=False, type=ThreadId())
@click.option(
    "--exact", is_flag=True, help="Without THREAD: count all threads, however long it takes."
)
@dsn_option
@click.option("--json", "as_json", is_flag=True, help="One JSON object.")
def status(thread_id: str | None, exact: bool, dsn: str | None, as_json: bool) -> None:
    """Show the status of THREAD, from the tables and the live lock, without its graph. Without
    THREAD: count the threads of each status.

    Exit code 0: THREAD was found, whatever its status; 3: it was not. In a large database, complete
    and crashed threads are estimated (~); --exact counts them.
    """
    if thread_id is None:
        _print_counts(asyncio.run(_count(dsn, exact)), as_json=as_json)
    elif exact:
        raise click.UsageError("cannot use --exact with THREAD: leave one out")
    else:
        print_thread(asyncio.run(_read(thread_id, dsn)), as_json=as_json)


def checked_known(thread: WorkflowCheckpoint) -> WorkflowCheckpoint:
    """Return the thread. If it has no rows, end the command with exit code 3."""
    if thread.status is ThreadStatus.NEW:
        raise FailedCommand(
            f"cannot find thread {quoted(thread.thread_id)}: check the id and the DSN",
            Exit.NOT_FOUND,
        )
    return thread


def print_thread(thread: WorkflowCheckpoint, *, as_json: bool) -> None:
    """Print a thread's status: one line per field, or one JSON object."""
    if as_json:
        click.echo(thread_json(thread))
        return
    for name, value in _described(thread):
        click.echo(f"{name:<10} {one_line(value)}")


async def _read(thread_id: str, dsn: str | None) -> WorkflowCheckpoint:
    async with open_read_only(dsn) as durable:
        return checked_known(await durable.threads.status(thread_id))


async def _count(dsn: str | None, exact: bool) -> ThreadCounts:
    async with open_read_only(dsn) as durable:
        threads = durable.threads
        return await (threads.count() if exact else threads.estimate_counts())


def _print_counts(counts: ThreadCounts, *, as_json: bool) -> None:
    if as_json:
        fields = {
            "by_status": counts.by_status,
            "total": counts.total,
            "estimated": sorted(counts.estimated),
        }
        click.echo(json.dumps({**fields, "exact": counts.exact}))
        return
    rows = [
        (s.value, s in counts.estimated, counts.by_status[s])
        for s in ThreadStatus
        if counts.by_status.get(s)
    ]
    for name, estimated, count in (*rows, ("all", not counts.exact, counts.total)):
        number = f"{'~' if estimated else ''}{count:,}"
        click.echo(f"{name:<12} {number:>12}")
    click.echo(
        "~: estimated from a sample; --exact counts" if not counts.exact else "counted exactly",
        err=True,
    )


def _described(thread: WorkflowCheckpoint) -> Iterator[tuple[str, str]]:
    yield "thread", quoted(thread.thread_id)
    yield "status", f"{thread.status}{f' ({thread.reason})' if thread.reason else ''}"
    if thread.doubt:
        yield "in doubt", thread.doubt
    if thread.graph:
        yield "graph", quoted(thread.graph)
    if thread.step is not None:
        yield "step", str(thread.step)
    if thread.pending:
        yield "next", ", ".join(map(quoted, thread.pending))
    if thread.failed_node:
        yield "failed in", " > ".join(map(quoted, thread.failed_path or (thread.failed_node,)))
    if thread.error:
        yield "error", stored_with_commands(thread.error)
    for question in thread.interrupts:
        yield "asks", shown(getattr(question, "value", question))
    if thread.updated_at:
        yield "updated", f"{thread.updated_at:%Y-%m-%d %H:%M:%S %Z} ({age(thread.age)} ago)"
    if thread.holder:
        yield "held by", str(thread.holder)
    if thread.run_id:
        yield (
            "run",
            (
                f"{quoted(thread.run_id)}, {thread.attempts}"
                f" attempt{'' if thread.attempts == 1 else 's'}"
            ),
        )
