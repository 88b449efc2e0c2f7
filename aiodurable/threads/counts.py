"""How many threads there are of each status: counted one by one, or estimated in a bounded time.

What is rare is counted either way: errors, questions and runs that are not over have partial
indexes. The rest, complete threads and those that plain LangGraph left crashed, look alike until
their heads are read. An estimate reads the heads that lie on some pages of `checkpoints`, chosen at
random, and multiplies. Every page is as likely as any other and each thread has one head, so the
result is right on average, whatever the planner's statistics say; and it is off by some hundredths,
as the sample is of a thousand heads or more.
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
"""Pages in the sample; a table of no more is counted."""
_RARE = 5_000
"""Threads that are counted at most although an estimate was asked for."""
_UNNOTED = frozenset({ThreadStatus.COMPLETE, ThreadStatus.CRASHED})
_LIVE = frozenset({ThreadStatus.QUEUED, ThreadStatus.RUNNING})


@dataclass(frozen=True, slots=True)
class ThreadCounts:
    """How many threads there are.

    Attributes:
        by_status: threads of each status; those without any are left out.
        estimated: the statuses whose numbers are estimates, off by some hundredths; all others were
            counted.
    """

    by_status: Mapping[ThreadStatus, int]
    estimated: frozenset[ThreadStatus] = field(default=frozenset())

    @property
    def exact(self) -> bool:
        """Whether all of it was counted."""
        return not self.estimated

    @property
    def total(self) -> int:
        """Threads of all statuses that were asked for."""
        return sum(self.by_status.values())


class Counting:
    """Counts the threads of a database.

    Args:
        database: where they are.
        search: goes through them.
        classifier: tells their statuses.
    """

    def __init__(self, database: PsycopgPool, search: Search, classifier: Classifier) -> None:
        self._database = database
        self._search = search
        self._classifier = classifier

    async def count(self, wanted: Filter) -> ThreadCounts:
        """Each of the threads that pass, however many there are."""
        found: Counter[ThreadStatus] = Counter()
        async for step in self._search.steps(wanted):
            found += await self._classifier.count(step.thread_ids, wanted)
        return ThreadCounts(found)

    async def estimate(self, wanted: Filter) -> ThreadCounts:
        """The same in a bounded time. Filters by status only."""
        (table,) = await self._database.fetch(_SQL["pages"])
        if table["pages"] <= _PAGES:
            return await self.count(wanted)
        found: Counter[ThreadStatus] = Counter()
        noted: set[str] = set()
        async for step in self._search.noted():
            noted.update(step.thread_ids)
            if len(noted) > _RARE:
                return await self._estimate_all(wanted, table["pages"])
            found += await self._classifier.count(step.thread_ids, wanted)
        sampled = await self._sample(noted, wanted, table["pages"], _UNNOTED)
        estimated = wanted.statuses & _UNNOTED
        if not await self._search.all_held_are_in_the_ledger():
            estimated |= wanted.statuses & {ThreadStatus.RUNNING}
        return ThreadCounts(found + sampled, estimated)

    async def _estimate_all(self, wanted: Filter, pages: int) -> ThreadCounts:
        """Where what should be rare is not: by the sample, and by the ledger what no head tells
        of.
        """
        sampled = await self._sample(set(), wanted, pages, wanted.statuses - _LIVE)
        (runs,) = await self._database.fetch(_SQL["live_runs"])
        live = Counter({status: runs[status] for status in wanted.statuses & _LIVE})
        return ThreadCounts(sampled + live, wanted.statuses)

    async def _sample(
        self, counted: set[str], wanted: Filter, pages: int, statuses: frozenset[ThreadStatus]
    ) -> Counter[ThreadStatus]:
        """The threads of these statuses beside those counted, by what a sample of them is."""
        share = _PAGES / pages
        rows = await self._database.fetch(_SQL["sample"], 100 * share)
        others = [row["thread_id"] for row in rows if row["thread_id"] not in counted]
        found: Counter[ThreadStatus] = Counter()
        for start in range(0, len(others), 1000):
            found += await self._classifier.count(others[start : start + 1000], wanted)
        return Counter({status: round(found[status] / share) for status in statuses & found.keys()})
