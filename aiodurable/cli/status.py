"""`aiodurable status THREAD`: where one thread stands."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator

import click

from aiodurable.cli.database import dsn_option, looking
from aiodurable.cli.exits import Exit, FailedCommand
from aiodurable.cli.thread_json import thread_json
from aiodurable.cli.wording import age, one_line
from aiodurable.model import ThreadStatus, WorkflowCheckpoint

__all__ = ["status"]


@click.command(short_help="Show where a thread stands.")
@click.argument("thread_id", metavar="THREAD")
@dsn_option
@click.option("--json", "as_json", is_flag=True, help="One JSON object.")
def status(thread_id: str, dsn: str | None, as_json: bool) -> None:
    """Show where THREAD stands: from the tables and the live lock, without its graph.

    The exit code tells whether it was found (0 or 3), not how it does: read that from the status.
    """
    thread = asyncio.run(_look(thread_id, dsn))
    if thread.status is ThreadStatus.NEW:
        raise FailedCommand(f"nothing is known of thread {thread_id!r}: check the id and the DSN", Exit.NOT_FOUND)
    if as_json:
        click.echo(thread_json(thread))
        return
    for name, value in _described(thread):
        click.echo(f"{name:<10} {one_line(value)}")


async def _look(thread_id: str, dsn: str | None) -> WorkflowCheckpoint:
    async with looking(dsn) as durable:
        return await durable.get_checkpoint_status(thread_id)


def _described(thread: WorkflowCheckpoint) -> Iterator[tuple[str, str]]:
    yield "thread", thread.thread_id
    yield "status", f"{thread.status}{f' ({thread.reason})' if thread.reason else ''}"
    if thread.graph:
        yield "graph", thread.graph
    if thread.step is not None:
        yield "step", str(thread.step)
    if thread.pending:
        yield "next", ", ".join(thread.pending)
    if thread.failed_node:
        yield "failed in", thread.failed_node
    if thread.error:
        yield "error", thread.error
    for question in thread.interrupts:
        yield "asks", str(getattr(question, "value", question))
    if thread.updated_at:
        yield "updated", f"{thread.updated_at:%Y-%m-%d %H:%M:%S %Z} ({age(thread.age)} ago)"
    if thread.holder:
        yield "held by", str(thread.holder)
    if thread.run_id:
        yield "run", f"{thread.run_id}, attempt {thread.attempts}"
