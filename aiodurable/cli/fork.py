"""`aiodurable fork THREAD [NEW]`: a new thread from a checkpoint of another."""

from __future__ import annotations

import asyncio
import json
from typing import Any

import click

from aiodurable.cli.app import App, app_option, graph_option, load_app
from aiodurable.cli.database import dsn_option
from aiodurable.cli.exit_codes import FailedCommand
from aiodurable.cli.status import tell
from aiodurable.models import WorkflowCheckpoint

__all__ = ["fork"]


@click.command(short_help="Make a new thread from a checkpoint of another.")
@click.argument("thread_id", metavar="THREAD")
@click.argument("new_thread_id", metavar="[NEW]", required=False)
@click.option(
    "--before", metavar="NODE", help="Begin before the newest step in which NODE ran, or is to run."
)
@click.option(
    "--checkpoint",
    "checkpoint_id",
    metavar="ID",
    help="Begin at this checkpoint; `show --json` tells them.",
)
@click.option(
    "--step", type=int, metavar="N", help="Begin at the newest checkpoint of this superstep."
)
@click.option(
    "--values",
    metavar="JSON",
    help="Change the state: a JSON object, as for aupdate_state. Needs --app.",
)
@click.option(
    "--as-node",
    metavar="NODE",
    help="The node that the values come from. Default: the one that ran last.",
)
@app_option()
@graph_option
@dsn_option
@click.option("--json", "as_json", is_flag=True, help="One JSON object: how the new thread stands.")
def fork(
    thread_id: str,
    new_thread_id: str | None,
    before: str | None,
    checkpoint_id: str | None,
    step: int | None,
    values: str | None,
    as_node: str | None,
    app: str | None,
    graph: str | None,
    dsn: str | None,
    as_json: bool,
) -> None:
    """Make the thread NEW (default: a UUID) from a checkpoint of THREAD, by default its newest.

    THREAD stays as it is. Where work is left, NEW is paused until it is run: `retry` does that.
    """
    places = {"checkpoint_id": checkpoint_id, "before": before, "from_step": step}
    change = {"values": _parsed(values), "as_node": as_node}
    if (values is not None or as_node is not None) and app is None:
        raise click.UsageError("changing values needs the graph: name your graphs with --app")
    thread = asyncio.run(_fork(thread_id, new_thread_id, places | change, app, graph, dsn))
    tell(thread, as_json=as_json)


def _parsed(values: str | None) -> Any:
    if values is None:
        return None
    try:
        return json.loads(values)
    except ValueError as error:
        raise click.UsageError(
            f'--values wants JSON, such as \'{{"topic": "tides"}}\': {error}'
        ) from error


async def _fork(
    thread_id: str,
    new_thread_id: str | None,
    options: dict[str, Any],
    app: str | None,
    graph: str | None,
    dsn: str | None,
) -> WorkflowCheckpoint:
    from langgraph.errors import InvalidUpdateError  # noqa: PLC0415

    found = App() if app is None else await load_app(app)
    async with found.opened(dsn) as durable:
        if app is not None:
            options["graph"] = await found.graph_for(durable, thread_id, graph)
        try:
            return await durable.threads.fork(thread_id, new_thread_id, **options)
        except InvalidUpdateError as error:
            raise FailedCommand(f"LangGraph refuses the values: {error}") from error
