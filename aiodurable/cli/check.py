"""`aiodurable check`: whether new code can resume the unfinished threads, before you deploy it."""

from __future__ import annotations

import asyncio
import gc
import json
from collections import Counter
from typing import TYPE_CHECKING, Any

import click

from aiodurable.cli.app import app_option, load_app
from aiodurable.cli.database import dsn_option
from aiodurable.cli.exit_codes import Exit
from aiodurable.cli.format import one_line, quoted
from aiodurable.cli.thread_filters import status_option, thread_filters
from aiodurable.jsonable import json_text
from aiodurable.models import ThreadStatus

if TYPE_CHECKING:
    from aiodurable.runs.check import ThreadCheck

__all__ = ["check"]

_UNFINISHED = tuple(
    status.value
    for status in ThreadStatus
    if status not in (ThreadStatus.NEW, ThreadStatus.COMPLETE)
)


@click.command
@app_option(required=True)
@click.option(
    "--rename",
    "renames",
    metavar="OLD=NEW",
    multiple=True,
    help=(
        "A renamed node, as in Durable(renamed=…). For one graph only: GRAPH:OLD=NEW. May be given"
        " several times."
    ),
)
@dsn_option
@status_option(_UNFINISHED, "Only these; may be given several times. Default: all but complete.")
@thread_filters("graph", "prefix", "newer_than")
@click.option("--limit", type=click.IntRange(min=1), help="Check at most N. Default: all.")
@click.option(
    "--json",
    "as_json",
    is_flag=True,
    help="One JSON object per line: each thread with a problem, then the totals.",
)
def check(
    app: str,
    renames: tuple[str, ...],
    dsn: str | None,
    statuses: tuple[str, ...],
    filters: dict[str, Any],
    limit: int | None,
    as_json: bool,
) -> None:
    """List the unfinished threads that the graphs of --app cannot resume, and why. For a pipeline,
    before a deploy.

    Exit code 0: all can be resumed; 1: some cannot. Runs no node and builds no stored object.
    """
    filters["status"] = statuses or None
    ok = asyncio.run(_check(app, _renamed(renames), dsn, filters, limit, as_json=as_json))
    if not ok:
        raise click.exceptions.Exit(Exit.FAILED)


def _renamed(renames: tuple[str, ...]) -> dict[str, Any]:
    """The options `--rename` as `Durable(renamed=…)` takes them."""
    found: dict[str, Any] = {}
    for rename in renames:
        old, equals, new = rename.partition("=")
        if not old or not equals or not new:
            raise click.UsageError(f"--rename must be OLD=NEW or GRAPH:OLD=NEW, got {rename!r}")
        of_graph, colon, node = old.partition(":")
        if colon:
            found.setdefault(of_graph, {})[node] = new
        else:
            found[old] = new
    return found


async def _check(
    app: str,
    renamed: dict[str, Any],
    dsn: str | None,
    filters: dict[str, Any],
    limit: int | None,
    *,
    as_json: bool,
) -> bool:
    found = await load_app(app)
    # Modules stay loaded: keep the garbage collector from scanning them every few hundred threads.
    gc.freeze()
    checked, kinds, bad = 0, Counter[str](), 0
    async with found.read_only(dsn, renamed) as durable:
        async for thread in durable.threads.check(
            default_graph=found.graph, limit=limit, **filters
        ):
            checked += 1
            bad += bool(thread.problems)
            kinds.update(problem.kind.value for problem in thread.problems)
            if thread.problems:
                click.echo(_json(thread) if as_json else _line(thread))
    if as_json:
        click.echo(
            json.dumps(
                {"checked": checked, "with_problems": bad, "problems": dict(sorted(kinds.items()))}
            )
        )
    else:
        click.echo(_totals(checked, bad, kinds))
    return not bad


def _json(thread: ThreadCheck) -> str:
    problems = [{"kind": p.kind.value, "name": p.name, "detail": p.detail} for p in thread.problems]
    return json_text(
        {
            "thread_id": thread.thread_id,
            "status": thread.status,
            "graph": thread.graph,
            "problems": problems,
        }
    )


def _line(thread: ThreadCheck) -> str:
    whats = "; ".join(map(str, thread.problems))
    return (
        f"{quoted(thread.thread_id)}  {thread.status}  {quoted(thread.graph or '-')} "
        f" {one_line(whats)}"
    )


def _totals(checked: int, bad: int, kinds: Counter[str]) -> str:
    threads = "1 unfinished thread" if checked == 1 else f"{checked} unfinished threads"
    if not bad:
        return f"{threads}: all can be resumed"
    whats = ", ".join(f"{count} {kind}" for kind, count in sorted(kinds.items()))
    return f"{threads}: {bad} cannot be resumed ({whats})"
