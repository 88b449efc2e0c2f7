"""The list of threads: a search in the URL, a page at a time."""

from __future__ import annotations

from aiodurable.dashboard.actions.links import links
from aiodurable.dashboard.actions.on_many_threads import BULK
from aiodurable.dashboard.context import Context, Page
from aiodurable.dashboard.thread_query import (
    QUALIFIERS,
    completions,
    filters_of,
    with_qualifier,
)
from aiodurable.errors import InvalidArgumentError
from aiodurable.models import ThreadStatus
from aiodurable.threads import ThreadPage

__all__ = ["show"]

_LIMIT = 50
_SCANNED = 1_000
"""Threads that one page reads at most: a rare match among a million takes several pages."""


async def show(context: Context) -> Page:
    """Answer `/threads?q=…&after=…`."""
    query = context.query("q")
    after = context.exact("after")
    invalid = None
    found = ThreadPage([], None)
    chosen = frozenset[ThreadStatus]()
    try:
        filters = filters_of(query)
        chosen = frozenset(map(ThreadStatus, filters.get("status") or ()))
        found = await context.durable.threads.search_page(
            after=after, limit=_LIMIT, max_scanned=_SCANNED, **filters
        )
    except InvalidArgumentError as error:
        invalid = str(error)
    return Page(
        "threads.html",
        {
            "query": query,
            "after": after,
            "found": found,
            "invalid": invalid,
            "searched": _SCANNED if found.after and len(found.threads) < _LIMIT else None,
            "bulk": await links(context, *BULK, q=query) if query and not invalid else [],
            "chips": [
                (
                    status,
                    status in chosen,
                    with_qualifier(query, "status", None if status in chosen else status.value),
                )
                for status in ThreadStatus
                if status is not ThreadStatus.NEW
            ],
            "completions": completions(()),
            "qualifiers": QUALIFIERS,
        },
    )
