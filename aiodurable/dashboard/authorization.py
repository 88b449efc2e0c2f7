"""Who may do what: the application's `authorize` decides each action, on the server."""

from __future__ import annotations

import inspect
from collections.abc import Awaitable, Callable
from typing import Literal, get_args

from starlette.requests import Request

__all__ = ["ACTIONS", "READS", "Action", "Authorize", "Refused", "check"]

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
called for each request and each action, also when a form is saved.
"""


class Refused(Exception):  # noqa: N818 - an answer, not a failure
    """This request may not do this.

    Attributes:
        action: what was refused.
        reason: `closed` (there is no `authorize`), `read-only`, or `denied`.
    """

    def __init__(self, action: Action, reason: Literal["closed", "read-only", "denied"]) -> None:
        super().__init__(action, reason)
        self.action = action
        self.reason = reason


async def check(
    authorize: Authorize | None,
    request: Request,
    action: Action,
    thread: str | None,
    *,
    read_only: bool,
) -> None:
    """Raise `Refused` unless this request may do this."""
    if authorize is None:
        raise Refused(action, "closed")
    if read_only and action not in READS:
        raise Refused(action, "read-only")
    answer = authorize(request, action, thread)
    if inspect.isawaitable(answer):
        answer = await answer
    if answer is not True:  # a coroutine function called by a wrapper, a truthy object: not a yes
        raise Refused(action, "denied")
