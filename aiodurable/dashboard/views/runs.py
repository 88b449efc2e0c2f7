"""The list of runs: filters in the URL, a page at a time."""

from __future__ import annotations

from typing import Any, cast

from aiodurable.dashboard.context import Context, Page
from aiodurable.dashboard.thread_query import age_of
from aiodurable.errors import InvalidArgumentError
from aiodurable.models import ClaimState, RunStatus
from aiodurable.queue import RunFilters, RunPage

__all__ = ["show"]

_LIMIT = 50
_SCANNED = 10_000
"""Runs that one page reads at most."""
_TEXTS = (
    ("queue", "Queue"),
    ("graph", "Graph"),
    ("thread", "Thread"),
    ("fairness_key", "Fairness key"),
    ("concurrency_key", "Concurrency key"),
    ("schedule", "Schedule"),
)
_FILTERS = {"thread": "thread_id", "schedule": "schedule_id"}
_AGES = (("older", "older_than"), ("newer", "newer_than"))


async def show(context: Context) -> Page:
    """Answer `/runs?status=…&state=…&queue=…&after=…`."""
    invalid, found = None, RunPage((), None)
    after = context.exact("after")
    try:
        found = await context.durable.runs.newest(
            after=after, limit=_LIMIT, max_scanned=_SCANNED, **_filters(context)
        )
    except InvalidArgumentError as error:
        invalid = str(error)
    return Page(
        "runs.html",
        {
            "found": found,
            "after": after,
            "invalid": invalid,
            "searched": _SCANNED if found.after and len(found.runs) < _LIMIT else None,
            "status": context.query("status"),
            "state": context.query("state"),
            "statuses": list(RunStatus),
            "states": list(ClaimState),
            "texts": [
                (name, label, context.request.query_params.get(name, "")) for name, label in _TEXTS
            ],
            "ages": [(name, context.query(name) or "") for name, _ in _AGES],
        },
    )


def _filters(context: Context) -> RunFilters:
    filters: dict[str, Any] = {
        "status": context.query("status"),
        "claim_state": context.query("state"),
    }
    for name, _ in _TEXTS:
        filters[_FILTERS.get(name, name)] = context.request.query_params.get(name) or None
    for name, given in _AGES:
        if (text := context.query(name)) is not None:
            try:
                filters[given] = age_of(text)
            except ValueError as error:
                raise InvalidArgumentError(
                    f"cannot search for {name}: {error}", argument=name
                ) from None
    return cast("RunFilters", filters)
