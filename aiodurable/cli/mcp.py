"""`aiodurable mcp`: let an assistant read why a thread is stuck, over stdin and stdout."""

from __future__ import annotations

import asyncio
from importlib.util import find_spec

import click

from aiodurable.cli.database import dsn_option, open_read_only
from aiodurable.cli.exit_codes import Exit, FailedCommand

__all__ = ["mcp"]


@click.command
@click.option(
    "--allow-states",
    is_flag=True,
    help="Also give states, questions and texts of errors, which may contain secrets.",
)
@dsn_option
def mcp(dsn: str | None, allow_states: bool) -> None:
    """Serve the Model Context Protocol on stdin and stdout, for an assistant on this host.

    Its tools only read: an overview, threads, why one stands as it does, failed runs, queues,
    workers, schedules, the database. They give no states, inputs, questions or texts of errors,
    unless --allow-states.
    """
    if find_spec("mcp") is None:
        raise FailedCommand(
            "cannot serve MCP: it needs mcp: pip install 'aiodurable[cli,mcp]'", Exit.USAGE
        )
    asyncio.run(_serve(dsn, allow_states=allow_states))


async def _serve(dsn: str | None, *, allow_states: bool) -> None:
    from aiodurable.integrations.mcp import mcp_server  # noqa: PLC0415 - an extra

    async with open_read_only(dsn) as durable:
        await mcp_server(durable, allow_states=allow_states).run_stdio_async()
