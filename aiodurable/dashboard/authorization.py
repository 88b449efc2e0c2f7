"""Who may do what: the application's `authorize` decides each action, on the server."""

from __future__ import annotations

import inspect
from collections.abc import Awaitable, Callable
from typing import Literal, get_args

from starlette.requests import Request

__all__ = ["ACTIONS", "READS", "Action", "Authorize", "Reason", "Refused", "refusal"]

Action = Literal[
    "view",
    "view_state",
    "resume",
    "retry",
    "fork",
    "cancel",
    "answer",
    "delete",
    "prune",
    "pause_queue",
    "resume_queue",
    "scale_queue",
    "pause_schedule",
    "resume_schedule",
    "trigger_schedule",
    "backfill_schedule",
]
"""What a person can do with the dashboard. `view` and `view_state` only read."""

ACTIONS: tuple[Action, ...] = get_args(Action)
READS: frozenset[Action] = frozenset({"view", "view_state"})
"""The actions that a read-only dashboard has."""

Authorize = Callable[[Request, Action, str | None], bool | Awaitable[bool]]
"""`authorize(request, action, thread)`: whether the person who sent this request may do this.

`thread` is a thread_id; None: the action is of no single thread, such as a list or a queue. It is
called once for each request, action and thread, also when a form is saved.
"""

Reason = Literal["closed", "read-only", "denied"]
"""Why something is refused; `closed`: there is no `authorize`."""


class Refused(Exception):  # noqa: N818 - an answer, not a failure
    """This request may not do this.

    Attributes:
        action: what was refused.
        reason: why.
    """

    def __init__(self, action: Action, reason: Reason) -> None:
        super().__init__(action, reason)
        self.action = action
        self.reason = reason


async def refusal(
    authorize: Authorize | None,
    request: Request,
    action: Action,
    thread: str | None,
    *,
    read_only: bool,
) -> Reason | None:
    """Why this request may not do this; None: it may."""
    if authorize is None:
        return "closed"
    if read_only and action not in READS:
        return "read-only"
    answer = authorize(request, action, thread)
    if inspect.isawaitable(answer):
        answer = await answer
    # Not a coroutine function called by a wrapper, nor a truthy object: these are not a yes.
    return None if answer is True else "denied"
