"""`aiodurable runs …`: accept runs for workers, look at them, wait for them, cancel and retry
them.
"""

from __future__ import annotations

import asyncio
import json
from datetime import timedelta
from typing import Any

import click

from aiodurable.cli.advice import stored_with_commands
from aiodurable.cli.app import app_option, load_app
from aiodurable.cli.audit import record
from aiodurable.cli.create_many import create_many
from aiodurable.cli.database import dsn_option, open_read_only, open_with_leases
from aiodurable.cli.durations import Duration
from aiodurable.cli.exit_codes import FailedCommand
from aiodurable.cli.format import lines, one_line, quoted, shell_word
from aiodurable.cli.thread_argument import thread_argument
from aiodurable.jsonable import json_text
from aiodurable.models import ClaimState, RunRecord, RunStatus

__all__ = ["runs"]

_json_option = click.option("--json", "as_json", is_flag=True, help="One JSON object per line.")


@click.group
def runs() -> None:
    """Runs that workers begin, and those that `durable.run` began."""


runs.add_command(create_many)


@runs.command(short_help="Accept a run.")
@thread_argument
@click.argument("graph")
@click.option("--input", "given", required=True, metavar="JSON", help="The graph's input.")
@click.option("--run-id", metavar="ID", help="Names the run: the same again is the same run.")
@click.option("--queue", default="default", show_default=True, help="Where it waits.")
@click.option("--priority", type=int, default=0, help="Higher ones go first.")
@click.option("--after", type=Duration(), metavar="AGE", help="Not before: 90s, 15m, 2h, 7d.")
@click.option(
    "--on-busy",
    type=click.Choice(("enqueue", "reject", "interrupt", "rollback")),
    default="enqueue",
    show_default=True,
    help="If the thread has a run that is not over.",
)
@click.option("--dedup-key", metavar="KEY", help="At most one run that is not over has it.")
@_json_option
@dsn_option
def create(dsn: str | None, as_json: bool, given: str, **options: Any) -> None:
    """Accept a run of GRAPH on THREAD; a worker begins it. Prints its run_id."""
    try:
        options["input"] = json.loads(given)
    except ValueError as error:
        raise click.UsageError(f"--input is no JSON: {error}") from error

    async def accepted() -> RunRecord:
        async with open_read_only(dsn) as durable:
            return await durable.runs.create(**options)

    run = asyncio.run(accepted())
    click.echo(_json_of(run) if as_json else quoted(run.run_id))


@runs.command("list", short_help="List runs.")
@click.option(
    "-s",
    "--status",
    multiple=True,
    type=click.Choice([status.value for status in RunStatus]),
    help="Only these statuses.",
)
@click.option(
    "--claim-state",
    multiple=True,
    type=click.Choice([state.value for state in ClaimState]),
    help="Only these states.",
)
@click.option("--thread", "thread_id", metavar="THREAD", help="Only runs of this thread.")
@click.option("--graph", help="Only runs of this graph.")
@click.option("--queue", help="Only runs of this queue.")
@click.option("--older-than", type=Duration(), metavar="AGE", help="Accepted before.")
@click.option("--newer-than", type=Duration(), metavar="AGE", help="Accepted since.")
@click.option("--after", metavar="RUN", help="Only runs after this one.")
@click.option("--limit", type=click.IntRange(min=1), default=100, show_default=True)
@_json_option
@dsn_option
def list_runs(dsn: str | None, as_json: bool, **options: Any) -> None:
    """List runs by run_id: those that this library named are in order of acceptance."""
    filters = {name: value for name, value in options.items() if value not in (None, ())}

    async def found() -> Any:
        async with open_read_only(dsn) as durable:
            return await durable.runs.list(**filters)

    some, after = asyncio.run(found())
    for run in some:
        click.echo(_json_of(run) if as_json else _line(run))
    if not some and not as_json:
        click.echo("no runs found")
    if after is not None:
        click.echo(f"there are more: --after {shell_word(after)}", err=True)


@runs.command(short_help="Show a run.")
@click.argument("run_id", metavar="RUN")
@_json_option
@dsn_option
def show(dsn: str | None, run_id: str, as_json: bool) -> None:
    """Show RUN with its attempts. Exit code 3: there is none."""

    async def found() -> RunRecord:
        async with open_read_only(dsn) as durable:
            return await durable.runs.get(run_id)

    _print(asyncio.run(found()), as_json=as_json)


@runs.command(short_help="Wait until a run is over.")
@click.argument("run_id", metavar="RUN")
@click.option("--timeout", type=Duration(), metavar="AGE", help="Wait this long at most.")
@app_option()
@_json_option
@dsn_option
def wait(
    dsn: str | None, run_id: str, timeout: timedelta | None, app: str | None, as_json: bool
) -> None:
    """Wait until RUN is over, and show it; with --app print its result instead. Exit code 1: it
    has none, or was not over in time.
    """
    seconds = None if timeout is None else timeout.total_seconds()

    async def over() -> RunRecord:
        async with open_read_only(dsn) as durable:
            return await durable.runs.wait_first([run_id], timeout=seconds)

    async def result(app: str) -> Any:
        async with (await load_app(app)).read_only(dsn, {}) as durable:
            return await durable.runs.wait(run_id, timeout=seconds)

    if app is not None:
        click.echo(json_text(asyncio.run(result(app))))
        return
    run = asyncio.run(over())
    _print(run, as_json=as_json)
    if run.status is not RunStatus.COMPLETE:
        raise FailedCommand(f"run {quoted(run_id)} is {run.status}")


@runs.command(short_help="Cancel a run.")
@click.argument("run_id", metavar="RUN")
@click.option("--wait", "until", is_flag=True, help="Wait until a run at work has ended.")
@click.option("--timeout", type=Duration(), metavar="AGE", help="With --wait: wait this long.")
@_json_option
@dsn_option
def cancel(
    dsn: str | None, run_id: str, until: bool, timeout: timedelta | None, as_json: bool
) -> None:
    """Cancel RUN, wherever it waits or works, and show it."""
    if timeout is not None and not until:
        raise click.UsageError("--timeout needs --wait")
    seconds = None if timeout is None else timeout.total_seconds()

    async def cancelled() -> RunRecord:
        async with open_with_leases(dsn) as durable:
            run = await durable.runs.cancel(run_id, wait=until, timeout=seconds)
            await record(durable, "runs.cancel", thread_id=run.thread_id, run_id=run_id)
            return run

    run = asyncio.run(cancelled())
    _print(run, as_json=as_json)
    if run.status in (RunStatus.COMPLETE, RunStatus.QUARANTINED):
        click.echo(f"nothing to cancel: run {quoted(run_id)} is {run.status}", err=True)


@runs.command(short_help="Let a worker begin a run again.")
@click.argument("run_id", metavar="RUN")
@_json_option
@dsn_option
def retry(dsn: str | None, run_id: str, as_json: bool) -> None:
    """Let a worker begin RUN again, which failed, was quarantined or was cancelled."""

    async def again() -> RunRecord:
        async with open_read_only(dsn) as durable:
            run = await durable.runs.retry(run_id)
            await record(durable, "runs.retry", thread_id=run.thread_id, run_id=run_id)
            return run

    _print(asyncio.run(again()), as_json=as_json)


def _print(run: RunRecord, *, as_json: bool) -> None:
    if as_json:
        click.echo(_json_of(run))
        return
    click.echo(_line(run))
    for attempt in run.earlier_attempts:
        error = one_line(stored_with_commands(attempt.error or ""))
        click.echo(f"  earlier: {attempt.outcome}  {error}".rstrip())
    if run.error:
        click.echo(f"  error: {one_line(stored_with_commands(run.error))}")
    if run.traceback:
        click.echo(lines(run.traceback))


def _line(run: RunRecord) -> str:
    state = "" if run.claim_state is None else f" ({run.claim_state})"
    where = "" if run.queue is None else f"  queue {quoted(run.queue)}"
    tries = f"  attempt {run.attempts}" if run.attempts else ""
    reason = "" if run.reason is None else f"  {one_line(run.reason)}"
    return (
        f"{quoted(run.run_id)}  {run.status}{state}  thread {quoted(run.thread_id)}"
        f"  graph {quoted(run.graph or '')}{where}{tries}{reason}"
    )


def _json_of(run: RunRecord) -> str:
    fields = {name: getattr(run, name) for name in RunRecord.__dataclass_fields__}
    fields["earlier_attempts"] = [
        {name: _plain(getattr(attempt, name)) for name in type(attempt).__dataclass_fields__}
        for attempt in run.earlier_attempts
    ]
    return json_text({name: _plain(value) for name, value in fields.items()})


def _plain(value: Any) -> Any:
    return value.isoformat() if hasattr(value, "isoformat") else value
