"""`aiodurable queues …`: what waits in each queue, and its limits."""

from __future__ import annotations

import asyncio
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

import click

from aiodurable.cli.audit import record
from aiodurable.cli.database import dsn_option, open_read_only
from aiodurable.cli.format import quoted
from aiodurable.jsonable import json_text

if TYPE_CHECKING:
    from aiodurable.queue import QueueStatus

__all__ = ["queues"]


@click.group
def queues() -> None:
    """The queues in which runs wait for workers."""


@queues.command("list", short_help="List the queues.")
@click.option("--json", "as_json", is_flag=True, help="One JSON object per line.")
@dsn_option
def list_queues(dsn: str | None, as_json: bool) -> None:
    """List the queues that have runs or limits."""
    found = asyncio.run(_call(dsn, "list"))
    for queue in found:
        click.echo(_json_of(queue) if as_json else _line(queue))
    if not found and not as_json:
        click.echo("no queues found")


@queues.command(short_help="Begin no run of a queue any more.")
@click.argument("queue")
@dsn_option
def pause(dsn: str | None, queue: str) -> None:
    """Begin no run of QUEUE any more, in any worker. Runs at work go on."""
    _change("pause", dsn, queue)


@queues.command(short_help="Begin the runs of a paused queue again.")
@click.argument("queue")
@dsn_option
def resume(dsn: str | None, queue: str) -> None:
    """Begin the runs of QUEUE again."""
    _change("resume", dsn, queue)


@queues.command(short_help="Set the limits of a queue.")
@click.argument("queue")
@click.option("--max-running", type=int, metavar="N", help="Runs at work at once.")
@click.option("--max-running-per-key", type=int, metavar="N", help="For each concurrency key.")
@click.option("--rate", type=float, metavar="N", help="Runs begun a second.")
@click.option("--burst", type=int, metavar="N", help="Runs begun at once after a quiet time.")
@dsn_option
def scale(dsn: str | None, queue: str, **limits: Any) -> None:
    """Set all limits of QUEUE, for all workers together; a limit that is left out is removed."""
    _change("scale", dsn, queue, **limits)


def _change(verb: str, dsn: str | None, queue: str, **limits: Any) -> None:
    asyncio.run(_call(dsn, verb, queue, **limits))
    click.echo(f"{verb.removesuffix('e')}ed: {quoted(queue)}")


async def _call(dsn: str | None, method: str, *args: Any, **options: Any) -> Any:
    async with open_read_only(dsn) as durable:
        found = await getattr(durable.queues, method)(*args, **options)
        if method != "list":
            await record(durable, f"queues.{method}", queue=args[0], **options)
        return found


def _line(queue: QueueStatus) -> str:
    limits = ", ".join(
        f"{name} {value:g}"
        for name in ("max_running", "max_running_per_key", "rate", "burst")
        if (value := getattr(queue, name)) is not None
    )
    counts = ", ".join(
        f"{count} {name}"
        for name in ("ready", "running", "scheduled", "blocked", "limited")
        if (count := getattr(queue, name))
    )
    parts = (quoted(queue.name), "paused" if queue.paused else "", counts or "empty", limits)
    return "  ".join(filter(None, parts))


def _json_of(queue: QueueStatus) -> str:
    fields = asdict(queue)
    oldest = queue.oldest_ready_at
    return json_text({**fields, "oldest_ready_at": oldest and oldest.isoformat()})
