"""`aiodurable schedules …`: runs that workers accept at their times."""

from __future__ import annotations

import asyncio
import json
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any

import click

from aiodurable.cli.audit import record
from aiodurable.cli.database import dsn_option, open_read_only
from aiodurable.cli.durations import Duration
from aiodurable.cli.format import one_line, quoted, shell_word
from aiodurable.jsonable import json_text

if TYPE_CHECKING:
    from aiodurable.queue import Schedule

__all__ = ["schedules"]

_json_option = click.option("--json", "as_json", is_flag=True, help="One JSON object per line.")
_note_option = click.option("--note", metavar="TEXT", help="Why.")
_id_argument = click.argument("schedule_id", metavar="SCHEDULE")


class _Moment(click.ParamType):  # pyright: ignore[reportMissingTypeArgument]  # generic only in newer clicks
    """A click type: a moment in ISO 8601; without an offset it is of UTC."""

    name = "moment"

    def convert(
        self, value: str | datetime, param: click.Parameter | None, ctx: click.Context | None
    ) -> datetime:
        if isinstance(value, datetime):
            return value
        try:
            moment = datetime.fromisoformat(value)
        except ValueError:
            self.fail(f"must be a moment such as 2026-11-28T07:30Z, got {value!r}", param, ctx)
        return moment.replace(tzinfo=UTC) if moment.tzinfo is None else moment


@click.group
def schedules() -> None:
    """The schedules, whose runs workers accept at their times."""


@schedules.command(short_help="Create a schedule.")
@_id_argument
@click.argument("graph")
@click.option("--input", "given", required=True, metavar="JSON", help="The input of each run.")
@click.option("--cron", metavar="EXPRESSION", help="Five fields, or @daily and the like.")
@click.option("--time-zone", default="UTC", show_default=True, help="Of --cron.")
@click.option("--every", type=Duration(), metavar="AGE", help="An interval: 90s, 15m, 2h, 7d.")
@click.option("--at", type=_Moment(), metavar="MOMENT", help="Once, such as 2026-11-28T07:30Z.")
@click.option("--thread", "thread_id", metavar="THREAD", help="One thread for all runs.")
@click.option("--jitter", type=Duration(), metavar="AGE", default="0s", help="Up to so much later.")
@click.option(
    "--catch-up",
    type=Duration(),
    metavar="AGE",
    default="1d",
    show_default=True,
    help="How old a missed slot may be and still fire.",
)
@click.option("--catch-up-all", is_flag=True, help="Each of several missed slots, not the last.")
@click.option("--starts-at", type=_Moment(), metavar="MOMENT", help="No slot is earlier.")
@click.option("--ends-at", type=_Moment(), metavar="MOMENT", help="No slot is later.")
@click.option(
    "--on-busy",
    default="enqueue",
    show_default=True,
    help="If the thread has a run that is not over; reject skips the slot.",
)
@click.option("--queue", default="default", show_default=True, help="Where the runs wait.")
@click.option("--priority", type=int, default=0, help="Higher ones go first.")
@click.option(
    "--pause-on-failure", type=int, default=0, metavar="N", help="After N failed runs in a row."
)
@click.option("--replace", is_flag=True, help="Change a schedule of another definition.")
@_json_option
@dsn_option
def create(dsn: str | None, as_json: bool, given: str, **options: Any) -> None:
    """Create SCHEDULE, whose runs are of GRAPH. The same again changes nothing."""
    try:
        options["input"] = json.loads(given)
    except ValueError as error:
        raise click.UsageError(f"--input is no JSON: {error}") from error
    _print(asyncio.run(_call(dsn, "create", **options)), as_json=as_json)


@schedules.command("list", short_help="List the schedules.")
@click.option("--graph", help="Only those of this graph.")
@click.option("--paused/--not-paused", default=None, help="Only those that are, or are not.")
@click.option("--after", metavar="SCHEDULE", help="Only schedules after this one.")
@click.option("--limit", type=click.IntRange(min=1), default=100, show_default=True)
@_json_option
@dsn_option
def list_schedules(dsn: str | None, as_json: bool, **options: Any) -> None:
    """List the schedules by name, with their next slots."""
    some, after = asyncio.run(_call(dsn, "list", **options))
    for schedule in some:
        _print(schedule, as_json=as_json)
    if not some and not as_json:
        click.echo("no schedules found")
    if after is not None:
        click.echo(f"there are more: --after {shell_word(after)}", err=True)


@schedules.command(short_help="Show a schedule and its next slots.")
@_id_argument
@click.option("--next", "n", type=click.IntRange(min=1, max=1000), default=5, show_default=True)
@_json_option
@dsn_option
def show(dsn: str | None, schedule_id: str, n: int, as_json: bool) -> None:
    """Show SCHEDULE and its next slots. Exit code 3: there is none."""

    async def found() -> tuple[Schedule, tuple[datetime, ...]]:
        async with open_read_only(dsn) as durable:
            return await durable.schedules.get(schedule_id), await durable.schedules.next_times(
                schedule_id, n
            )

    schedule, times = asyncio.run(found())
    _print(schedule, as_json=as_json)
    if not as_json:
        for at in times:
            click.echo(f"  next: {at.isoformat()}")


@schedules.command(short_help="Fire no slot of a schedule any more.")
@_id_argument
@_note_option
@dsn_option
def pause(dsn: str | None, schedule_id: str, note: str | None) -> None:
    """Fire no slot of SCHEDULE until it is resumed. Runs that were accepted go on."""
    _print(asyncio.run(_call(dsn, "pause", schedule_id, note=note)), as_json=False)


@schedules.command(short_help="Fire a paused schedule again.")
@_id_argument
@_note_option
@dsn_option
def resume(dsn: str | None, schedule_id: str, note: str | None) -> None:
    """Fire SCHEDULE again, from its first slot after now."""
    _print(asyncio.run(_call(dsn, "resume", schedule_id, note=note)), as_json=False)


@schedules.command(short_help="Accept a run of a schedule now.")
@_id_argument
@click.option("--run-id", metavar="ID", help="Names the run: the same again is the same run.")
@dsn_option
def trigger(dsn: str | None, schedule_id: str, run_id: str | None) -> None:
    """Accept a run of SCHEDULE now, beside its slots. Prints its run_id."""
    run = asyncio.run(_call(dsn, "trigger", schedule_id, run_id=run_id))
    click.echo(quoted(run.run_id))


@schedules.command(short_help="Accept the runs of past slots.")
@_id_argument
@click.argument("start", type=_Moment())
@click.argument("end", type=_Moment())
@click.option("--limit", type=click.IntRange(min=1), default=1000, show_default=True)
@click.option("--dry-run", is_flag=True, help="Say which slots, accept nothing.")
@dsn_option
def backfill(dsn: str | None, schedule_id: str, **options: Any) -> None:
    """Accept the runs of the slots of SCHEDULE from START to END, such as 2026-11-01. A slot that
    has its run gets no second one.
    """
    slots = asyncio.run(_call(dsn, "backfill", schedule_id, **options))
    for slot in slots:
        did = "accepted" if slot.accepted else "would be" if options["dry_run"] else "left alone"
        click.echo(f"{slot.slot.isoformat()}  {did}  run {quoted(slot.run_id)}")
    if not slots:
        click.echo("no slots in this range")


@schedules.command(short_help="Remove a schedule.")
@_id_argument
@dsn_option
def delete(dsn: str | None, schedule_id: str) -> None:
    """Remove SCHEDULE. Its runs stay, and go on."""
    asyncio.run(_call(dsn, "delete", schedule_id))
    click.echo(f"deleted: {quoted(schedule_id)}")


async def _call(dsn: str | None, method: str, *args: Any, **options: Any) -> Any:
    async with open_read_only(dsn) as durable:
        found = await getattr(durable.schedules, method)(*args, **options)
        if method != "list" and not options.get("dry_run"):
            schedule_id = args[0] if args else options["schedule_id"]
            await record(durable, f"schedules.{method}", schedule=schedule_id)
        return found


def _print(schedule: Schedule, *, as_json: bool) -> None:
    click.echo(_json_of(schedule) if as_json else _line(schedule))


def _line(schedule: Schedule) -> str:
    next_at = schedule.next_at
    state = (
        f"paused{'' if schedule.note is None else f' ({one_line(schedule.note)})'}"
        if schedule.paused
        else "ended"
        if next_at is None
        else f"next {next_at.astimezone(UTC).isoformat(timespec='seconds')}"
    )
    counts = f"{schedule.fired} fired, {schedule.skipped} skipped"
    return (
        f"{quoted(schedule.schedule_id)}  {state}  {_when(schedule)}  graph"
        f" {quoted(schedule.graph)}  {counts}"
    )


def _when(schedule: Schedule) -> str:
    from aiodurable.queue.slots import explained  # noqa: PLC0415 - loads LangGraph

    if schedule.cron is not None:
        words = f"{explained(schedule.cron)}, {schedule.time_zone}"
        return f"cron '{one_line(schedule.cron)}' ({one_line(words)})"
    if schedule.every is not None:
        return f"every {schedule.every}"
    return f"once at {schedule.at}"


def _json_of(schedule: Schedule) -> str:
    fields = {name: getattr(schedule, name) for name in type(schedule).__dataclass_fields__}
    return json_text({name: _plain(value) for name, value in fields.items()})


def _plain(value: Any) -> Any:
    if isinstance(value, timedelta):
        return value.total_seconds()
    return value.isoformat() if isinstance(value, datetime) else value
