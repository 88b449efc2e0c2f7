"""`aiodurable threads cancel THREAD`: end the running run of a thread, in any process."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

import click

from aiodurable.cli.audit import record
from aiodurable.cli.database import dsn_option, open_with_leases
from aiodurable.cli.durations import Duration
from aiodurable.cli.exit_codes import Exit
from aiodurable.cli.format import quoted
from aiodurable.cli.thread_argument import thread_argument

if TYPE_CHECKING:
    from datetime import timedelta

__all__ = ["cancel"]


@click.command
@thread_argument
@dsn_option
@click.option("--wait", is_flag=True, help="Wait until the run has ended.")
@click.option("--timeout", type=Duration(), metavar="AGE", help="With --wait: wait this long.")
@click.pass_context
def cancel(
    ctx: click.Context, thread_id: str, dsn: str | None, wait: bool, timeout: timedelta | None
) -> None:
    """End the running run of THREAD, in any process. The thread is then paused until a person
    resumes it. Exit code 1: no run is running.
    """
    if timeout is not None and not wait:
        raise click.UsageError("--timeout needs --wait")
    if asyncio.run(
        _cancel(thread_id, dsn, wait, None if timeout is None else timeout.total_seconds())
    ):
        click.echo(f"{'cancelled' if wait else 'cancelling'}: {quoted(thread_id)}")
    else:
        click.echo(f"no run of {quoted(thread_id)} is running", err=True)
        ctx.exit(Exit.FAILED)


async def _cancel(thread_id: str, dsn: str | None, wait: bool, timeout: float | None) -> bool:
    async with open_with_leases(dsn) as durable:
        cancelled = await durable.threads.cancel(thread_id, wait=wait, timeout=timeout)
        if cancelled:
            await record(durable, "threads.cancel", thread_id=thread_id)
        return cancelled
