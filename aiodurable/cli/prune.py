"""`aiodurable threads prune`: remove old checkpoints and runs, in batches that give way to live
traffic.
"""

from __future__ import annotations

import asyncio
from dataclasses import asdict
from datetime import timedelta
from typing import TYPE_CHECKING, Any

import click

from aiodurable.byte_size import byte_size
from aiodurable.cli.audit import record
from aiodurable.cli.confirm import confirm
from aiodurable.cli.database import dsn_option, open_with_leases
from aiodurable.cli.durations import Duration
from aiodurable.cli.format import age, quoted
from aiodurable.cli.progress import shown_progress
from aiodurable.cli.thread_filters import status_option, thread_filters
from aiodurable.jsonable import json_text
from aiodurable.models import PRUNE_BATCH_SIZE, PRUNE_DUTY_CYCLE, ThreadStatus

if TYPE_CHECKING:
    from aiodurable.threads import PruneReport

__all__ = ["prune"]

_PRUNABLE = tuple(s.value for s in ThreadStatus if s.value not in ("new", "running", "queued"))
_NAMED = 5


@click.command
@click.option(
    "--older-than",
    type=Duration(),
    metavar="AGE",
    required=True,
    help="Not written to for this long: 12h, 30d.",
)
@click.option(
    "--strategy",
    type=click.Choice(["keep_latest", "delete"]),
    default="keep_latest",
    show_default=True,
    help=(
        "keep_latest: keep the newest checkpoint of each thread. delete: remove the thread and its"
        " runs."
    ),
)
@status_option(_PRUNABLE, "Only these threads; may be given several times.", default=("complete",))
@thread_filters("graph")
@click.option(
    "--batch-size",
    type=click.IntRange(1, 10_000),
    default=PRUNE_BATCH_SIZE,
    show_default=True,
    help="Threads per transaction, at most.",
)
@click.option(
    "--duty-cycle",
    type=click.FloatRange(0, 1, min_open=True),
    default=PRUNE_DUTY_CYCLE,
    show_default=True,
    metavar="PART",
    help="The part of the time spent working; the rest is left to live traffic.",
)
@click.option("--dry-run", is_flag=True, help="Show what would be removed; remove nothing.")
@click.option("-y", "--yes", is_flag=True, help="Do not ask.")
@dsn_option
@click.option("--json", "as_json", is_flag=True, help="One JSON object.")
def prune(
    older_than: timedelta,
    strategy: str,
    statuses: tuple[str, ...],
    filters: dict[str, Any],
    batch_size: int,
    duty_cycle: float,
    dry_run: bool,
    yes: bool,
    dsn: str | None,
    as_json: bool,
) -> None:
    """Remove old checkpoints, and old runs from the ledger. Skips threads that are leased or go on
    meanwhile.

    Stopping at any moment is safe; the next call continues with what is left.
    """
    if not dry_run and not yes:
        _confirm(strategy, statuses, older_than, filters["graph"])
    options: dict[str, Any] = {
        "older_than": older_than,
        "strategy": strategy,
        "status": statuses,
        "batch_size": batch_size,
        "duty_cycle": duty_cycle,
        "dry_run": dry_run,
        **filters,
    }
    pruned = asyncio.run(_prune(dsn, options))
    if as_json:
        click.echo(json_text({"dry_run": dry_run, **asdict(pruned)}))
        return
    click.echo(f"{'would prune' if dry_run else 'pruned'} {_words(pruned)}")
    if pruned.skipped:
        click.echo(f"{pruned.skipped:,} skipped: they were in use, or had gone on")
    if unprunable := pruned.unprunable:
        named = ", ".join(map(quoted, unprunable[:_NAMED])) + (
            ", …" if len(unprunable) > _NAMED else ""
        )
        why = "they need their history (DeltaChannel, old format) or cannot be read"
        click.echo(f"{len(unprunable):,} skipped: {why}: {named}")


def _confirm(
    strategy: str, statuses: tuple[str, ...], older_than: timedelta, graph: str | None
) -> None:
    what = "all but the latest checkpoint" if strategy == "keep_latest" else "everything"
    of = f" of graph {quoted(graph)}" if graph else ""
    confirm(
        f"Remove {what} of {' and '.join(statuses)} threads{of} older than {age(older_than)}?",
        otherwise=", or --dry-run to remove nothing",
    )


async def _prune(dsn: str | None, options: dict[str, Any]) -> PruneReport:
    async with open_with_leases(dsn) as durable:
        with shown_progress() as progress:

            def report(pruned: PruneReport) -> None:
                progress(f"{pruned.scanned:,} scanned, {_words(pruned)}", pruned.progress or None)

            pruned = await durable.threads.prune(**options, progress=report)
        if not options["dry_run"]:
            await record(durable, "threads.prune", threads=pruned.threads, runs=pruned.runs)
        return pruned


def _words(pruned: PruneReport) -> str:
    runs = f", {pruned.runs:,} runs of the ledger" if pruned.runs else ""
    return f"{pruned.threads:,} threads, {pruned.rows:,} rows{runs}, {byte_size(pruned.bytes)}"
