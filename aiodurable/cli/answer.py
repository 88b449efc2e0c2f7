"""`aiodurable threads answer THREAD ANSWER`: answer the questions of a thread."""

from __future__ import annotations

import json
import re
from typing import TYPE_CHECKING, Any

import click

from aiodurable.cli.app import app_option, graph_option
from aiodurable.cli.database import dsn_option
from aiodurable.cli.run_here import run_here
from aiodurable.cli.thread_argument import thread_argument

if TYPE_CHECKING:
    from aiodurable.durable import Durable
    from aiodurable.runs.graphs import Graph

__all__ = ["answer"]

_ID = re.compile(r"[0-9a-f]{32}")


@click.command
@thread_argument
@click.argument("given", metavar="ANSWER")
@click.option(
    "--question",
    "interrupt_id",
    metavar="ID",
    help="The question's id; `threads status --json` shows it. Needed if several are open.",
)
@click.option("--text", is_flag=True, help="ANSWER is text, not JSON.")
@app_option(required=True)
@graph_option
@dsn_option
@click.option(
    "--json", "as_json", is_flag=True, help="One JSON object: the thread's status afterwards."
)
def answer(
    thread_id: str,
    given: str,
    interrupt_id: str | None,
    text: bool,
    app: str,
    graph: str | None,
    dsn: str | None,
    as_json: bool,
) -> None:
    """Answer the open question of THREAD with the JSON ANSWER, and go on in this process.

    With --question the answer reaches that question or none, however often it is given; without,
    the one that is open. Exit code 1: nothing is asked, the question has another answer, or a node
    failed.
    """
    if interrupt_id is not None and not _ID.fullmatch(interrupt_id):
        # The library would take the dict for an answer that happens to be one.
        raise click.UsageError(
            f"--question must be the id of a question, 32 hexadecimal digits, got {interrupt_id!r}"
        )
    value = given if text else _parsed(given)
    value = value if interrupt_id is None else {interrupt_id: value}

    async def answered(durable: Durable, graph: Graph | None) -> Any:
        if graph is None:  # then the thread is unknown, or the ledger names its graph
            graph = (await durable.threads.get(thread_id)).graph or ""
        async with durable.run(thread_id, graph) as run:
            return await run.answer(value)

    run_here(thread_id, app, graph, dsn, answered, action="threads.answer", as_json=as_json)


def _parsed(given: str) -> Any:
    try:
        return json.loads(given)
    except ValueError as error:
        raise click.UsageError(
            f"""ANSWER must be JSON, such as '"yes"' or '{{"approved": true}}': {error}; for text"""
            " pass --text"
        ) from error
