"""Removing what is no longer needed, in bounded batches that give way to live traffic.

A thread is looked at, then removed from under the lock of its fence row, and only if its token and
its head are still the same: no lease was taken of it in between, so what a durable run does
meanwhile is never touched. Plain LangGraph takes no lock; `older_than` is what keeps the two apart.

The ledger is bounded by age: runs that are over go once they are old, all but the newest of a
thread, of which only what it was accepted with goes. A run's input that a removed checkpoint had
consumed counts as consumed ever after.

A fence outlives its thread. Removing a thread raises its token, so that no holder of before is let
in; the row itself goes `FENCE_KEPT` later, when nothing that was sent under the token can still be
under way, if nobody holds the thread's lock. A lease of it after that starts again at token 1, with
another lease id.

Stopping it at any moment is safe: each batch is one transaction, and the next call passes over what
is done.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from dataclasses import dataclass
from datetime import timedelta
from typing import Any, Literal, NamedTuple, Required, TypedDict

from aiodurable.errors import InvalidArgumentError
from aiodurable.lock_keys import lock_key
from aiodurable.models import ThreadStatus
from aiodurable.postgres.pool import PsycopgPool
from aiodurable.postgres.sql import load
from aiodurable.threads.filters import Age, Filter, Statuses
from aiodurable.threads.search import CLOCKS, Search, first_id
from aiodurable.threads.status import Classifier

__all__ = [
    "BATCH_SIZE",
    "DUTY_CYCLE",
    "FENCE_KEPT",
    "PruneOptions",
    "PruneReport",
    "PruneStrategy",
    "Retention",
    "checked",
]

_SQL = load("prune")
_TABLE = load("threads")["pages"]
_NEVER = frozenset({ThreadStatus.RUNNING, ThreadStatus.QUEUED})

_LONG_S = 0.03
_MUCH = 256 * 1024
"""A transaction that took longer, or removed more bytes, has the next one remove half as many
threads. A live commit waits until all that was logged before it is on disk, and the first change of
a page after a checkpoint logs the whole page."""

_FIRST = 10
"""Threads of the first transaction."""

_PAGES = 512
"""Pages of checkpoints gone through at once: 4 MB."""

_STEP = 1000
"""Threads gone through at once, where they are sought by their ids."""

FENCE_KEPT = timedelta(hours=1)
"""How long the fence of a removed thread stays."""

BATCH_SIZE = 100
DUTY_CYCLE = 0.5

PruneStrategy = Literal["keep_latest", "delete"]


class PruneOptions(TypedDict, total=False):
    """The arguments of `Threads.prune`."""

    strategy: PruneStrategy
    older_than: Required[Age]
    status: Statuses
    graph: str | None
    batch_size: int
    duty_cycle: float
    dry_run: bool
    progress: Callable[[PruneReport], None] | None


@dataclass(frozen=True, slots=True)
class PruneReport:
    """What was removed, or would be.

    Attributes:
        scanned: threads scanned. A thread whose rows are spread over several page ranges is counted
            once per range.
        threads: threads of which something was removed.
        rows: rows removed from LangGraph's three tables.
        runs: ledger rows removed because of their age. Those removed with their thread do not
            count.
        bytes: size of the removed values as stored. New rows can use the space after a vacuum.
        skipped: threads left alone because they were in use, or had gone on since they were read.
        unprunable: threads whose newest checkpoint cannot stand alone: it has a DeltaChannel, a
            format before LangGraph 0.5, or a format or values that cannot be read.
        progress: the part of the database that was scanned, 0 to 1; 0 while it is unknown.
    """

    scanned: int = 0
    threads: int = 0
    rows: int = 0
    runs: int = 0
    bytes: int = 0
    skipped: int = 0
    unprunable: tuple[str, ...] = ()
    progress: float = 0.0

    def __add__(self, other: PruneReport) -> PruneReport:
        return PruneReport(
            scanned=self.scanned + other.scanned,
            threads=self.threads + other.threads,
            rows=self.rows + other.rows,
            runs=self.runs + other.runs,
            bytes=self.bytes + other.bytes,
            skipped=self.skipped + other.skipped,
            unprunable=self.unprunable + other.unprunable,
            progress=max(self.progress, other.progress),
        )


class _Found(NamedTuple):
    """A thread that may go, with its token (None: no lease was ever taken) and its head (None: it
    has no checkpoint) when it was looked at."""

    thread_id: str
    token: int | None
    head_id: str | None


class _Kept(NamedTuple):
    """Checkpoints whose parents were removed."""

    thread_ids: Sequence[str]
    namespaces: Sequence[str]
    checkpoint_ids: Sequence[str]


_NONE_KEPT = _Kept([], [], [])


class _Pace:
    """How many threads a transaction removes, and how long live traffic is left alone after it.

    Args:
        batch_size: threads per transaction, at most.
        duty_cycle: the part of the time spent working.
    """

    def __init__(self, batch_size: int, duty_cycle: float) -> None:
        self._batch_size = batch_size
        self._duty_cycle = duty_cycle
        self._size = min(batch_size, _FIRST)
        self.begin()

    def pieces(self, thread_ids: Sequence[str]) -> Iterator[Sequence[str]]:
        """Of the size that is right when each is asked for."""
        start = 0
        while start < len(thread_ids):
            some = thread_ids[start : start + self._size]
            start += len(some)
            yield some

    def adapt(self, removed: int) -> None:
        """To a transaction of so many bytes. Threads differ in length by orders of magnitude."""
        much = max((time.monotonic() - self._began) / _LONG_S, removed / _MUCH)
        if much > 1:
            self._size = max(1, self._size // 2)
        elif much < 1 / 2:
            self._size = min(self._batch_size, self._size * 2)

    def begin(self) -> None:
        """From now on time counts as work."""
        self._began = time.monotonic()

    async def rest(self) -> None:
        """Leave as much time to live traffic as the work owes it, and begin again."""
        took = time.monotonic() - self._began
        await asyncio.sleep(took * (1 - self._duty_cycle) / self._duty_cycle)
        self.begin()


class Retention:
    """Prunes the threads of a database.

    Args:
        database: where they are.
        search: goes through them.
        classifier: tells their statuses.
        namespace: that of the locks.
    """

    def __init__(
        self, database: PsycopgPool, search: Search, classifier: Classifier, *, namespace: str
    ) -> None:
        self._database = database
        self._search = search
        self._classifier = classifier
        self._namespace = namespace

    async def prune(
        self,
        *,
        strategy: PruneStrategy,
        older_than: Age,
        status: Statuses,
        graph: str | None,
        batch_size: int,
        duty_cycle: float,
        dry_run: bool,
        progress: Callable[[PruneReport], None] | None,
    ) -> PruneReport:
        """See `Threads.prune`."""
        wanted = checked(
            strategy=strategy,
            older_than=older_than,
            status=status,
            graph=graph,
            batch_size=batch_size,
            duty_cycle=duty_cycle,
        )
        assert wanted.older_than is not None, "it is given"
        bounds = (first_id(wanted.older_than + CLOCKS), strategy == "delete")
        total = PruneReport()
        kept = _NONE_KEPT
        pace = _Pace(batch_size, duty_cycle)
        async for forgotten in self._forget(wanted, pace, dry_run=dry_run):
            total += forgotten
            if progress is not None:
                progress(total)
        async for old, gone_through in self._old(wanted, *bounds):
            total += gone_through
            if progress is not None and not old:
                progress(total)
            await pace.rest()
            for some in pace.pieces(old):
                if found := await self._look(some, wanted):
                    pace.begin()  # what the look took is what any status takes, and owes no rest
                    pruned, kept = await self._prune(found, kept, delete=bounds[1], dry_run=dry_run)
                    total += pruned
                    pace.adapt(pruned.bytes)
                if progress is not None:
                    progress(total)
                await pace.rest()
        await self._database.fetch(_SQL["unlink"], *kept)
        if not dry_run:
            await self._sweep(pace, everything=bounds[1])
        return total

    async def _forget(
        self, wanted: Filter, pace: _Pace, *, dry_run: bool
    ) -> AsyncIterator[PruneReport]:
        """Bound the ledger: runs that are over and old."""
        async for run_ids in self._pages("runs", "over", wanted.older_than, wanted.graph):
            await pace.rest()
            for some in pace.pieces(run_ids):
                _, (row,) = await self._database.fetch_in_turn(
                    (_SQL["unhurried"], ()), (_SQL["forget"], (some, wanted.older_than, dry_run))
                )
                pace.adapt(row["bytes"])
                yield PruneReport(runs=row["runs"], bytes=row["bytes"])
                await pace.rest()

    async def _sweep(self, pace: _Pace, *, everything: bool) -> None:
        """Remove the fences of threads of which nothing else is left."""
        kept_ms = round(FENCE_KEPT.total_seconds() * 1000)
        async for thread_ids in self._pages("fences", "idle_fences", kept_ms, everything):
            await pace.rest()
            for some in pace.pieces(thread_ids):
                keys = [lock_key(thread_id, self._namespace) for thread_id in some]
                await self._database.fetch_in_turn(
                    (_SQL["unhurried"], ()),
                    (_SQL["hold_idle"], (some,)),
                    (_SQL["sweep"], (some, keys, kept_ms)),
                )
                pace.adapt(0)
                await pace.rest()

    async def _pages(self, table: str, block: str, *args: Any) -> AsyncIterator[list[str]]:
        """What a statement finds on the pages of a table, some of them after the other."""
        (sizes,) = await self._database.fetch(_SQL["sizes"])
        for first in range(0, sizes[table], _PAGES):
            rows = await self._database.fetch(_SQL[block], first, first + _PAGES, *args)
            yield [value for row in rows for value in row.values()]

    async def _old(
        self, wanted: Filter, before: str, everything: bool
    ) -> AsyncIterator[tuple[list[str], PruneReport]]:
        """Threads that have something to prune if their statuses are those wanted, step by step."""
        async for thread_ids, gone_through in self._go_through(wanted, before, everything):
            rows = await self._database.fetch(_SQL["with_a_past"], thread_ids, before, everything)
            yield [row["thread_id"] for row in rows], gone_through
        if everything:
            async for thread_ids in self._pages("runs", "only_in_the_ledger"):
                yield thread_ids, PruneReport(scanned=len(thread_ids))

    async def _go_through(
        self, wanted: Filter, before: str, everything: bool
    ) -> AsyncIterator[tuple[list[str], PruneReport]]:
        """What was written together lies together: in the order of the rows on disk a page is read,
        logged and written once for all that goes of it. In the order of their ids each thread has
        pages of its own."""
        if self._search.is_narrow(wanted):
            async for step in self._search.steps(wanted, size=_STEP):
                yield step.thread_ids, PruneReport(scanned=step.scanned)
            return
        (table,) = await self._database.fetch(_TABLE)
        for first in range(0, table["pages"], _PAGES):
            rows = await self._database.fetch(
                _SQL["threads_on_pages"], first, first + _PAGES, before, everything
            )
            progress = min((first + _PAGES) / table["pages"], 1.0)
            yield (
                [row["thread_id"] for row in rows],
                PruneReport(scanned=len(rows), progress=progress),
            )

    async def _look(self, thread_ids: Sequence[str], wanted: Filter) -> list[_Found]:
        """Those that may go."""
        # The tokens first: a lease taken after that shows in its token, whatever the status said.
        heads_of, args = self._classifier.heads(thread_ids, wanted)

        async def fetch(statement: str, *args: Any) -> list[list[dict[str, Any]]]:
            return await self._database.fetch_in_turn(
                (_SQL["unhurried"], ()), (_SQL["tokens"], (thread_ids,)), (statement, args)
            )

        _, tokens, heads = await self._classifier.fetch(fetch, heads_of, *args)
        known = {row["thread_id"]: row["token"] for row in tokens}
        return [
            _Found(row["thread_id"], known.get(row["thread_id"]), row["checkpoint_id"])
            for row in heads
        ]

    async def _prune(
        self, found: Sequence[_Found], kept: _Kept, *, delete: bool, dry_run: bool
    ) -> tuple[PruneReport, _Kept]:
        """Remove what may go of those found, and unlink what the transaction before has kept."""
        ids, seen, heads = map(list, zip(*found, strict=True))
        _, _, (row,), *_ = await self._database.fetch_in_turn(
            (_SQL["unhurried"], ()),
            (_SQL["claim"], (ids, seen)),
            (_SQL["prune"], (ids, seen, heads, delete, dry_run)),
            (_SQL["release"], (ids,)),
            (_SQL["unlink"], kept),
        )
        pruned = PruneReport(
            threads=row["threads"],
            rows=row["rows"],
            bytes=row["bytes"],
            skipped=row["busy"],
            unprunable=tuple(row["refused"]),
        )
        return pruned, _Kept(row["kept_threads"], row["kept_namespaces"], row["kept_ids"])


def checked(
    *,
    strategy: PruneStrategy = "keep_latest",
    older_than: Age,
    status: Statuses = (ThreadStatus.COMPLETE,),
    graph: str | None = None,
    batch_size: int = BATCH_SIZE,
    duty_cycle: float = DUTY_CYCLE,
    **_: Any,
) -> Filter:
    """Check the options of `prune` and return the filter that they mean.

    Raises:
        InvalidArgumentError: an invalid option.
    """
    if strategy not in ("keep_latest", "delete"):
        raise InvalidArgumentError(
            f'strategy must be "keep_latest" or "delete", got {strategy!r}', argument="strategy"
        )
    if not 1 <= batch_size <= 10_000:
        raise InvalidArgumentError(
            f"batch_size must be 1 to 10000 threads, got {batch_size}", argument="batch_size"
        )
    if not 0 < duty_cycle <= 1:
        raise InvalidArgumentError(
            f"duty_cycle must be above 0 and at most 1, got {duty_cycle}: 0.5 works half of the"
            " time",
            argument="duty_cycle",
        )
    wanted = Filter.of(status=status, older_than=older_than, graph=graph)
    if never := wanted.statuses & _NEVER:
        raise InvalidArgumentError(
            f"threads that are {', '.join(sorted(never))} cannot be pruned: they are about to write"
        )
    return wanted
