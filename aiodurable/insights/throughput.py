"""How many runs ended, and how long they took: of the newest, and of the last day."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from typing import Any, Final

from aiodurable.insights.models import Latencies, Percentiles, StatusSample, Throughput
from aiodurable.models import ClaimState, RunStatus, ThreadStatus
from aiodurable.postgres.pool import PsycopgPool
from aiodurable.postgres.sql import load

__all__ = ["history", "latencies", "throughput"]

_SQL = load("insights")
_MOST_ENDED: Final = 20_000
_MOST_TIMED: Final = 5_000


async def throughput(database: PsycopgPool, *, minutes: float) -> Throughput:
    """See `Insights.throughput`."""
    rows = await database.fetch(_SQL["ended"], 60 * minutes, _MOST_ENDED)
    capped = sum(row["count"] for row in rows) >= _MOST_ENDED
    return Throughput(
        window_s=max(row["age_s"] for row in rows) if capped else 60 * minutes,
        ended={RunStatus(row["status"]): row["count"] for row in rows},
    )


async def latencies(database: PsycopgPool, *, minutes: float) -> list[Latencies]:
    """See `Insights.latencies`."""
    rows = await database.fetch(_SQL["latencies"], 60 * minutes, _MOST_TIMED)
    return [
        Latencies(
            graph=row["graph"],
            count=row["count"],
            wait=_percentiles(row["waits_s"]),
            run=_percentiles(row["runs_s"]) or Percentiles(0.0, 0.0, 0.0),
        )
        for row in rows
    ]


async def history(database: PsycopgPool, *, hours: float) -> list[StatusSample]:
    """See `Insights.history`."""
    return [_sample(row) for row in await database.fetch(_SQL["history"], 3600 * hours)]


def _sample(row: Mapping[str, Any]) -> StatusSample:
    return StatusSample(
        at=row["at"],
        by_status={ThreadStatus(name): count for name, count in _counts(row["by_status"])},
        estimated=frozenset(map(ThreadStatus, row["estimated"])),
        queued={ClaimState(name): count for name, count in _counts(row["queued"])},
        ended={RunStatus(name): count for name, count in _counts(row["ended"])},
        ended_s=row["ended_s"],
    )


def _counts(text: str) -> Iterable[tuple[str, int]]:
    return json.loads(text).items()


def _percentiles(values: list[float] | None) -> Percentiles | None:
    return None if values is None else Percentiles(*values)
