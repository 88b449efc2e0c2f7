"""`aiodurable cancel THREAD`: end the run that is at work, wherever that is."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

import click

from aiodurable.cli.database import changing, dsn_option
from aiodurable.cli.durations import Duration
from aiodurable.cli.exit_codes import Exit
from aiodurable.cli.format import quoted

if TYPE_CHECKING:
    from datetime import timedelta

__all__ = ["cancel"]


@click.command(short_help="End the run that is at work on a thread.")
@click.argument("thread_id", metavar="THREAD")
@dsn_option
@click.option("--wait", is_flag=True, help="Return only when the run has ended.")
@click.option("--timeout", type=Duration(), metavar="AGE", help="With --wait: at most so long.")
@click.pass_context
def cancel(
    ctx: click.Context, thread_id: str, dsn: str | None, wait: bool, timeout: timedelta | None
) -> None:
    """End the run that is at work on THREAD, in whichever process; the thread is then paused, and
    nobody but a person goes on with it. Exit code 1: there was no run at work.
    """
    if timeout is not None and not wait:
        raise click.UsageError("--timeout needs --wait")
    if asyncio.run(
        _cancel(thread_id, dsn, wait, None if timeout is None else timeout.total_seconds())
    ):
        click.echo(f"{'cancelled' if wait else 'to be cancelled'}: {quoted(thread_id)}")
    else:
        click.echo(f"no run is at work on {quoted(thread_id)}", err=True)
        ctx.exit(Exit.FAILED)


async def _cancel(thread_id: str, dsn: str | None, wait: bool, timeout: float | None) -> bool:
    async with changing(dsn) as durable:
        return await durable.threads.cancel(thread_id, wait=wait, timeout=timeout)
