"""`aiodurable stats`: the numbers of a database once, as text or JSON."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass
from typing import TYPE_CHECKING

import click

from aiodurable.cli.database import dsn_option, open_read_only
from aiodurable.jsonable import json_text

if TYPE_CHECKING:
    from aiodurable.insights import (
        Insights,
        Latencies,
        Overview,
        QueueInsight,
        Throughput,
        WorkerInsight,
    )

__all__ = ["Numbers", "numbers", "stats"]


@dataclass(frozen=True, slots=True)
class Numbers:
    """What `stats` and `top` show."""

    overview: Overview
    throughput: Throughput
    latencies: list[Latencies]
    queues: list[QueueInsight]
    workers: list[WorkerInsight]


@click.command
@click.option(
    "--minutes",
    type=click.FloatRange(min=0, min_open=True, max=100_000),
    default=60,
    show_default=True,
    help="How far back throughput and times look.",
)
@dsn_option
@click.option("--json", "as_json", is_flag=True, help="One JSON object.")
def stats(dsn: str | None, minutes: float, as_json: bool) -> None:
    """Show what the database is doing: threads, runs, queues, workers, and how long runs take.

    Counts stop at 10,000 (+); threads of a large database are estimated (~).
    """
    found = asyncio.run(_read(dsn, minutes))
    if as_json:
        click.echo(json_text(found))
        return
    from rich.console import Console  # noqa: PLC0415 - 0.1 s, which --help saves

    from aiodurable.cli.numbers_view import view  # noqa: PLC0415 - as above

    Console().print(view(found))


async def numbers(insights: Insights, minutes: float) -> Numbers:
    """Read all of them."""
    overview, queues = await insights.overview_and_queues()
    return Numbers(
        overview,
        await insights.throughput(minutes),
        await insights.latencies(minutes),
        queues,
        await insights.workers(),
    )


async def _read(dsn: str | None, minutes: float) -> Numbers:
    async with open_read_only(dsn) as durable:
        return await numbers(durable.insights, minutes)
