"""`aiodurable threads show THREAD`: show the status and the history of a thread."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import click

from aiodurable.cli.database import dsn_option, open_read_only
from aiodurable.cli.format import one_line, quoted, took
from aiodurable.cli.status import checked_known, print_thread
from aiodurable.cli.table import Column, print_table, wide_option
from aiodurable.cli.thread_argument import thread_argument
from aiodurable.cli.thread_json import thread_fields
from aiodurable.errors import WorkflowExecutionError
from aiodurable.jsonable import json_text
from aiodurable.models import WorkflowCheckpoint

if TYPE_CHECKING:
    from aiodurable.durable import Durable
    from aiodurable.threads import ThreadEffect, ThreadStep

__all__ = ["show"]

_INTERNAL = ("branch:", "join:", "start:", "__")


@click.command
@thread_argument
@click.option(
    "--limit",
    type=click.IntRange(min=1),
    default=20,
    show_default=True,
    help="At most N steps.",
)
@click.option(
    "--values", "with_values", is_flag=True, help="Print the state, too; it may contain secrets."
)
@wide_option
@dsn_option
@click.option("--json", "as_json", is_flag=True, help="One JSON object.")
def show(
    thread_id: str, limit: int, with_values: bool, wide: bool, dsn: str | None, as_json: bool
) -> None:
    """Show the status of THREAD and its steps, newest first: the nodes, when, how long, and which
    process ran them.

    `took` is the time since the previous checkpoint, waiting included. Then the side effects that
    its nodes recorded, without their results.
    """
    thread, steps, effects, values = asyncio.run(_read(thread_id, limit, with_values, dsn))
    if as_json:
        fields = {
            "thread": thread_fields(thread),
            "steps": [_fields(step) for step in steps],
            "effects": [_fields_of(effect) for effect in effects],
        }
        click.echo(json_text(fields | ({"values": values} if with_values else {})))
        return
    print_thread(thread, as_json=False)
    if steps:
        click.echo()
        _table(steps, wide=wide)
        if len(steps) == limit:
            click.echo(f"these are the newest {limit} steps: --limit shows more", err=True)
    if effects:
        click.echo()
        _effects_table(effects, wide=wide)
    if with_values:
        click.echo()
        click.echo(json_text(values, indent=2))


async def _read(
    thread_id: str, limit: int, with_values: bool, dsn: str | None
) -> tuple[WorkflowCheckpoint, list[ThreadStep], Sequence[ThreadEffect], dict[str, Any]]:
    async with open_read_only(dsn) as durable:
        thread = checked_known(await durable.threads.status(thread_id))
        steps = [step async for step in durable.threads.history(thread_id, limit=limit)]
        effects = await durable.threads.effects(thread_id, limit=limit)
        return thread, steps, effects, await _values(durable, thread_id) if with_values else {}


async def _values(durable: Durable, thread_id: str) -> dict[str, Any]:
    """The channels of the newest checkpoint, without LangGraph's own."""
    try:
        found = await durable.checkpointer.inert().aget_tuple(
            {"configurable": {"thread_id": thread_id}}
        )
    except WorkflowExecutionError as error:
        click.echo(f"without values: {one_line(str(error))}", err=True)
        return {}
    if found is None:
        return {}
    stored = found.checkpoint["channel_values"]
    missing = sorted(
        name
        for name in found.checkpoint["channel_versions"]
        if _is_users(name) and name not in stored
    )
    if missing:
        click.echo(
            f"without {', '.join(map(quoted, missing))}: empty, or only its graph can read it",
            err=True,
        )
    return {name: value for name, value in stored.items() if _is_users(name) or name == "__end__"}


def _is_users(channel: str) -> bool:
    return not channel.startswith(_INTERNAL)


def _fields(step: ThreadStep) -> dict[str, Any]:
    return {
        "checkpoint_id": step.checkpoint_id,
        "parent_id": step.parent_id,
        "step": step.step,
        "source": step.source,
        "nodes": step.nodes,
        "written_at": step.written_at and step.written_at.isoformat(),
        "duration_s": step.duration and step.duration.total_seconds(),
        "run_id": step.run_id,
        "graph": step.graph,
        "worker": step.worker,
    }


def _fields_of(effect: ThreadEffect) -> dict[str, Any]:
    return {
        "name": effect.name,
        "state": effect.state,
        "task": effect.task,
        "run_id": effect.run_id,
        "begun_by": effect.begun_by,
        "begun_at": effect.begun_at.isoformat(),
        "ended_at": effect.ended_at and effect.ended_at.isoformat(),
    }


def _effects_table(effects: Sequence[ThreadEffect], *, wide: bool) -> None:
    columns = [
        Column("effect", folds=True),
        Column("state"),
        Column("begun (UTC)"),
        Column("ended (UTC)"),
        Column("by", folds=True),
    ]
    columns += [Column("task"), Column("run")] if wide else []
    print_table(columns, [_effect_cells(one, wide=wide) for one in effects], wide=wide)


def _effect_cells(effect: ThreadEffect, *, wide: bool) -> tuple[str, ...]:
    cells = (
        quoted(effect.name),
        effect.state.replace("_", " "),
        f"{effect.begun_at:%Y-%m-%d %H:%M:%S}",
        f"{effect.ended_at:%Y-%m-%d %H:%M:%S}" if effect.ended_at else "",
        one_line(effect.begun_by),
    )
    return (*cells, quoted(effect.task), quoted(effect.run_id)) if wide else cells


def _table(steps: list[ThreadStep], *, wide: bool) -> None:
    columns = [
        Column("step", right=True),
        Column("nodes", folds=True),
        Column("written (UTC)"),
        Column("took", right=True),
        Column("by", folds=True),
    ]
    columns += [Column("checkpoint"), Column("run")] if wide else []
    print_table(columns, [_cells(step, wide=wide) for step in steps], wide=wide)


def _cells(step: ThreadStep, *, wide: bool) -> tuple[str, ...]:
    cells = (
        "" if step.step is None else str(step.step),
        # Steps without a node: START, an input, an update, a fork.
        ", ".join(map(quoted, step.nodes)) or f"({step.source})",
        f"{step.written_at:%Y-%m-%d %H:%M:%S}" if step.written_at else "",
        took(step.duration),
        one_line(step.worker or ""),
    )
    return (*cells, quoted(step.checkpoint_id), quoted(step.run_id or "")) if wide else cells
