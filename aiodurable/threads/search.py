"""Going through threads, a step at a time: keyset-paged by thread_id, nothing is held between two
steps.

A step looks at the next threads of the narrowest index that misses none, then tells the statuses of
those that may fit.

- Errors, questions and runs that are not over have partial indexes: a search for such statuses
    alone looks nowhere else.
- What may go on without a person has an index of its own for each kind, so that a worker with
    nothing to do reads little.
- Running and orphaned threads stand in the ledger as running. Who holds a lease without that is
    found among all threads.
- Checkpoint ids tell their time; a search for what was written within a day begins at the first id
    of that time.
- Crashed and complete threads of plain LangGraph look like any other until their head is read: all
    are gone through.

So an iterator may go far between two threads that it yields. A page does not: it looks at so many
threads and no more.
"""

from __future__ import annotations

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

_CHANNELS = {ThreadStatus.FAILED: "__error__", ThreadStatus.INTERRUPTED: "__interrupt__"}
_IN_LEDGER = frozenset(
    {ThreadStatus.FAILED, ThreadStatus.PAUSED, ThreadStatus.QUEUED, ThreadStatus.QUARANTINED},
)
"""Statuses that a thread has because its newest run has the same."""
_NOTED = _IN_LEDGER | _CHANNELS.keys()
_RUNNING = frozenset({ThreadStatus.RUNNING})
_SQL = load("threads")
_STEPS = (100, 1000)
"""Threads looked at in the first step, and at most in a later one; each is twice the one before."""
_RECENT = timedelta(days=1)
_RECENT_AT_ONCE = 20_000
"""Recent threads are sorted again for each fetch: fewer fetches, of more steps each."""
CLOCKS = timedelta(minutes=1)
"""How far a checkpoint's id and its `ts` may lie apart; both come from the writer's clock, one
after the other.
"""
_GREGORIAN = datetime(1582, 10, 15, tzinfo=UTC)


class ThreadPage(NamedTuple):
    """One page of a search.

    Attributes:
        threads: those found, by thread_id. Fewer than asked for, or none, where few of the threads
            looked at passed.
        after: the `after` of the next page; None: there is none.
    """

    threads: list[WorkflowCheckpoint]
    after: str | None


class Step(NamedTuple):
    """Threads that may pass a filter, out of `scanned` threads, the last of which is `last`."""

    thread_ids: list[str]
    scanned: int
    last: str


class _Source(NamedTuple):
    """Where the threads come from: a block of SQL, its bounds, and how many it gives at once (None:
    a step's worth).
    """

    block: str
    bounds: tuple[Any, ...] = ()
    at_once: int | None = None
    held: bool | None = None
    """Only threads whose lock is held, or only others."""


class Search:
    """Goes through the threads of a database.

    Args:
        database: where they are.
        classifier: tells their statuses.
        namespace: that of the locks.
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
        left = limit
        async for step in self.steps(wanted, after=after):
            for thread in await self._classifier.classify(step.thread_ids, wanted):
                yield thread
                if left is not None and (left := left - 1) == 0:
                    return

    async def standing(
        self, wanted: Filter, *, after: str | None = None, limit: int | None = None
    ) -> AsyncIterator[list[Standing]]:
        """What `threads` gives, some at a time and without their details."""
        left = limit
        async for step in self.steps(wanted, after=after):
            found = (await self._classifier.standing(step.thread_ids, wanted))[:left]
            if found:
                yield found
            if left is not None and (left := left - len(found)) == 0:
                return

    async def page(
        self, wanted: Filter, *, after: str | None, limit: int, max_scanned: int
    ) -> ThreadPage:
        """The next `limit` threads that pass, or fewer after `max_scanned` threads were scanned."""
        found: list[WorkflowCheckpoint] = []
        scanned = 0
        async for step in self.steps(wanted, after=after):
            found += await self._classifier.classify(step.thread_ids, wanted)
            if len(found) > limit:
                return ThreadPage(found[:limit], found[limit - 1].thread_id)
            scanned += step.scanned
            if len(found) == limit or scanned >= max_scanned:
                return ThreadPage(found, step.last)
        return ThreadPage(found, None)

    async def steps(
        self, wanted: Filter, *, after: str | None = None, size: int | None = None
    ) -> AsyncIterator[Step]:
        """All that can pass, step by step; `size`: threads looked at in each."""
        if wanted.statuses:
            sizes = _STEPS if size is None else (size, size)
            async for step in self._steps(
                await self._source(wanted), after or "", wanted.prefix or "", sizes
            ):
                yield step

    def noted(self) -> AsyncIterator[Step]:
        """All that stand in an index for what is rare: whatever their status, no other thread is
        failed, interrupted, paused, queued, quarantined, or running for the ledger."""
        return self._steps(
            _Source(
                "threads_noted", (list(_CHANNELS.values()), [*_IN_LEDGER, ThreadStatus.RUNNING])
            )
        )

    async def _steps(
        self,
        source: _Source,
        last: str = "",
        prefix: str = "",
        sizes: tuple[int, int] | None = None,
    ) -> AsyncIterator[Step]:
        size, most = sizes or _STEPS
        contiguous = bool(prefix) and await self._sorts_bytewise()
        if contiguous and last < prefix:
            last = prefix
            yield Step([prefix], 1, prefix)
        while rows := await self._fetch(source, last, source.at_once or size):
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
            size = min(size * 2, most)

    async def _fetch(self, source: _Source, last: str, size: int) -> list[dict[str, Any]]:
        query = (_SQL[source.block], (last, size, *source.bounds))
        _, rows = await self._database.fetch_in_turn((_SQL["without_seqscan"], ()), query)
        return rows

    @staticmethod
    def is_narrow(wanted: Filter) -> bool:
        """Whether an index for what is rare knows all of them."""
        return wanted.statuses <= _NOTED

    async def _source(self, wanted: Filter) -> _Source:
        """The narrowest that misses none."""
        if wanted.resumable:
            return _Source("threads_resumable", held=False)
        if wanted.orphaned:
            return _Source("threads_noted", ([], ["running"]), held=False)
        if wanted.statuses == _RUNNING:
            in_ledger = await self.all_held_are_in_the_ledger()
            return (
                _Source("threads_noted", ([], ["running"]), held=True)
                if in_ledger
                else _Source("threads_all", held=True)
            )
        if self.is_narrow(wanted):
            channels = [
                channel for status, channel in _CHANNELS.items() if status in wanted.statuses
            ]
            return _Source("threads_noted", (channels, sorted(wanted.statuses & _IN_LEDGER)))
        if wanted.newer_than is not None and wanted.newer_than > datetime.now(UTC) - _RECENT:
            first = first_id(wanted.newer_than - CLOCKS)
            return _Source("threads_recent", (first, wanted.newer_than), _RECENT_AT_ONCE)
        return _Source("threads_all")

    async def all_held_are_in_the_ledger(self) -> bool:
        """Whether every thread that is locked now has a running row: one that just begins has none
        yet.
        """
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
    """The beginning of every UUIDv6 made at this moment: 60 bits of tenths of microseconds (RFC
    9562, section 5.6).
    """
    digits = f"{(moment - _GREGORIAN) // timedelta(microseconds=1) * 10:015x}"
    return f"{digits[:8]}-{digits[8:12]}-6{digits[12:]}"
