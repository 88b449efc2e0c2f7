"""Records in the audit what a person did by a command."""

from __future__ import annotations

import getpass
import socket
from typing import TYPE_CHECKING, Any

import click

from aiodurable.cli.format import one_line
from aiodurable.errors import AiodurableError

if TYPE_CHECKING:
    from aiodurable.durable import Durable

__all__ = ["local_actor", "record"]


async def record(
    durable: Durable,
    action: str,
    *,
    thread_id: str | None = None,
    run_id: str | None = None,
    **details: Any,
) -> None:
    """Record what this person has just done. If that fails, say so: what was done stays done."""
    try:
        await durable.insights.record(
            local_actor("cli"), action, thread_id=thread_id, run_id=run_id, details=details
        )
    except AiodurableError as error:
        click.echo(f"done, but not recorded in the audit: {one_line(str(error))}", err=True)


def local_actor(through: str) -> str:
    """The user of this host, whom the database cannot know, and through what they act."""
    try:
        user = getpass.getuser()
    except (KeyError, OSError):  # a container whose user has no name
        user = "somebody"
    return one_line(f"{through}:{user}@{socket.gethostname()}")[:200]
