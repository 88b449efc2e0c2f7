"""`aiodurable threads delete THREAD…`: delete threads with everything that is stored of them."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field

import click

from aiodurable.cli.audit import record
from aiodurable.cli.confirm import confirm
from aiodurable.cli.database import dsn_option, open_with_leases
from aiodurable.cli.exit_codes import Exit
from aiodurable.cli.format import quoted
from aiodurable.cli.thread_argument import ThreadId
from aiodurable.errors import WorkflowAlreadyRunningError
from aiodurable.jsonable import json_text
from aiodurable.thread_id import validate_thread_id

__all__ = ["delete"]


@dataclass(frozen=True, slots=True)
class _Report:
    """The threads, by what happened to them."""

    deleted: list[str] = field(default_factory=list[str])
    unknown: list[str] = field(default_factory=list[str])
    running: list[str] = field(default_factory=list[str])

    @property
    def code(self) -> Exit:
        return Exit.ALREADY_RUNNING if self.running else Exit.NOT_FOUND if self.unknown else Exit.OK


@click.command
@click.argument("thread_ids", metavar="THREAD...", nargs=-1, required=True, type=ThreadId())
@click.option("-y", "--yes", is_flag=True, help="Do not ask.")
@dsn_option
@click.option("--json", "as_json", is_flag=True, help="One JSON object.")
def delete(thread_ids: tuple[str, ...], yes: bool, dsn: str | None, as_json: bool) -> None:
    """Delete everything that is stored of each THREAD: checkpoints, runs, inputs, contexts, errors.

    Each thread is one transaction. A running thread is kept, and the others are deleted. Exit code
    4: a thread is running; 3: a thread was not found.
    """
    threads = list(dict.fromkeys(map(validate_thread_id, thread_ids)))
    if not yes:
        _confirm(threads)
    done = asyncio.run(_delete(dsn, threads))
    if as_json:
        click.echo(json_text(asdict(done)))
    else:
        for thread_id in done.deleted:
            click.echo(f"deleted {quoted(thread_id)}")
        for thread_id in done.unknown:
            click.echo(f"not found: {quoted(thread_id)}", err=True)
        for thread_id in done.running:
            click.echo(f"kept {quoted(thread_id)}: it is running", err=True)
    if done.code:
        raise click.exceptions.Exit(done.code)


def _confirm(threads: Sequence[str]) -> None:
    what = f"thread {quoted(threads[0])}" if len(threads) == 1 else f"{len(threads):,} threads"
    confirm(f"Delete {what} for good?")


async def _delete(dsn: str | None, threads: Sequence[str]) -> _Report:
    done = _Report()
    async with open_with_leases(dsn) as durable:
        for thread_id in threads:
            try:
                into = done.deleted if await durable.threads.delete(thread_id) else done.unknown
            except WorkflowAlreadyRunningError:
                into = done.running
            into.append(thread_id)
            if into is done.deleted:
                await record(durable, "threads.delete", thread_id=thread_id)
    return done
