"""The inbox: threads that wait for a person's answer."""

from __future__ import annotations

from aiodurable.dashboard.actions.links import links
from aiodurable.dashboard.context import Context, Page
from aiodurable.dashboard.question import questions_of
from aiodurable.models import ThreadStatus
from aiodurable.threads import ThreadPage

__all__ = ["show"]

_LIMIT = 25
_SCANNED = 5_000
_BRANCHES = 200
"""Of the questions of one thread in the list; the page of an answer shows more."""


async def show(context: Context) -> Page:
    """Answer `/questions?thread=…&after=…`."""
    only = context.request.query_params.get("thread") or None
    after = context.exact("after")
    if only is not None:
        await context.require("view", only)
        one = await context.durable.threads.get(only)
        found = ThreadPage([one] if one.interrupts else [], None)
    else:
        found = await context.durable.threads.search_page(
            after=after, limit=_LIMIT, max_scanned=_SCANNED, status=ThreadStatus.INTERRUPTED
        )
    asked = [
        (
            thread,
            question,
            await links(context, "answer", id=thread.thread_id, question=question.interrupt_id),
        )
        for thread in found.threads
        for question in await questions_of(context, thread, branches=_BRANCHES)
    ]
    return Page("questions.html", {"asked": asked, "after": after, "found": found, "only": only})
