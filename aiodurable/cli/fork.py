"""`aiodurable threads fork THREAD [NEW]`: start a new thread from a checkpoint of another one."""

from __future__ import annotations

import asyncio
import json
from typing import Any

import click

from aiodurable.cli.app import App, app_option, graph_option, load_app
from aiodurable.cli.audit import record
from aiodurable.cli.database import dsn_option
from aiodurable.cli.exit_codes import FailedCommand
from aiodurable.cli.status import print_thread
from aiodurable.cli.thread_argument import thread_argument
from aiodurable.models import WorkflowCheckpoint

__all__ = ["fork"]


@click.command
@thread_argument
@click.argument("new_thread_id", metavar="[NEW]", required=False)
@click.option(
    "--before", metavar="NODE", help="Start before the newest step that ran, or will run, NODE."
)
@click.option(
    "--checkpoint",
    "checkpoint_id",
    metavar="ID",
    help="Start at this checkpoint; `threads show --json` lists their ids.",
)
@click.option(
    "--step", type=int, metavar="N", help="Start at the newest checkpoint of this superstep."
)
@click.option(
    "--values",
    metavar="JSON",
    help="Change the state: a JSON object, as in aupdate_state. Needs --app.",
)
@click.option(
    "--as-node",
    metavar="NODE",
    help="The node that the values come from. Default: the node that ran last.",
)
@app_option()
@graph_option
@dsn_option
@click.option("--json", "as_json", is_flag=True, help="One JSON object: the new thread's status.")
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
    """Start the thread NEW (default: a UUID) from a checkpoint of THREAD, by default its newest.

    THREAD does not change. If work is left, NEW is paused: `threads retry` runs it.
    """
    places = {"checkpoint_id": checkpoint_id, "before": before, "from_step": step}
    change = {"values": _parsed(values), "as_node": as_node}
    if (values is not None or as_node is not None) and app is None:
        raise click.UsageError(
            "cannot change values without the graph: name your graphs with --app"
        )
    thread = asyncio.run(_fork(thread_id, new_thread_id, places | change, app, graph, dsn))
    print_thread(thread, as_json=as_json)


def _parsed(values: str | None) -> Any:
    if values is None:
        return None
    try:
        return json.loads(values)
    except ValueError as error:
        raise click.UsageError(
            f'--values must be JSON, such as \'{{"topic": "tides"}}\': {error}'
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
            forked = await durable.threads.fork(thread_id, new_thread_id, **options)
        except InvalidUpdateError as error:
            raise FailedCommand(f"cannot change the values: LangGraph says: {error}") from error
        await record(durable, "threads.fork", thread_id=thread_id, new=forked.thread_id)
        return forked
