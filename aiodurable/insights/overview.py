"""All of a database at once; the threads are counted no more often than a reader needs it."""

from __future__ import annotations

import asyncio
from datetime import datetime, timedelta
from typing import Final

from aiodurable.insights.models import Overview
from aiodurable.insights.queues import MOST, Waiting
from aiodurable.insights.sessions import workers
from aiodurable.insights.throughput import history
from aiodurable.models import ClaimState
from aiodurable.postgres.sql import load
from aiodurable.runs.services import Services
from aiodurable.threads import Filter, ThreadCounts

__all__ = ["CountedThreads", "overview"]

_SQL = load("insights")
_PAGES: Final = 200
_RARE: Final = 500
"""A tenth of what `threads.estimate_counts` reads: a page that is open counts again and again."""
_MANY: Final = 5_000
"""Threads of which the newest sample is good enough."""
_FRESH_H: Final = 1 / 6


class CountedThreads:
    """The threads by status, as they were counted last."""

    def __init__(self) -> None:
        self._counting = asyncio.Lock()
        self._counted: tuple[datetime, ThreadCounts] | None = None

    async def get(
        self, services: Services, now: datetime, max_age_s: float
    ) -> tuple[datetime, ThreadCounts]:
        """When they were counted, and how many there were. One call counts for all that wait."""
        async with self._counting:
            kept = self._counted
            if kept is not None and now - kept[0] < timedelta(seconds=max_age_s):
                return kept
            kept = await _sampled(services) if max_age_s else None
            if kept is None:
                counts = await services.threads.counts.estimate(
                    Filter.of(status=None), pages=_PAGES, rare=_RARE
                )
                kept = (now, counts)
            self._counted = kept
            return kept


async def _sampled(services: Services) -> tuple[datetime, ThreadCounts] | None:
    """The newest sample of the workers, if counting as many threads again would cost too much."""
    samples = await history(services.checkpoints.database, hours=_FRESH_H)
    if not samples:
        return None
    counts = ThreadCounts(samples[-1].by_status, samples[-1].estimated)
    return (samples[-1].at, counts) if counts.total >= _MANY else None


async def overview(
    services: Services, threads: CountedThreads, found: Waiting, *, max_age_s: float
) -> Overview:
    """See `Insights.overview`."""
    database = services.checkpoints.database
    (now,) = await database.fetch(_SQL["leases_held"])
    depth = {row["state"]: row["count"] for row in await database.fetch(_SQL["depth"], MOST)}
    registered = await workers(database)
    threads_at, counts = await threads.get(services, now["at"], max_age_s)
    alive = [worker for worker in registered if worker.alive is not False]
    runs = {state: depth[state] for state in ClaimState if depth[state]}
    return Overview(
        at=now["at"],
        threads=counts,
        threads_at=threads_at,
        runs=runs,
        runs_capped=max(runs.values(), default=0) >= MOST,
        oldest_ready_age_s=max(found.oldest.values(), default=None),
        running=depth["running"],
        quarantined=depth["quarantined"],
        failed=depth["failed"],
        open_questions=depth["interrupted"],
        workers=len(registered),
        workers_alive=(None if any(one.alive is None for one in registered) else len(alive)),
        slots=sum(worker.concurrency for worker in alive if not worker.draining),
        leases=now["leases"],
    )
