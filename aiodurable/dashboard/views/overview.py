"""The overview: what there is, what needs a person, and how the last day went."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping, Sequence
from datetime import datetime, timedelta
from typing import Any

from aiodurable.dashboard.context import Context, Page
from aiodurable.insights import StatusSample
from aiodurable.jsonable import json_text
from aiodurable.models import NEEDS_ATTENTION, RunStatus, ThreadStatus

__all__ = ["show"]

_DRAWN = tuple(
    status for status in ThreadStatus if status not in (ThreadStatus.NEW, ThreadStatus.COMPLETE)
)
"""Not complete ones: next to them, nothing else could be seen."""
_ENDED = (RunStatus.COMPLETE, RunStatus.FAILED, RunStatus.INTERRUPTED, RunStatus.QUARANTINED)
_MINUTES = 60
_GRAPHS = 20
"""Graphs of the table of latencies, at most: those with the most runs."""


async def show(context: Context) -> Page:
    """Answer `/`."""
    insights = context.durable.insights
    (now, queues), history, throughput, latencies = await asyncio.gather(
        insights.overview_and_queues(),
        insights.history(hours=24),
        insights.throughput(minutes=_MINUTES),
        insights.latencies(minutes=_MINUTES),
    )
    busiest = sorted(latencies, key=lambda one: one.count, reverse=True)[:_GRAPHS]
    return Page(
        "overview.html",
        {
            "now": now,
            # A moment, rounded: an age would be another page each second.
            "oldest_ready_at": _ago(now.at, now.oldest_ready_age_s),
            "counts": now.threads,
            "statuses": [status for status in ThreadStatus if status is not ThreadStatus.NEW],
            "attention": NEEDS_ATTENTION,
            "threads_chart": _chart(history, _DRAWN, _by_status),
            "ended_chart": _chart(history, _ENDED, _per_minute),
            "throughput": throughput,
            "ended": [
                (status, throughput.ended.get(status, 0), throughput.per_minute.get(status, 0.0))
                for status in RunStatus
                if throughput.ended.get(status, 0)
            ],
            "latencies": [one for one in latencies if one in busiest],
            "more_graphs": len(latencies) - len(busiest),
            "queues": queues,
        },
    )


def _ago(now: datetime, seconds: float | None) -> datetime | None:
    if seconds is None:
        return None
    return (now - timedelta(seconds=seconds)).replace(microsecond=0)


def _by_status(sample: StatusSample) -> Mapping[Any, int]:
    return sample.by_status


def _per_minute(sample: StatusSample) -> Mapping[Any, float]:
    if not sample.ended_s:
        return {}
    return {status: round(count * 60 / sample.ended_s, 3) for status, count in sample.ended.items()}


def _chart(
    history: Sequence[StatusSample],
    names: Sequence[Any],
    values: Callable[[StatusSample], Mapping[Any, float]],
) -> str | None:
    """What the browser draws: moments in seconds, and a line for each name that is ever there."""
    if len(history) < 2:
        return None
    found = [values(sample) for sample in history]
    return json_text(
        {
            "at": [round(sample.at.timestamp()) for sample in history],
            "lines": [
                {"name": str(name), "values": [one.get(name, 0) for one in found]}
                for name in names
                if any(one.get(name) for one in found)
            ],
        }
    )
