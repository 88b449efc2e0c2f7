"""Prunes checkpoints, threads and runs, in bounded batches that give way to live traffic.

A batch first reads the status, token and head of its threads. It then locks their fence rows and
removes only from threads whose token and head are unchanged: nobody took a lease of these
meanwhile, so pruning never touches the work of a durable run. Plain LangGraph takes no lock; only
`older_than` keeps pruning away from its threads.

Old finished runs leave the ledger. Of the newest run of a thread only its input, context and config
are removed. If a removed checkpoint had consumed a run's input, the input still counts as consumed.

A fence row outlives its thread. Removing a thread raises its token, so an earlier holder can no
longer write. The row itself is removed `FENCE_KEPT` later, when no statement with the old token can
still be in flight, provided that nobody holds the thread's lock. The next lease starts at token 1,
with a new lease id.

Old signals to threads of which nothing is known are removed, by either strategy.

Stopping at any moment is safe: each batch is one transaction, and the next call continues with what
is left.

Most of what a prune logs are whole pages. Where its role may, it has Postgres compress them.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Sequence
from datetime import timedelta
from typing import Any, NamedTuple

from aiodurable.lock_keys import lock_key
from aiodurable.postgres.pool import PsycopgPool
from aiodurable.postgres.sql import load
from aiodurable.threads.filters import Age, Filter, Statuses
from aiodurable.threads.prune_options import PruneReport, PruneStrategy, checked
from aiodurable.threads.prune_pace import Pace, PageRanges
from aiodurable.threads.search import CLOCKS, Search, first_id
from aiodurable.threads.status import Classifier

__all__ = ["FENCE_KEPT", "Retention"]

_SQL = load("prune")
_TABLE = load("threads")["pages"]


_PAGES = 512
"""Pages that one statement scans, at most: 4 MB. Of `checkpoints` half of them at least: with fewer
threads on them, statements and transactions of a few threads cost more than the threads."""

_FEWEST_PAGES = 16
"""Pages of the ledger and of fences that one statement scans, at least. Where it looks up each of
their rows, these take 3 ms."""

_ALL_PAGES = (0, 2**32 - 1)
"""Postgres numbers pages with 32 bits; the last number stands for none."""

_STEP = 1000
"""Threads that one statement scans when it reads them by id."""

_READ = 100
"""Threads whose status one statement reads, at most: some 5 ms. The statement itself costs as much
as 12."""

_CHECKPOINTS = 1000
"""Checkpoints of the threads of a transaction, at most, unless one thread has more. `Pace` knows
only how long the threads before were."""

FENCE_KEPT = timedelta(hours=1)
"""How long the fence row of a removed thread is kept."""


class _Found(NamedTuple):
    """A thread that may be pruned, with its fence (None: nobody ever took a lease) and its head
    (None: it has no checkpoint) when its status was read."""

    thread_id: str
    token: int | None
    lease_id: int | None
    head_id: str | None


class _Kept(NamedTuple):
    """Checkpoints whose parents were removed."""

    thread_ids: Sequence[str]
    namespaces: Sequence[str]
    checkpoint_ids: Sequence[str]


_NONE_KEPT = _Kept([], [], [])

_Statement = tuple[str, Sequence[Any]]
"""A statement and its parameters."""


class Retention:
    """Prunes the threads of a database.

    Args:
        database: where the threads are.
        search: finds them.
        classifier: computes their statuses.
        namespace: the namespace of the locks.
    """

    def __init__(
        self, database: PsycopgPool, search: Search, classifier: Classifier, *, namespace: str
    ) -> None:
        self._database = database
        self._search = search
        self._classifier = classifier
        self._namespace = namespace
        self._first = _SQL["relaxed_commit"]

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
        before = first_id(wanted.older_than + CLOCKS)
        total = PruneReport()
        kept = _NONE_KEPT
        pace = Pace(batch_size, duty_cycle)
        reading = Pace(_READ, duty_cycle)
        delete = strategy == "delete"
        self._first = await self._commit_statement()

        async def forget() -> None:
            nonlocal total
            async for forgotten in self._forget(wanted, pace, dry_run=dry_run):
                total += forgotten
                if progress is not None:
                    progress(total)

        # A thread's runs go with it, and those that are old would go by themselves: counted before,
        # a dry run counts the same. Otherwise threads come first: a prune that is stopped has then
        # removed the most.
        if delete:
            await forget()
        async for old, scanned in self._old(wanted, before, delete):
            total += scanned
            if progress is not None and not old:
                progress(total)
            await pace.rest()
            for some in reading.pieces(old):
                reading.begin()
                found = await self._prunable(some, wanted)
                if progress is not None and not found:
                    progress(total)
                reading.adapt()
                await reading.rest()
                pace.begin()
                for batch in pace.pieces(found):
                    taken, pruned, kept = await self._prune(
                        batch, kept, delete=delete, dry_run=dry_run
                    )
                    total += pruned
                    pace.adapt(taken, rows=pruned.rows, removed=pruned.bytes)
                    if progress is not None:
                        progress(total)
                    await pace.rest()
        await self._database.fetch(_SQL["clear_parents"], *kept)
        if not delete:
            await forget()
        if not dry_run:
            if graph is None:
                await self._remove_stray_signals(wanted, pace)
            await self._sweep(pace, everything=delete)
        return total

    async def _commit_statement(self) -> str:
        """The first statement of each transaction, as this server knows it."""
        (server,) = await self._database.fetch(_SQL["knows_lz4"])
        return _SQL["compressed_commit" if server["knows_lz4"] else "relaxed_commit"]

    async def _in_turn(self, *statements: _Statement) -> list[list[dict[str, Any]]]:
        """Run statements in one transaction that waits for no disk; each has its own snapshot."""
        _, *answers = await self._database.fetch_in_turn((self._first, ()), *statements)
        return answers

    async def _forget(
        self, wanted: Filter, pace: Pace, *, dry_run: bool
    ) -> AsyncIterator[PruneReport]:
        """Remove old finished runs from the ledger."""
        async for run_ids in self._pages("runs", "finished_runs", wanted.older_than, wanted.graph):
            await pace.rest()
            for some in pace.pieces(run_ids):
                ((row,),) = await self._in_turn(
                    (_SQL["remove_finished_runs"], (some, wanted.older_than, dry_run)),
                )
                pace.adapt(rows=row["runs"], removed=row["bytes"])
                yield PruneReport(runs=row["runs"], bytes=row["bytes"])
                await pace.rest()

    async def _remove_stray_signals(self, wanted: Filter, pace: Pace) -> None:
        """Remove old signals that were sent to threads that do not exist."""
        async for thread_ids in self._pages("signals", "stray_signals", wanted.older_than):
            await pace.rest()
            for some in pace.pieces(thread_ids):
                await self._in_turn(
                    (_SQL["remove_stray_signals"], (some, wanted.older_than)),
                )
                pace.adapt()
                await pace.rest()

    async def _sweep(self, pace: Pace, *, everything: bool) -> None:
        """Remove the fence rows of threads that have no other rows."""
        kept_ms = round(FENCE_KEPT.total_seconds() * 1000)
        async for thread_ids in self._pages("fences", "idle_fences", kept_ms, everything):
            await pace.rest()
            for some in pace.pieces(thread_ids):
                keys = [lock_key(thread_id, self._namespace) for thread_id in some]
                await self._in_turn(
                    (_SQL["hold_idle_fences"], (some,)),
                    (_SQL["remove_idle_fences"], (some, keys, kept_ms)),
                )
                pace.adapt()
                await pace.rest()

    async def _pages(self, table: str, block: str, *args: Any) -> AsyncIterator[list[str]]:
        """The ids that a statement finds in each range of a table's pages."""
        (sizes,) = await self._database.fetch(_SQL["sizes"])
        scan = PageRanges(sizes[table], fewest=_FEWEST_PAGES, most=_PAGES)
        for pages in scan:
            with scan.timed():
                rows = await self._database.fetch(_SQL[block], *pages, *args)
            yield [value for row in rows for value in row.values()]

    async def _old(
        self, wanted: Filter, before: str, everything: bool
    ) -> AsyncIterator[tuple[list[str], PruneReport]]:
        """Threads that have something to prune, provided that their status matches; in steps."""
        scan = (
            self._by_id(wanted, before, everything)
            if self._search.is_narrow(wanted)
            else self._by_place(before, everything)
        )
        async for old, scanned in scan:
            yield old, scanned
        if everything:
            async for thread_ids in self._pages("runs", "threads_without_checkpoint"):
                yield thread_ids, PruneReport(scanned=len(thread_ids))

    async def _by_id(
        self, wanted: Filter, before: str, everything: bool
    ) -> AsyncIterator[tuple[list[str], PruneReport]]:
        async for step in self._search.steps(wanted, size=_STEP):
            old = await self._with_history(step.thread_ids, before, everything, _ALL_PAGES)
            yield old, PruneReport(scanned=step.scanned)

    async def _by_place(
        self, before: str, everything: bool
    ) -> AsyncIterator[tuple[list[str], PruneReport]]:
        """Scan in the order of the rows on disk: threads written together share pages, so each page
        is read, logged and written once for all its threads. In the order of thread ids it would be
        once for each thread."""
        (table,) = await self._database.fetch(_TABLE)
        scan = PageRanges(table["pages"], fewest=_PAGES // 2, most=_PAGES)
        for pages in scan:
            with scan.timed():
                rows = await self._database.fetch(
                    _SQL["threads_on_pages"], *pages, before, everything
                )
                thread_ids = [row["thread_id"] for row in rows]
                old = await self._with_history(thread_ids, before, everything, pages)
            progress = min(pages[1] / table["pages"], 1.0)
            yield old, PruneReport(scanned=len(thread_ids), progress=progress)

    async def _with_history(
        self, thread_ids: Sequence[str], before: str, everything: bool, pages: tuple[int, int]
    ) -> list[str]:
        if not thread_ids:
            return []
        rows = await self._database.fetch(
            _SQL["threads_with_history"], thread_ids, before, everything, *pages
        )
        return [row["thread_id"] for row in rows]

    async def _prunable(self, thread_ids: Sequence[str], wanted: Filter) -> list[_Found]:
        """The threads whose status matches, in the given order."""
        # Read the tokens first: a lease that is taken after this changes the token, whatever status
        # is read.
        heads_of, args = self._classifier.heads(thread_ids, wanted)

        async def fetch(statement: str, *args: Any) -> list[list[dict[str, Any]]]:
            return await self._in_turn((_SQL["tokens"], (thread_ids,)), (statement, args))

        tokens, heads = await self._classifier.fetch(fetch, heads_of, *args)
        known = {row["thread_id"]: (row["token"], row["lease_id"]) for row in tokens}
        head_of = {row["thread_id"]: row["checkpoint_id"] for row in heads}
        return [
            _Found(thread_id, *known.get(thread_id, (None, None)), head_of[thread_id])
            for thread_id in thread_ids
            if thread_id in head_of
        ]

    async def _prune(
        self,
        found: Sequence[_Found],
        kept: _Kept,
        *,
        delete: bool,
        dry_run: bool,
    ) -> tuple[int, PruneReport, _Kept]:
        """Prune as many of these threads as a transaction may, the first ones, and unlink the
        checkpoints that the previous transaction kept. Returns how many these were, too.
        """
        fences_and_heads = map(list, zip(*found, strict=True))
        unleased = [thread.thread_id for thread in found if thread.token is None]
        lock, unlock = (
            [(_SQL[block], (unleased,))] if unleased else []
            for block in ("insert_missing_fences", "delete_unused_fences")
        )
        answers = await self._in_turn(
            *lock,
            (_SQL["prune"], (*fences_and_heads, delete, dry_run, _CHECKPOINTS)),
            *unlock,
            (_SQL["clear_parents"], kept),
        )
        (row,) = answers[len(lock)]
        pruned = PruneReport(
            threads=row["threads"],
            rows=row["rows"],
            bytes=row["bytes"],
            skipped=row["busy"],
            unprunable=tuple(row["refused"]),
        )
        after = _Kept(row["kept_threads"], row["kept_namespaces"], row["kept_ids"])
        return row["taken"], pruned, after
