"""`Threads`: the room's one door."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Sequence
from functools import partial
from typing import Unpack

from langgraph.checkpoint.serde.base import SerializerProtocol

from aiodurable.errors import ConfigurationError
from aiodurable.keys import check_thread_id
from aiodurable.model import ThreadStatus, WorkflowCheckpoint
from aiodurable.postgres.connections import Database
from aiodurable.postgres.links import Links
from aiodurable.postgres.together import Together
from aiodurable.threads.counting import Counting, ThreadCounts
from aiodurable.threads.filters import Age, Filter, Statuses, ThreadFilters, check_positive
from aiodurable.threads.history import History, ThreadStep
from aiodurable.threads.retention import BATCH, SHARE, Keep, Pruned, Retention
from aiodurable.threads.search import Search, ThreadPage
from aiodurable.threads.status import CLASSIFY, Classifier

__all__ = ["Threads"]


class Threads:
    """The threads of a database, looked at from outside: any thread, also one that only plain LangGraph has seen.

    Args:
        database: where they are; opened and closed by the caller.
        links: to the same place, for what every run asks under its lease; None: `database` will do.
        namespace: that of the locks.
        serde: LangGraph's serializer of the saver that wrote them.
    """

    def __init__(
        self, database: Database, *, namespace: str, serde: SerializerProtocol, links: Links | None = None
    ) -> None:
        self._links = links
        self.classifier = Classifier(database, namespace=namespace, serde=serde)
        # Runs ask for their thread when they begin and when they end: many at once, so in one statement.
        self._seen = Together(partial(self._classify, ignore_lock=False), name="aiodurable statuses")
        self._beneath = Together(partial(self._classify, ignore_lock=True), name="aiodurable statuses beneath leases")
        self._search = Search(database, self.classifier, namespace=namespace)
        self._counting = Counting(database, self._search, self.classifier)
        self._retention = Retention(database, self._search, self.classifier)
        self._history = History(database, serde=serde)

    async def status(self, thread_id: str, *, ignore_lock: bool = False) -> WorkflowCheckpoint:
        """Where a thread stands, by the rules of `aiodurable.threads.status`. A thread nobody knows is `new`.

        Args:
            thread_id: the thread.
            ignore_lock: the caller holds the lease itself and wants to know what lies beneath.

        Raises:
            ConfigurationError: a thread_id that cannot be stored.
            PostgresUnavailableError: Postgres could not be reached.
        """
        found = await (self._beneath if ignore_lock else self._seen)(check_thread_id(thread_id))
        assert found is not None, "every thread has a status"
        return found

    async def _classify(self, thread_ids: Sequence[str], *, ignore_lock: bool) -> dict[str, WorkflowCheckpoint]:
        if ignore_lock and self._links is not None:
            return await self.classifier.told(await self._links.fetch(CLASSIFY, *self.classifier.beneath(thread_ids)))
        found = await self.classifier.classify(thread_ids, ignore_lock=ignore_lock)
        return {checkpoint.thread_id: checkpoint for checkpoint in found}

    def find(
        self, *, after: str | None = None, limit: int | None = None, **filters: Unpack[ThreadFilters]
    ) -> AsyncIterator[WorkflowCheckpoint]:
        """The threads that pass every filter, ordered by thread_id as the database sorts text.

        Each step is read when it is needed: a thread that changes meanwhile is told as it is when its step is read.
        Crashed, complete and (where locks are held of which the ledger knows no run) running threads are sought among
        all threads, some 25,000 a second.

        Args:
            after: only threads whose id comes after this one.
            limit: at most so many.
            filters: see `ThreadFilters`.

        Raises:
            ConfigurationError: a filter that cannot be meant, or a limit below 1; at once, not at the first step.
            PostgresUnavailableError: Postgres could not be reached, at any step.
        """
        check_positive(limit=limit)
        return self._search.threads(Filter.of(**filters), after=after, limit=limit)

    async def page(
        self,
        *,
        after: str | None = None,
        limit: int = 100,
        look_at: int = 10_000,
        **filters: Unpack[ThreadFilters],
    ) -> ThreadPage:
        """One page of what `find` finds, in a bounded time: `threads, after = await threads.page(status="failed")`.

        Args:
            after: what the page before gave; None: the first page.
            limit: threads on the page, at most.
            look_at: threads to look at, at most, rounded up to a step of up to 1000. A page that reached it may be short
                or empty without being the last: the last one's `after` is None.
            filters: see `ThreadFilters`. Let all pages have the same; for ages that means moments.

        Raises:
            ConfigurationError: a filter that cannot be meant, or a number below 1.
            PostgresUnavailableError: Postgres could not be reached.
        """
        check_positive(limit=limit, look_at=look_at)
        return await self._search.page(Filter.of(**filters), after=after, limit=limit, look_at=look_at)

    async def counts(self, *, exact: bool = True, **filters: Unpack[ThreadFilters]) -> ThreadCounts:
        """How many threads have each status.

        Args:
            exact: True counts every thread that passes, as `find` finds them. False takes a bounded time, about a second
                for a million threads: complete and crashed threads of a large database are estimated from a sample, and
                what is rare is counted; the result says which.
            filters: see `ThreadFilters`; an estimate takes only `status`.

        Raises:
            ConfigurationError: a filter that cannot be meant.
            PostgresUnavailableError: Postgres could not be reached.
        """
        wanted = Filter.of(**filters)
        if exact:
            return await self._counting.count(wanted)
        if more := [name for name, value in filters.items() if name != "status" and value not in (None, False)]:
            raise ConfigurationError(
                f"an estimate takes no {', '.join(more)}: count exactly, or filter by status alone"
            )
        return await self._counting.estimate(wanted)

    def history(
        self, thread_id: str, *, before: str | None = None, limit: int | None = None
    ) -> AsyncIterator[ThreadStep]:
        """The steps of a thread, newest first; none for a thread nobody knows. Steps of subgraphs are not told.

        Args:
            thread_id: the thread.
            before: a checkpoint id: only steps older than that.
            limit: at most so many.

        Raises:
            ConfigurationError: a thread_id that cannot be stored, or a limit below 1; at once, not at the first step.
            PostgresUnavailableError: Postgres could not be reached, at any step.
        """
        check_positive(limit=limit)
        return self._history.steps(check_thread_id(thread_id), before=before, limit=limit)

    async def begun(self, thread_id: str, checkpoint_id: str) -> frozenset[str]:
        """The nodes that wrote something in the step after a checkpoint, finished or not.

        Raises:
            PostgresUnavailableError: Postgres could not be reached.
        """
        return await self._history.begun(thread_id, checkpoint_id)

    async def prune(
        self,
        *,
        keep: Keep = "latest",
        older_than: Age,
        statuses: Statuses = (ThreadStatus.COMPLETE,),
        graph: str | None = None,
        batch: int = BATCH,
        share: float = SHARE,
        dry_run: bool = False,
        progress: Callable[[Pruned], None] | None = None,
    ) -> Pruned:
        """Remove old checkpoints; a thread that is leased or goes on meanwhile is left alone.

        Args:
            keep: "latest" keeps what is needed to go on with a thread and drops its past; "nothing" drops the thread and
                its runs. Its fencing token stays: a stale writer must not meet the same number again.
            older_than: an age, or a moment with a time zone: only threads to which nothing was written since. Leave
                room for apps of plain LangGraph, which take no lease.
            statuses: only threads of these. Failed, interrupted and other threads that wait for somebody go only when
                named here; running and queued ones never.
            graph: only threads of this graph.
            batch: threads removed in one transaction, at most: fewer where they take longer than 30 ms, or
                hold more than 256 kB.
            share: of the time, how much is spent working; the rest is left to live traffic.
            dry_run: tell what would be removed, remove nothing.
            progress: called after each batch with what was removed so far.

        Raises:
            ConfigurationError: an argument that cannot be meant; nothing was removed.
            PostgresUnavailableError: Postgres could not be reached; earlier batches stay removed.
        """
        return await self._retention.prune(
            keep=keep,
            older_than=older_than,
            statuses=statuses,
            graph=graph,
            batch=batch,
            share=share,
            dry_run=dry_run,
            progress=progress,
        )
