"""`aiodurable retry THREAD`: resume a failed or quarantined thread."""

from __future__ import annotations

import asyncio

import click

from aiodurable.cli.app import app_option, graph_option, load_app
from aiodurable.cli.database import dsn_option
from aiodurable.cli.exit_codes import FailedCommand
from aiodurable.cli.format import one_line
from aiodurable.cli.status import print_thread
from aiodurable.errors import AiodurableError
from aiodurable.models import WorkflowCheckpoint

__all__ = ["retry"]


@click.command(short_help="Resume a failed or quarantined thread.")
@click.argument("thread_id", metavar="THREAD")
@app_option(required=True)
@graph_option
@dsn_option
@click.option(
    "--json", "as_json", is_flag=True, help="One JSON object: the thread's status afterwards."
)
def retry(thread_id: str, app: str, graph: str | None, dsn: str | None, as_json: bool) -> None:
    """Resume THREAD in this process from its last checkpoint, even if it is quarantined.

    The failed node runs again; finished nodes do not. `show --values` prints the result. Exit code
    1: it failed again, is complete or waits for an answer.
    """
    thread, error = asyncio.run(_retry(thread_id, app, graph, dsn))
    print_thread(thread, as_json=as_json)
    if error is not None:
        raise FailedCommand(f"it failed again: {type(error).__name__}: {one_line(str(error))}")


async def _retry(
    thread_id: str, app: str, graph: str | None, dsn: str | None
) -> tuple[WorkflowCheckpoint, Exception | None]:
    found = await load_app(app)
    async with found.opened(dsn) as durable:
        failure = None
        try:
            await durable.threads.retry(thread_id, await found.graph_for(durable, thread_id, graph))
        except (AiodurableError, click.ClickException):
            raise
        except Exception as error:  # a node's own
            failure = error
        return await durable.threads.status(thread_id), failure
