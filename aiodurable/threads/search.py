"""Searches threads in steps: keyset pages by thread_id, with nothing held between two steps.

A step reads the next threads of the narrowest index that misses none, and classifies those that may
match.

- Partial indexes cover errors, questions and unfinished runs: a search for these statuses alone
    reads nothing else.
- Each kind of resumable thread has an index of its own, so an idle worker reads little.
- The ledger lists running and orphaned threads. If a lock is held that belongs to no running row, a
    search for running threads scans all of them.
- Checkpoint ids contain their time: a search for threads written within the last day starts at the
    first id of that time; a page does so where there are at most 100,000 of them.
- Crashed and complete threads of plain LangGraph look like any other until their head is read: a
    search for them scans all threads.

So an iterator may scan many threads between two that it yields. A page is bounded by `max_scanned`.
"""

from __future__ import annotations

import sys
from collections.abc import AsyncIterator
from datetime import UTC, datetime, timedelta
from typing import Any, NamedTuple

from aiodurable.lock_keys import is_thread_key, lock_key
from aiodurable.models import ThreadStatus, WorkflowCheckpoint
from aiodurable.postgres.pool import PsycopgPool
from aiodurable.postgres.sql import load
from aiodurable.threads.filters import Filter
from aiodurable.threads.status import Classifier, Standing

__all__ = ["CLOCKS", "Search", "Step", "ThreadPage", "first_id"]

_ERROR = "__error__"
"""Where LangGraph stores errors. Only these threads have an error, and those whose newest run
failed or was quarantined before the first checkpoint.
"""
_CHANNELS = {ThreadStatus.FAILED: _ERROR, ThreadStatus.INTERRUPTED: "__interrupt__"}
_IN_LEDGER = frozenset(
    {ThreadStatus.FAILED, ThreadStatus.PAUSED, ThreadStatus.QUEUED, ThreadStatus.QUARANTINED},
)
"""Statuses that a thread takes from its newest run."""
_NOTED = _IN_LEDGER | _CHANNELS.keys()
_RUNNING = frozenset({ThreadStatus.RUNNING})
_SQL = load("threads")
_STEPS = (100, 1000)
"""Threads scanned in the first step, and in a later one at most. Each step doubles the size."""
_SMALLEST_STEP = 50
"""The first step of a page scans a fifth more threads than fit, for most may pass; not fewer than
so many.
"""
_RECENT = timedelta(days=1)
_RECENT_AT_ONCE = 20_000
"""Each fetch sorts the recent threads again, so one fetch serves many steps."""
_RECENT_OF_A_PAGE = 100_000
"""Recent checkpoints, at most, that a page of a search sorts: 20 ms. Where there are more, it scans
all threads in their order, of which many are recent.
"""
CLOCKS = timedelta(minutes=1)
"""The largest difference between a checkpoint's id and its `ts`: LangGraph reads the writer's clock
once for each.
"""
_GREGORIAN = datetime(1582, 10, 15, tzinfo=UTC)


class ThreadPage(NamedTuple):
    """One page of a search.

    Attributes:
        threads: the matches, sorted by thread_id; fewer than `limit`, even none, where few of the
            scanned threads passed.
        after: the `after` of the next page; None after the last page.
    """

    threads: list[WorkflowCheckpoint]
    after: str | None


class Step(NamedTuple):
    """Threads that may pass a filter, out of `scanned` threads that end with `last`."""

    thread_ids: list[str]
    scanned: int
    last: str


class _Source(NamedTuple):
    """The SQL block that yields threads, its bounds, and the rows per fetch (None: as many as a
    step scans).
    """

    block: str
    bounds: tuple[Any, ...] = ()
    at_once: int | None = None
    held: bool | None = None
    """True: only threads whose lock is held. False: only the others."""


class Search:
    """Searches the threads of a database.

    Args:
        database: where the threads are.
        classifier: computes their statuses.
        namespace: the namespace of the locks.
    """

    def __init__(self, database: PsycopgPool, classifier: Classifier, *, namespace: str) -> None:
        self._database = database
        self._classifier = classifier
        self._namespace = namespace
        self._bytewise: bool | None = None

    async def threads(
        self, wanted: Filter, *, after: str | None = None, limit: int | None = None
    ) -> AsyncIterator[WorkflowCheckpoint]:
        """The threads that pass, in the database's order of their ids."""
        remaining = limit
        async for step in self.steps(wanted, after=after):
            for thread in await self._classifier.classify(step.thread_ids, wanted):
                yield thread
                if remaining is not None and (remaining := remaining - 1) == 0:
                    return

    async def standing(
        self, wanted: Filter, *, after: str | None = None, limit: int | None = None
    ) -> AsyncIterator[list[Standing]]:
        """The same threads as `threads`, in batches and without details."""
        remaining = limit
        async for step in self.steps(wanted, after=after):
            found = (await self._classifier.standing(step.thread_ids, wanted))[:remaining]
            if found:
                yield found
            if remaining is not None and (remaining := remaining - len(found)) == 0:
                return

    async def page(
        self, wanted: Filter, *, after: str | None, limit: int, max_scanned: int
    ) -> ThreadPage:
        """The next `limit` threads that pass, or fewer after `max_scanned` threads were scanned."""
        found: list[WorkflowCheckpoint] = []
        scanned = 0
        first = max(limit * 6 // 5, _SMALLEST_STEP)
        async for step in self.steps(wanted, after=after, first=first, max_scanned=max_scanned):
            found += await self._classifier.classify(step.thread_ids, wanted)
            if len(found) > limit:
                return ThreadPage(found[:limit], found[limit - 1].thread_id)
            scanned += step.scanned
            if len(found) == limit or scanned >= max_scanned:
                return ThreadPage(found, step.last)
        return ThreadPage(found, None)

    async def steps(
        self,
        wanted: Filter,
        *,
        after: str | None = None,
        size: int | None = None,
        first: int | None = None,
        max_scanned: int | None = None,
    ) -> AsyncIterator[Step]:
        """All threads that may pass, in steps.

        Args:
            wanted: the filters.
            after: only threads after this one.
            size: threads that each step scans.
            first: instead, threads that the first step scans at most.
            max_scanned: threads after which the caller stops: no step goes beyond it.
        """
        if wanted.statuses:
            sizes = _STEPS if size is None else (size, size)
            if first is not None:
                sizes = (min(first, sizes[0]), sizes[1])
            source = await self._source(wanted, bounded=max_scanned is not None)
            async for step in self._steps(
                source, after or "", wanted.prefix or "", sizes, max_scanned
            ):
                yield step

    def noted(self) -> AsyncIterator[Step]:
        """Every thread that a partial index covers. No other thread can be failed, interrupted,
        paused, queued or quarantined, or be recorded as running."""
        return self._steps(
            _Source(
                "threads_indexed", (list(_CHANNELS.values()), [*_IN_LEDGER, ThreadStatus.RUNNING])
            )
        )

    async def _steps(
        self,
        source: _Source,
        last: str = "",
        prefix: str = "",
        sizes: tuple[int, int] | None = None,
        max_scanned: int | None = None,
    ) -> AsyncIterator[Step]:
        size, most = sizes or _STEPS
        left = max_scanned or sys.maxsize
        contiguous = bool(prefix) and await self._sorts_bytewise()
        if contiguous and last < prefix:
            last = prefix
            yield Step([prefix], 1, prefix)
            left -= 1
        while left > 0 and (
            rows := await self._fetch(source, last, min(source.at_once or size, left))
        ):
            if rows[0]["thread_id"] is None:  # too many are recent to be read for a page
                source = _Source("threads_all")
                continue
            for start in range(0, len(rows), size):
                some = rows[start : start + size]
                last = some[-1]["thread_id"]
                fitting = [
                    row["thread_id"]
                    for row in some
                    if row["fits"] and row["thread_id"].startswith(prefix)
                ]
                if source.held is not None:
                    held = await self._held()
                    fitting = [
                        thread_id
                        for thread_id in fitting
                        if (self._key(thread_id) in held) is source.held
                    ]
                yield Step(fitting, len(some), last)
                if contiguous and not last.startswith(prefix):
                    return
            left -= len(rows)
            size = min(size * 2, most)

    async def _fetch(self, source: _Source, last: str, size: int) -> list[dict[str, Any]]:
        query = (_SQL[source.block], (last, size, *source.bounds))
        _, rows = await self._database.fetch_in_turn((_SQL["without_seqscan"], ()), query)
        return rows

    @staticmethod
    def is_narrow(wanted: Filter) -> bool:
        """Whether the partial indexes cover all threads that can pass."""
        return wanted.statuses <= _NOTED

    async def _source(self, wanted: Filter, *, bounded: bool) -> _Source:
        """The narrowest source that misses no match.

        Args:
            wanted: the filters.
            bounded: a page reads it: one fetch must not read whatever there is.
        """
        if wanted.resumable:
            return _Source("threads_resumable", held=False)
        if wanted.orphaned:
            return _Source("threads_indexed", ([], ["running"]), held=False)
        if wanted.error is not None:
            return _Source("threads_indexed", ([_ERROR], ["failed", "quarantined"]))
        if wanted.statuses == _RUNNING:
            in_ledger = await self.all_held_are_in_the_ledger()
            return (
                _Source("threads_indexed", ([], ["running"]), held=True)
                if in_ledger
                else _Source("threads_all", held=True)
            )
        if self.is_narrow(wanted):
            channels = [
                channel for status, channel in _CHANNELS.items() if status in wanted.statuses
            ]
            return _Source("threads_indexed", (channels, sorted(wanted.statuses & _IN_LEDGER)))
        if wanted.newer_than is not None and wanted.newer_than > datetime.now(UTC) - _RECENT:
            first = first_id(wanted.newer_than - CLOCKS)
            most = _RECENT_OF_A_PAGE if bounded else None
            return _Source("threads_recent", (first, wanted.newer_than, most), _RECENT_AT_ONCE)
        return _Source("threads_all")

    async def all_held_are_in_the_ledger(self) -> bool:
        """Whether every locked thread has a running row. A run that just starts has none yet."""
        rows = await self._database.fetch(_SQL["held_keys_of_no_run"])
        return not any(is_thread_key(row["key"]) for row in rows)

    async def _held(self) -> set[int]:
        return {row["key"] for row in await self._database.fetch(_SQL["held_keys"])}

    def _key(self, thread_id: str) -> int:
        return lock_key(thread_id, self._namespace)

    async def _sorts_bytewise(self) -> bool:
        if self._bytewise is None:
            (row,) = await self._database.fetch(_SQL["bytewise"])
            self._bytewise = bool(row["bytewise"])
        return self._bytewise


def first_id(moment: datetime) -> str:
    """The common prefix of all UUIDv6 of this moment: 60 bits that count units of 100 ns (RFC 9562,
    section 5.6).
    """
    digits = f"{(moment - _GREGORIAN) // timedelta(microseconds=1) * 10:015x}"
    return f"{digits[:8]}-{digits[8:12]}-6{digits[12:]}"
