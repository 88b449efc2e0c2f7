"""States: a checkpoint's, what changed between two, and a value to download. All need `view_state`.

A page reads a state only when somebody opens it, and passes every value through `redact`.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any, TypeVar, cast

from starlette.responses import Response

from aiodurable.dashboard.context import Context, Page
from aiodurable.dashboard.state_diff import changes
from aiodurable.dashboard.state_tree import channels_of, find, tree_of, whole
from aiodurable.errors import CheckpointNotFoundError, InvalidArgumentError
from aiodurable.jsonable import json_text

__all__ = ["diff", "download", "show"]

_T = TypeVar("_T")


async def show(context: Context) -> Page:
    """Answer `/thread/state?id=…&checkpoint=…&path=…`."""
    thread_id, checkpoint_id = await _allowed(context), _checkpoint(context, "checkpoint")
    path = _path(context)
    values, missing = await _state(context, thread_id, checkpoint_id)
    tree = await _apart(
        context, lambda: tree_of(path, _found(context, values, path), context.options.redact)
    )
    return Page(
        "state.html",
        {
            "section": "/threads",
            "thread_id": thread_id,
            "checkpoint_id": checkpoint_id,
            "tree": tree,
            "missing": missing,
        },
    )


async def diff(context: Context) -> Page:
    """Answer `/thread/diff?id=…&from=…&to=…`; without `from` all is new."""
    thread_id, to_id = await _allowed(context), _checkpoint(context, "to")
    from_id = context.query("from")
    before: dict[str, Any] = {}
    if from_id is not None:
        before, _ = await _state(context, thread_id, from_id)
    after, missing = await _state(context, thread_id, to_id)
    found, more = await _apart(context, lambda: changes(before, after, context.options.redact))
    return Page(
        "diff.html",
        {
            "section": "/threads",
            "thread_id": thread_id,
            "from_id": from_id,
            "to_id": to_id,
            "changes": found,
            "more": more,
            "missing": missing,
        },
    )


async def download(context: Context) -> Response:
    """Answer `/thread/value?id=…&checkpoint=…&path=…` with the whole value, as a file of JSON."""
    thread_id, checkpoint_id = await _allowed(context), _checkpoint(context, "checkpoint")
    path, redact = _path(context), context.options.redact
    values, _ = await _state(context, thread_id, checkpoint_id)
    text = await _apart(
        context,
        lambda: json_text(whole(path, _found(context, values, path), redact), indent=2),
    )
    return Response(
        text,
        media_type="application/json",
        headers={"Content-Disposition": 'attachment; filename="value.json"'},
    )


async def _allowed(context: Context) -> str:
    thread_id = context.request.query_params.get("id", "")
    await context.require("view_state", thread_id)
    return thread_id


def _checkpoint(context: Context, name: str) -> str:
    found = context.query(name)
    if found is None:
        raise InvalidArgumentError(
            f"cannot show a state: the address has no {name}=; open it from the thread's page",
            argument=name,
        )
    return found


def _path(context: Context) -> tuple[str | int, ...]:
    text = context.request.query_params.get("path")
    if not text:
        return ()
    try:
        found: Any = json.loads(text)
    except (ValueError, RecursionError):
        found = None
    if not isinstance(found, list) or not all(
        isinstance(part, str | int) and not isinstance(part, bool)  # true finds what 1 does
        for part in cast("list[Any]", found)
    ):
        raise InvalidArgumentError(
            "cannot show that part of a state: path= is no list of keys; open it from the state",
            argument="path",
        )
    return tuple(cast("list[str | int]", found))


async def _state(
    context: Context, thread_id: str, checkpoint_id: str
) -> tuple[dict[str, Any], list[str]]:
    """The channels of a checkpoint, and the names of those that only their graph can read."""
    saver = context.durable.checkpointer.inert()
    found = await saver.aget_tuple(
        {
            "configurable": {
                "thread_id": thread_id,
                "checkpoint_ns": "",
                "checkpoint_id": checkpoint_id,
            }
        }
    )
    if found is None:
        raise CheckpointNotFoundError(
            f"cannot show checkpoint {checkpoint_id!r} of thread {thread_id!r}: there is none; it"
            " may have been pruned",
            thread_id=thread_id,
            checkpoint_id=checkpoint_id,
        )
    stored = channels_of(found.checkpoint["channel_values"])
    versions = channels_of(found.checkpoint["channel_versions"])
    return stored, sorted(name for name in versions if name not in stored)


def _found(context: Context, values: dict[str, Any], path: tuple[str | int, ...]) -> Any:
    try:
        return find(values, path, context.options.redact)
    except KeyError:
        raise InvalidArgumentError(
            "cannot show that part of the state: there is none, or it is hidden", argument="path"
        ) from None


async def _apart(context: Context, work: Callable[[], _T]) -> _T:
    """Work on a state that may be large in a thread of its own, so that the loop goes on."""
    return await context.durable.checkpointer.in_a_thread(work)
