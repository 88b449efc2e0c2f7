"""Runs a thread in this process for `threads resume`, `retry` and `answer`."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import TYPE_CHECKING, Any

import click

from aiodurable.cli.app import load_app
from aiodurable.cli.audit import record
from aiodurable.cli.exit_codes import FailedCommand
from aiodurable.cli.format import one_line
from aiodurable.cli.status import print_thread
from aiodurable.errors import AiodurableError

if TYPE_CHECKING:
    from aiodurable.durable import Durable
    from aiodurable.models import WorkflowCheckpoint
    from aiodurable.runs.graphs import Graph

__all__ = ["run_here"]


def run_here(
    thread_id: str,
    app: str,
    graph: str | None,
    dsn: str | None,
    go_on: Callable[[Durable, Graph | None], Awaitable[Any]],
    *,
    action: str,
    as_json: bool,
) -> None:
    """Call `go_on` with the `Durable` of `--app` and the thread's graph (None: the one that the
    ledger names), record it as `action`, and print how the thread stands afterwards.

    Raises:
        FailedCommand: a node failed.
        AiodurableError: the library refused, before or after.
    """
    thread, error = asyncio.run(_run(thread_id, app, graph, dsn, go_on, action))
    print_thread(thread, as_json=as_json)
    if error is not None:
        raise FailedCommand(f"it failed: {type(error).__name__}: {one_line(str(error))}")


async def _run(
    thread_id: str,
    app: str,
    graph: str | None,
    dsn: str | None,
    go_on: Callable[[Durable, Graph | None], Awaitable[Any]],
    action: str,
) -> tuple[WorkflowCheckpoint, Exception | None]:
    found = await load_app(app)
    async with found.opened(dsn) as durable:
        failure = None
        try:
            await go_on(durable, await found.graph_for(durable, thread_id, graph))
        except (AiodurableError, click.ClickException):
            raise
        except Exception as error:  # a node's own
            failure = error
        await record(durable, action, thread_id=thread_id)
        return await durable.threads.status(thread_id), failure
