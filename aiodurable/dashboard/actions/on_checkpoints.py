"""Removes old checkpoints: first a count of what that would be, then the removal."""

from __future__ import annotations

import asyncio
import math
from datetime import UTC, datetime, timedelta
from typing import Any, Literal

from aiodurable.dashboard.actions.act import Act, Confirmation, Field, Form, Outcome
from aiodurable.dashboard.context import Context
from aiodurable.errors import InvalidArgumentError
from aiodurable.threads import PruneReport

__all__ = ["PRUNE"]

_COUNTED_S = 5.0
_STRATEGIES = (
    ("keep_latest", "keep what is needed to go on, remove the past"),
    ("delete", "remove the whole thread and its runs"),
)
_FIELDS = (
    Field("days", "Complete threads that were not written to for so many days", "number", "30"),
    Field("strategy", "What to remove of them", "choice", "keep_latest", _STRATEGIES),
)


async def _confirm(context: Context) -> Confirmation:
    if context.query("days") is None:
        return Confirmation(
            heading="Prune old checkpoints?",
            button="Count them first",
            back=context.url("/database"),
            text="The next page shows what would be removed.",
            fields=_FIELDS,
            choose=True,
        )
    before, strategy = _before(context), _strategy(context)
    report, whole = await _counted(context, before, strategy)
    at_least = "" if whole else "at least "
    return Confirmation(
        heading="Prune old checkpoints?",
        button="Prune",
        back=context.url("/database"),
        text="Complete threads lose their past."
        if strategy == "keep_latest"
        else "Complete threads are removed, with their runs and results. This cannot be undone.",
        facts=[
            ("Not written to since", f"{before:%Y-%m-%d %H:%M:%S} UTC"),
            ("Threads", f"{at_least}{report.threads}"),
            ("Rows", f"{at_least}{report.rows}"),
        ],
        note="" if whole else "Counting stopped after five seconds.",
        action=context.here(before=before.isoformat()),
        dangerous=True,
        possible=bool(report.threads) or not whole,
    )


async def _counted(
    context: Context, before: datetime, strategy: Literal["keep_latest", "delete"]
) -> tuple[PruneReport, bool]:
    """What would be removed, and whether all was counted."""
    last = PruneReport()

    def counted(report: PruneReport) -> None:
        nonlocal last
        last = report

    try:
        async with asyncio.timeout(_COUNTED_S):
            return await context.durable.threads.prune(
                strategy=strategy, older_than=before, dry_run=True, duty_cycle=1, progress=counted
            ), True
    except TimeoutError:
        return last, False


async def _perform(context: Context, form: Form) -> Outcome:  # noqa: ARG001
    how = await context.background.begin(
        "a prune",
        context.durable.threads.prune(strategy=_strategy(context), older_than=_before(context)),
    )
    return Outcome(f"Pruning: {how}.", context.url("/database"))


def _strategy(context: Context) -> Literal["keep_latest", "delete"]:
    found = context.query("strategy")
    if found not in ("keep_latest", "delete"):
        raise InvalidArgumentError(
            "cannot prune: choose keep_latest or delete as the strategy", argument="strategy"
        )
    return found


def _before(context: Context) -> datetime:
    """The moment that was shown, or that many days ago."""
    try:
        if (moment := context.query("before")) is not None:
            found = datetime.fromisoformat(moment)
            # The page says UTC, whatever the address says.
            return found.astimezone(UTC) if found.tzinfo else found.replace(tzinfo=UTC)
        days = float(context.query("days") or "")
        if math.isfinite(days) and days >= 0:
            return datetime.now(UTC) - timedelta(days=days)
    except (ValueError, OverflowError):
        pass
    raise InvalidArgumentError("cannot prune: write a number of days, 0 or more", argument="days")


def _details(context: Context, form: Form) -> dict[str, Any]:  # noqa: ARG001
    return {"before": _before(context).isoformat(), "strategy": _strategy(context)}


PRUNE = Act("threads.prune", "prune", "Prune", _confirm, _perform, _details, of_thread=False)
