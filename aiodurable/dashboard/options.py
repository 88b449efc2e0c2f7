"""What the application gave `dashboard(…)`."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from starlette.requests import Request

from aiodurable.dashboard.authorization import Authorize
from aiodurable.durable import Durable

__all__ = ["Actor", "Options", "Redact"]

Redact = Callable[[tuple[str | int, ...], Any], Any]
"""`redact(path, value)`: what is shown in the place of a value of a state.

`path` is where it is: a channel, then keys and indexes. It is called for a container before what
the container holds, and for each value that is kept.
"""

Actor = Callable[[Request], str | None]
"""`actor(request)`: the name of the person who sent this request, for the audit table."""


@dataclass(frozen=True, slots=True)
class Options:
    """See `dashboard`."""

    durable: Durable
    authorize: Authorize | None
    read_only: bool
    redact: Redact | None
    allowed_hosts: tuple[str, ...]
    actor: Actor | None
    title: str
