"""`aiodurable verify`: whether what is stored is what must be."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any

import click

from aiodurable.cli.advice import with_commands
from aiodurable.cli.database import dsn_option, open_read_only
from aiodurable.cli.exit_codes import Exit
from aiodurable.cli.format import one_line, quoted, shell_word
from aiodurable.cli.progress import shown_progress

if TYPE_CHECKING:
    from aiodurable.threads.findings import Finding
    from aiodurable.threads.verify import VerifyProgress

__all__ = ["verify"]


@click.command
@click.option(
    "--from-thread", metavar="THREAD", help="Go on after this thread, the last one of a run before."
)
@click.option("--limit", type=click.IntRange(min=1), help="At most N threads. Default: all.")
@click.option(
    "--batch",
    type=click.IntRange(1, 10_000),
    default=500,
    show_default=True,
    help="Threads of one transaction.",
)
@click.option(
    "--threads-per-second",
    type=click.FloatRange(min=0.001),
    help="No more than N: leaves the database to others. Default: as fast as it answers.",
)
@dsn_option
@click.option(
    "--json", "as_json", is_flag=True, help="One JSON object per finding, then the totals."
)
def verify(
    from_thread: str | None,
    limit: int | None,
    batch: int,
    threads_per_second: float | None,
    dsn: str | None,
    as_json: bool,
) -> None:
    """Compare what is stored with what must be: one line of checkpoints for each thread, no gaps,
    no lost values, tokens and results, nothing stuck. Says of each finding what it means and what
    to do.

    Only reads, in short transactions, also on a standby. Exit code 0: nothing found; 1: findings.
    """
    options: dict[str, Any] = {
        "after": from_thread,
        "limit": limit,
        "batch_size": batch,
        "threads_per_second": threads_per_second,
    }
    if asyncio.run(_verify(options, dsn, as_json=as_json)):
        raise click.exceptions.Exit(Exit.FAILED)


async def _verify(options: dict[str, Any], dsn: str | None, *, as_json: bool) -> int:
    """Print the findings; how many there are."""
    from aiodurable.jsonable import json_text  # noqa: PLC0415 - loads LangGraph's types

    findings = 0
    at: VerifyProgress | None = None
    with shown_progress() as show:

        def progress(now: VerifyProgress) -> None:
            nonlocal at
            at = now
            show(
                f"{now.threads:,} threads, {now.threads_per_second:,.0f} a second,"
                f" {now.findings:,} findings, last {quoted(now.last_thread_id or '-')}"
            )

        async with open_read_only(dsn) as durable:
            ended = False
            try:
                async for one in durable.threads.verify(progress=progress, **options):
                    findings += 1
                    click.echo(json_text(one) if as_json else _lines(one))
                ended = at is None or at.threads != options["limit"]
            finally:
                if not ended and at is not None and at.last_thread_id is not None:
                    last = shell_word(at.last_thread_id)
                    click.echo(f"to go on after this: --from-thread {last}", err=True)
    totals = {
        "threads": 0 if at is None else at.threads,
        "findings": findings,
        "last_thread_id": None if at is None else at.last_thread_id,
        "threads_per_second": 0 if at is None else round(at.threads_per_second, 1),
    }
    click.echo(json_text(totals) if as_json else _totals(totals))
    return findings


def _lines(one: Finding) -> str:
    where = "schedule" if one.thread_id is None else quoted(one.thread_id)
    return "\n".join(
        (
            f"{where}  {one.kind}  {one_line(one.what)}",
            f"    matters: {one.why_it_matters}",
            f"    do: {with_commands(one.what_to_do)}",
        )
    )


def _totals(totals: dict[str, Any]) -> str:
    number = totals["findings"]
    found = f"{number:,} finding{'' if number == 1 else 's'}" if number else "nothing found"
    return f"{totals['threads']:,} threads, {totals['threads_per_second']:,} a second: {found}"
