"""`aiodurable threads resume-many`: resume the threads that may go on without a person."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any

import click

from aiodurable.cli.advice import with_commands
from aiodurable.cli.app import app_option, load_app
from aiodurable.cli.audit import record
from aiodurable.cli.confirm import confirm
from aiodurable.cli.database import dsn_option
from aiodurable.cli.exit_codes import Exit
from aiodurable.cli.format import one_line, quoted
from aiodurable.cli.progress import shown_progress
from aiodurable.cli.thread_filters import status_option, thread_filters
from aiodurable.errors import AiodurableError
from aiodurable.jsonable import json_text
from aiodurable.models import ThreadStatus

if TYPE_CHECKING:
    from aiodurable.queue import ResumeReport

__all__ = ["resume_many"]

_RESUMABLE = tuple(s.value for s in (ThreadStatus.CRASHED, ThreadStatus.FAILED))


@click.command("resume-many")
@app_option(required=True)
@click.option(
    "--default-graph", metavar="NAME", help="The graph of threads for which none is recorded."
)
@status_option(
    _RESUMABLE,
    "Only these; crashed: also what plain LangGraph left behind. Default: all that may go on.",
)
@thread_filters("graph", "error", "prefix", "older_than", "newer_than")
@click.option("--limit", type=click.IntRange(min=1), help="At most N threads. Default: all.")
@click.option(
    "--concurrency",
    type=click.IntRange(min=1),
    default=10,
    show_default=True,
    help="How many threads at a time.",
)
@click.option("--dry-run", is_flag=True, help="List the threads; resume none.")
@click.option("-y", "--yes", is_flag=True, help="Do not ask.")
@dsn_option
@click.option("--json", "as_json", is_flag=True, help="One JSON object.")
def resume_many(
    app: str,
    default_graph: str | None,
    statuses: tuple[str, ...],
    filters: dict[str, Any],
    limit: int | None,
    concurrency: int,
    dry_run: bool,
    yes: bool,
    dsn: str | None,
    as_json: bool,
) -> None:
    """Resume in this process the threads that may go on without a person: crashed, failed and
    drained ones. Leaves alone what asks, what was stopped on purpose, and what is quarantined.

    Stopping at any moment is safe; the next call continues with what is left. Exit code 1: a thread
    failed again.
    """
    if not dry_run and not yes:
        confirm(
            "Resume every thread that passes the filters, here?",
            otherwise=", or --dry-run to resume nothing",
        )
    filters["status"] = statuses or None
    options = {"concurrency": concurrency, "dry_run": dry_run, "limit": limit}
    report = asyncio.run(_resume(app, dsn, default_graph, {**filters, **options}))
    if as_json:
        failed = {name: f"{type(e).__name__}: {e}" for name, e in report.failed.items()}
        click.echo(json_text({"dry_run": dry_run, "resumed": report.resumed, "failed": failed}))
    else:
        _print(report, dry_run=dry_run)
    if report.failed:
        raise click.exceptions.Exit(Exit.FAILED)


async def _resume(
    name: str, dsn: str | None, default_graph: str | None, options: dict[str, Any]
) -> ResumeReport:
    app = await load_app(name)
    default = app.graph if default_graph is None else default_graph
    async with app.opened(dsn) as durable:
        with shown_progress() as progress:
            report = await durable.runs.resume_many(
                default_graph=default,
                progress=lambda resumed, failed: progress(
                    f"{resumed:,} resumed, {failed:,} failed"
                ),
                **options,
            )
        if not options["dry_run"]:
            resumed, failed = len(report.resumed), len(report.failed)
            await record(durable, "threads.resume_many", resumed=resumed, failed=failed)
        return report


def _print(report: ResumeReport, *, dry_run: bool) -> None:
    if dry_run:
        for thread_id in report.resumed:
            click.echo(f"would resume {quoted(thread_id)}")
    for thread_id, error in sorted(report.failed.items()):
        said = one_line(
            with_commands(str(error)) if isinstance(error, AiodurableError) else str(error)
        )
        click.echo(f"{quoted(thread_id)}: {type(error).__name__}: {said}", err=True)
    click.echo(
        f"{len(report.resumed):,} {'would be resumed' if dry_run else 'resumed'},"
        f" {len(report.failed):,} failed"
    )
