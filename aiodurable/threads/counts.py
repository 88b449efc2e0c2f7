"""Counts threads by status, exactly or as an estimate in bounded time.

Rare statuses are always counted: partial indexes cover errors, questions and unfinished runs. The
other threads, complete ones and those that plain LangGraph left crashed, look alike until their
heads are read. An estimate reads the heads on some random pages of `checkpoints` and extrapolates.
All pages are equally likely and each thread has one head, so the estimate is unbiased, whatever the
planner's statistics say. A sample of a thousand heads or more keeps the error at a few percent.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field

from aiodurable.models import ThreadStatus
from aiodurable.postgres.pool import PsycopgPool
from aiodurable.postgres.sql import load
from aiodurable.threads.filters import Filter
from aiodurable.threads.search import Search
from aiodurable.threads.status import Classifier

__all__ = ["Counting", "ThreadCounts"]

_SQL = load("threads")
_PAGES = 2_000
"""Pages in the sample. A table that is no larger is counted."""
_RARE = 5_000
"""Threads that `estimate` counts one by one, at most."""
_UNNOTED = frozenset({ThreadStatus.COMPLETE, ThreadStatus.CRASHED})
_LIVE = frozenset({ThreadStatus.QUEUED, ThreadStatus.RUNNING})


@dataclass(frozen=True, slots=True)
class ThreadCounts:
    """How many threads there are.

    Attributes:
        by_status: threads of each status. A status without threads is left out.
        estimated: the statuses whose numbers are estimates, off by a few percent. All others were
            counted.
    """

    by_status: Mapping[ThreadStatus, int]
    estimated: frozenset[ThreadStatus] = field(default=frozenset())

    @property
    def exact(self) -> bool:
        """Whether every number was counted."""
        return not self.estimated

    @property
    def total(self) -> int:
        """Threads of all requested statuses."""
        return sum(self.by_status.values())


class Counting:
    """Counts the threads of a database.

    Args:
        database: where the threads are.
        search: finds the threads to count.
        classifier: computes their statuses.
    """

    def __init__(self, database: PsycopgPool, search: Search, classifier: Classifier) -> None:
        self._database = database
        self._search = search
        self._classifier = classifier

    async def count(self, wanted: Filter) -> ThreadCounts:
        """Count every thread that passes, however long it takes."""
        found: Counter[ThreadStatus] = Counter()
        async for step in self._search.steps(wanted):
            found += await self._classifier.count(step.thread_ids, wanted)
        return ThreadCounts(found)

    async def estimate(
        self, wanted: Filter, *, pages: int | None = None, rare: int | None = None
    ) -> ThreadCounts:
        """Count in bounded time, with estimates where needed. Filters by status only.

        Args:
            wanted: which threads.
            pages: pages in the sample; a tenth of them costs a tenth, and errs three times as much.
                None: 2,000.
            rare: threads of rare statuses that are counted one by one, at most. None: 5,000.
        """
        pages, rare = _PAGES if pages is None else pages, _RARE if rare is None else rare
        (table,) = await self._database.fetch(_SQL["pages"])
        if table["pages"] <= pages:
            return await self.count(wanted)
        share = pages / table["pages"]
        found: Counter[ThreadStatus] = Counter()
        noted: set[str] = set()
        async for step in self._search.noted():
            noted.update(step.thread_ids)
            if len(noted) > rare:
                return await self._estimate_all(wanted, share)
            found += await self._classifier.count(step.thread_ids, wanted)
        sampled = await self._sample(noted, wanted, share, _UNNOTED)
        estimated = wanted.statuses & _UNNOTED
        if not await self._search.all_held_are_in_the_ledger():
            estimated |= wanted.statuses & {ThreadStatus.RUNNING}
        return ThreadCounts(found + sampled, estimated)

    async def _estimate_all(self, wanted: Filter, share: float) -> ThreadCounts:
        """Estimate all statuses: too many threads have a rare one to count them. The ledger gives
        the queued and running ones, which no head shows.
        """
        sampled = await self._sample(set(), wanted, share, wanted.statuses - _LIVE)
        (runs,) = await self._database.fetch(_SQL["live_runs"])
        live = Counter({status: runs[status] for status in wanted.statuses & _LIVE})
        return ThreadCounts(sampled + live, wanted.statuses)

    async def _sample(
        self, counted: set[str], wanted: Filter, share: float, statuses: frozenset[ThreadStatus]
    ) -> Counter[ThreadStatus]:
        """Estimate the threads of these statuses that are not among `counted`, from a share of the
        pages.
        """
        rows = await self._database.fetch(_SQL["sample"], 100 * share)
        others = [row["thread_id"] for row in rows if row["thread_id"] not in counted]
        found: Counter[ThreadStatus] = Counter()
        for start in range(0, len(others), 1000):
            found += await self._classifier.count(others[start : start + 1000], wanted)
        return Counter({status: round(found[status] / share) for status in statuses & found.keys()})
