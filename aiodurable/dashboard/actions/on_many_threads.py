"""One action on all threads that a search finds, 1,000 at a time in the order of their ids: first
shown, then done to those that were shown and stand as they did. The page that follows shows the
next ones.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable, Mapping
from functools import partial
from typing import Any

from aiodurable.dashboard.actions.act import Act, Confirmation, Form, Outcome
from aiodurable.dashboard.actions.audited import audited
from aiodurable.dashboard.actions.on_threads import cancelled, retried
from aiodurable.dashboard.advice import with_buttons
from aiodurable.dashboard.authorization import Action
from aiodurable.dashboard.context import Context
from aiodurable.dashboard.thread_query import filters_of
from aiodurable.errors import AiodurableError, InvalidArgumentError
from aiodurable.models import ThreadStatus, WorkflowCheckpoint

__all__ = ["BULK", "CAP"]

_log = logging.getLogger(__name__)
CAP = 1_000
"""Threads of one page, at most."""
_SHOWN = 20
_SCANNED = 100_000
_AT_ONCE = 8
_AT_WORK = frozenset({ThreadStatus.QUEUED, ThreadStatus.RUNNING})

_Deed = Callable[[Context, WorkflowCheckpoint], Awaitable[object]]
"""Does it to a thread that stands as it was shown, or to the run that it had then, or raises."""


async def _resumed(context: Context, thread: WorkflowCheckpoint) -> object:
    return await context.durable.threads.resume(thread.thread_id, expected=thread)


async def _deleted(context: Context, thread: WorkflowCheckpoint) -> object:
    return await context.durable.threads.delete(thread.thread_id, expected=thread)


def _back(context: Context) -> str:
    return context.url("/threads", q=context.query("q"))


def _further(context: Context, last: str) -> str:
    """The page of the threads after `last`."""
    return context.here(after=last)


async def _confirm(right: Action, label: str, context: Context) -> Confirmation:
    cap = _cap(context)
    found = await context.durable.threads.search_page(
        limit=cap,
        after=context.exact("after"),
        max_scanned=_SCANNED,
        **filters_of(context.query("q")),
    )
    shown = {
        thread.thread_id: _mark(right, thread)
        for thread in found.threads
        if await context.allowed(right, thread.thread_id)
    }
    denied = len(found.threads) - len(shown)
    notes = [
        f"You may not {right} {denied} more that match." if denied else "",
        "More may match after these: they follow." if found.after else "",
    ]
    facts = [("Search", context.query("q") or "all threads")]
    if after := context.exact("after"):
        facts.append(("After thread", after))
    text, seal = context.session.sealed(shown)
    return Confirmation(
        heading=f"{label} {len(shown)} threads?",
        button=f"{label} {len(shown)} threads",
        back=_back(context),
        text="Nothing was done yet. It is done to exactly these; one that has gone on since is left"
        " alone.",
        facts=facts,
        hidden=[("selection", text), ("seal", seal), ("last", found.after or "")],
        listed=list(shown)[:_SHOWN],
        more=max(0, len(shown) - _SHOWN),
        note=" ".join(filter(None, notes)),
        dangerous=right == "delete",
        possible=bool(shown),
        further=_further(context, found.after) if found.after else "",
    )


def _mark(right: Action, thread: WorkflowCheckpoint) -> str:
    """What a thread has in common with how it was shown, as long as it has not gone on.

    An input that was accepted since, and no worker has begun, has no checkpoint yet. A run that is
    to be cancelled is expected to write some.
    """
    if right == "cancel":
        standing = "at work" if thread.status in _AT_WORK else thread.status.value
        return f"{thread.run_id} {standing}"
    return f"{thread.checkpoint_id} {thread.run_id} {thread.status.value} {thread.attempts}"


def _cap(context: Context) -> int:
    text = context.query("cap") or str(CAP)
    if not text.isascii() or not text.isdigit() or len(text) > 9 or not 1 <= int(text) <= CAP:
        raise InvalidArgumentError(
            f"cannot use a cap of {text[:20]!r}: write a number from 1 to {CAP}", argument="cap"
        )
    return int(text)


def _selection(context: Context, form: Form) -> Mapping[str, str]:
    return context.session.unsealed(form.get("selection", ""), form.get("seal", ""))


async def _perform(
    right: Action, recorded: str, deed: _Deed, context: Context, form: Form
) -> Outcome:
    selection = _selection(context, form)
    failed: dict[str, str] = {}
    work = _each(context, right, recorded, deed, selection, failed)
    if right == "resume":  # it runs the graphs, which may take hours
        how = await context.background.begin(f"the resumption of {len(selection)} threads", work)
        said = f"Resuming {len(selection)} threads: {how}."
    else:
        await work
        said = f"Done to {len(selection) - len(failed)} of {len(selection)} threads."
    kind = "bad" if failed else "good"
    if last := form.get("last", "").replace("\0", ""):
        said += " More may match after these."
        path, label = _further(context, last), "The next ones"
    else:
        path, label = _back(context), "Back"
    return Outcome(said, path, kind, sorted(failed.items()), label)


async def _each(
    context: Context,
    right: Action,
    recorded: str,
    deed: _Deed,
    selection: Mapping[str, str],
    failed: dict[str, str],
) -> None:
    """Do it to each, and write down why it was not done, by thread."""
    free = asyncio.Semaphore(_AT_ONCE)

    async def one(thread_id: str, shown: str) -> None:
        async with free:
            try:
                failed.update(await _one(context, right, recorded, deed, (thread_id, shown)))
            except AiodurableError as error:
                failed[thread_id] = with_buttons(str(error))
            except Exception as error:  # a node's own: its text may have parts of a state
                failed[thread_id] = f"it ended with {type(error).__name__}"

    async with asyncio.TaskGroup() as group:
        for thread_id, shown in selection.items():
            group.create_task(one(thread_id, shown))
    if failed:  # its page may have been answered before
        _log.warning(
            "dashboard: %s: not done to %d of %d threads", recorded, len(failed), len(selection)
        )


async def _one(
    context: Context, right: Action, recorded: str, deed: _Deed, of: tuple[str, str]
) -> dict[str, str]:
    thread_id, shown = of
    if not await context.allowed(right, thread_id):
        return {thread_id: "you may not do this to it"}
    thread = await context.durable.threads.status(thread_id)
    if _mark(right, thread) != shown:
        return {thread_id: "it has gone on since it was shown"}
    async with audited(context, recorded, thread_id=thread_id, details={"bulk": True}):
        await deed(context, thread)
    return {}


def _details(context: Context, form: Form) -> dict[str, Any]:
    return {
        "search": (context.query("q") or "")[:1_000],
        "threads": len(_selection(context, form)),
    }


def _act(right: Action, label: str, deed: _Deed) -> Act:
    recorded = f"threads.{right}"
    return Act(
        f"{recorded}_many",
        right,
        label,
        partial(_confirm, right, label),
        partial(_perform, right, recorded, deed),
        _details,
        of_thread=False,
    )


BULK: Mapping[str, Act] = {
    "resume_many": _act("resume", "Resume", _resumed),
    "retry_many": _act("retry", "Retry", retried),
    "cancel_many": _act("cancel", "Cancel", cancelled),
    "delete_many": _act("delete", "Delete", _deleted),
}
