"""`aiodurable threads retry THREAD`: try a failed or quarantined thread again."""

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

__all__ = ["retry"]


@click.command
@thread_argument
@app_option(required=True)
@graph_option
@dsn_option
@click.option(
    "--json", "as_json", is_flag=True, help="One JSON object: the thread's status afterwards."
)
def retry(thread_id: str, app: str, graph: str | None, dsn: str | None, as_json: bool) -> None:
    """Try THREAD again in this process from its last checkpoint, even if it is quarantined.

    The failed node runs again; finished nodes do not. `threads show --values` prints the result.
    Exit code 1: it failed again, is complete or waits for an answer.
    """

    async def again(durable: Durable, graph: Graph | None) -> Any:
        return await durable.threads.retry(thread_id, graph)

    run_here(thread_id, app, graph, dsn, again, action="threads.retry", as_json=as_json)
