"""`aiodurable threads signal THREAD NAME VALUE`: send a signal that a node waits for."""

from __future__ import annotations

import asyncio
import json
from typing import Any

import click

from aiodurable.cli.audit import record
from aiodurable.cli.database import dsn_option, open_with_leases
from aiodurable.cli.format import quoted
from aiodurable.cli.thread_argument import thread_argument

__all__ = ["signal"]


@click.command
@thread_argument
@click.argument("name", metavar="NAME")
@click.argument("value", metavar="[VALUE]", default="null")
@click.option(
    "--id", "signal_id", metavar="ID", help="Of a sender that may send it twice: it comes once."
)
@dsn_option
def signal(thread_id: str, name: str, value: str, signal_id: str | None, dsn: str | None) -> None:
    """Send the signal NAME to THREAD: a node takes VALUE with `wait_for(NAME)`.

    VALUE is JSON, null by default. A signal that nobody waits for is kept, also for a thread that
    does not exist yet. Prints `sent`, or that one with this ID was sent before.
    """
    try:
        sent = json.loads(value)
    except ValueError as error:
        raise click.UsageError(
            f'VALUE must be JSON, such as true or \'{{"by": "Ada"}}\' or \'"text"\': {error}'
        ) from error
    new = asyncio.run(_send(thread_id, name, sent, signal_id, dsn))
    click.echo(f"{'sent' if new else 'was sent before'}: {quoted(name)} to {quoted(thread_id)}")


async def _send(
    thread_id: str, name: str, value: Any, signal_id: str | None, dsn: str | None
) -> bool:
    async with open_with_leases(dsn) as durable:
        sent = await durable.threads.signal(thread_id, name, value, signal_id=signal_id)
        if sent:
            await record(durable, "threads.signal", thread_id=thread_id, name=name)
        return sent
