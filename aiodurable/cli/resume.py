"""`aiodurable threads resume THREAD`: go on with an unfinished thread."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import click

from aiodurable.cli.app import app_option, graph_option
from aiodurable.cli.database import dsn_option
from aiodurable.cli.run_here import run_here
from aiodurable.cli.thread_argument import thread_argument

if TYPE_CHECKING:
    from aiodurable.durable import Durable
    from aiodurable.runs.graphs import Graph

__all__ = ["resume"]


@click.command
@thread_argument
@click.option(
    "--past-gate",
    is_flag=True,
    help="Go on also with a thread that was stopped on purpose: at a breakpoint, or cancelled.",
)
@app_option(required=True)
@graph_option
@dsn_option
@click.option(
    "--json", "as_json", is_flag=True, help="One JSON object: the thread's status afterwards."
)
def resume(
    thread_id: str, past_gate: bool, app: str, graph: str | None, dsn: str | None, as_json: bool
) -> None:
    """Go on with THREAD in this process from its last checkpoint. Does nothing to a complete one.

    Leaves a thread alone that was stopped on purpose, unless --past-gate. Exit code 1: it failed,
    waits for an answer, is quarantined (`threads retry`) or was stopped on purpose.
    """

    async def on(durable: Durable, graph: Graph | None) -> Any:
        return await durable.threads.resume(thread_id, graph, past_gate=past_gate)

    run_here(thread_id, app, graph, dsn, on, action="threads.resume", as_json=as_json)
