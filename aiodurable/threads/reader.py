"""`Threads`: the room's one door."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Iterable, Sequence
from datetime import datetime, timedelta
from functools import partial

from langgraph.checkpoint.serde.base import SerializerProtocol

from aiodurable.errors import ConfigurationError
from aiodurable.keys import check_thread_id
from aiodurable.model import ThreadStatus, WorkflowCheckpoint
from aiodurable.postgres.connections import Database
from aiodurable.postgres.together import Together
from aiodurable.threads.history import History, ThreadStep
from aiodurable.threads.retention import Keep, Pruned, Retention
from aiodurable.threads.search import Filter, Search
from aiodurable.threads.status import Classifier

__all__ = ["Threads"]


class Threads:
    """The threads of a database, looked at from outside: any thread, also one that only plain LangGraph has seen.

    Args:
        database: where they are; opened and closed by the caller.
        namespace: that of the locks.
        serde: LangGraph's serializer of the saver that wrote them.
    """

    def __init__(self, database: Database, *, namespace: str, serde: SerializerProtocol) -> None:
        self._classifier = Classifier(database, namespace=namespace, serde=serde)
        # Runs ask for their thread when they begin and when they end: many at once, so in one statement.
        self._seen = Together(partial(self._classify, ignore_lock=False), name="aiodurable statuses")
        self._beneath = Together(partial(self._classify, ignore_lock=True), name="aiodurable statuses beneath leases")
        self._search = Search(database, self._classifier, namespace=namespace)
        self._retention = Retention(database, self._search, self._classifier)
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
        found = await self._classifier.classify(thread_ids, ignore_lock=ignore_lock)
        return {checkpoint.thread_id: checkpoint for checkpoint in found}

    def find(
        self,
        *,
        status: ThreadStatus | str | Iterable[ThreadStatus | str] | None = None,
        older_than: timedelta | datetime | None = None,
        newer_than: timedelta | datetime | None = None,
        graph: str | None = None,
        prefix: str | None = None,
        error: str | None = None,
        holder: str | None = None,
        after: str | None = None,
        limit: int | None = None,
    ) -> AsyncIterator[WorkflowCheckpoint]:
        """The threads that pass every filter, ordered by thread_id as the database sorts text.

        Each page is read when it is needed: a thread that changes meanwhile is told as it is when its page is read.

        Args:
            status: one status or several; None: any.
            older_than: an age, or a moment with a time zone: nothing was written since.
            newer_than: an age, or a moment with a time zone: something was written since. Both look at the time of the
                thread's newest checkpoint, by the clock of the host that wrote it; before the first one, at the time of
                its run in the ledger.
            graph: the name of its graph, where that is known.
            prefix: how its thread_id begins.
            error: a part of the text of its error.
            holder: a part of its holder's `application_name`, which for aiodurable's names host and process; implies
                that it is running.
            after: only threads whose id comes after this one: the last of the page before.
            limit: at most so many.

        Raises:
            ConfigurationError: an unknown status, a negative age, a datetime without a time zone, a limit below 1; at
                once, not at the first step.
            PostgresUnavailableError: Postgres could not be reached, at any step.
        """
        return self._search.threads(
            Filter.of(
                status=status,
                older_than=older_than,
                newer_than=newer_than,
                graph=graph,
                prefix=prefix,
                error=error,
                holder=holder,
                after=after,
                limit=limit,
            )
        )

    async def counts(
        self,
        *,
        status: ThreadStatus | str | Iterable[ThreadStatus | str] | None = None,
        prefix: str | None = None,
    ) -> dict[ThreadStatus, int]:
        """How many threads have each status, counted exactly: each is classified, some 25,000 a second.

        Statuses that nothing has are left out. With `status` only those are counted, which is quick for all but
        complete, crashed and running.

        Raises:
            ConfigurationError: an unknown status.
            PostgresUnavailableError: Postgres could not be reached.
        """
        return await self._search.counts(Filter.of(status=status, prefix=prefix))

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
        if limit is not None and limit < 1:
            raise ConfigurationError(f"limit must be 1 or more, got {limit}: leave it out for all steps")
        return self._history.steps(check_thread_id(thread_id), before=before, limit=limit)

    async def prune(
        self,
        *,
        keep: Keep = "latest",
        older_than: timedelta | datetime,
        statuses: Iterable[ThreadStatus | str] = (ThreadStatus.COMPLETE,),
        graph: str | None = None,
        batch: int = 100,
        share: float = 0.5,
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
            batch: threads removed in one transaction.
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
