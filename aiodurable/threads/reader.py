"""`Threads`: the room's one door."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Sequence
from functools import partial
from typing import Unpack

from langgraph.checkpoint.serde.base import SerializerProtocol

from aiodurable.errors import InvalidArgumentError
from aiodurable.inert import Inert
from aiodurable.models import ThreadStatus, WorkflowCheckpoint
from aiodurable.postgres.batcher import Batcher
from aiodurable.postgres.direct import DirectPool
from aiodurable.postgres.pool import PsycopgPool
from aiodurable.postgres.sql import load
from aiodurable.thread_id import validate_thread_id
from aiodurable.threads.counts import Counting, ThreadCounts
from aiodurable.threads.filters import Age, Filter, Statuses, ThreadFilters, check_positive
from aiodurable.threads.history import History, ThreadStep
from aiodurable.threads.prune import BATCH, SHARE, Keep, Pruned, Retention
from aiodurable.threads.questions import Questions
from aiodurable.threads.search import Search, ThreadPage
from aiodurable.threads.status import CLASSIFY, Classifier, Standing

__all__ = ["Threads"]

_QUESTIONS = load("answers")["questions"]


class Threads:
    """The threads of a database, looked at from outside: any thread, also one that only plain LangGraph has seen.

    What all methods raise: `PostgresUnavailableError`, where Postgres could not be reached; an iterator, at any step.

    Args:
        database: where they are; opened and closed by the caller.
        links: to the same place, for what every run asks under its lease; None: `database` will do.
        namespace: that of the locks.
        serde: the serializer of the saver that wrote them; values are read without building them.
    """

    def __init__(
        self, database: PsycopgPool, *, namespace: str, serde: SerializerProtocol, links: DirectPool | None = None
    ) -> None:
        self._database = database
        self._serde = serde = Inert(serde)
        self._links = links
        self.classifier = Classifier(database, namespace=namespace, serde=serde)
        # Runs ask for their thread when they begin and when they end: many at once, so in one statement.
        self._seen = Batcher(partial(self._classify, ignore_lock=False), name="aiodurable statuses")
        self._beneath = Batcher(partial(self._classify, ignore_lock=True), name="aiodurable statuses beneath leases")
        self._search = Search(database, self.classifier, namespace=namespace)
        self._counting = Counting(database, self._search, self.classifier)
        self._retention = Retention(database, self._search, self.classifier, namespace=namespace)
        self._history = History(database, serde=serde)

    async def status(self, thread_id: str, *, ignore_lock: bool = False) -> WorkflowCheckpoint:
        """See `Durable.get_checkpoint_status`.

        Args:
            thread_id: the thread.
            ignore_lock: the caller holds the lease itself and wants to know what lies beneath.
        """
        found = await (self._beneath if ignore_lock else self._seen)(validate_thread_id(thread_id))
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
        """See `Durable.find_workflows`."""
        check_positive(limit=limit)
        return self._search.threads(Filter.of(**filters), after=after, limit=limit)

    def standing(
        self, *, after: str | None = None, limit: int | None = None, **filters: Unpack[ThreadFilters]
    ) -> AsyncIterator[list[Standing]]:
        """What `find` gives, some at a time and without their details."""
        check_positive(limit=limit)
        return self._search.standing(Filter.of(**filters), after=after, limit=limit)

    async def page(
        self,
        *,
        after: str | None = None,
        limit: int = 100,
        look_at: int = 10_000,
        **filters: Unpack[ThreadFilters],
    ) -> ThreadPage:
        """See `Durable.page`."""
        check_positive(limit=limit, look_at=look_at)
        return await self._search.page(Filter.of(**filters), after=after, limit=limit, look_at=look_at)

    async def counts(self, *, exact: bool = True, **filters: Unpack[ThreadFilters]) -> ThreadCounts:
        """See `Durable.counts`."""
        wanted = Filter.of(**filters)
        if exact:
            return await self._counting.count(wanted)
        if more := [name for name, value in filters.items() if name != "status" and value not in (None, False)]:
            raise InvalidArgumentError(
                f"an estimate takes no {', '.join(more)}: count exactly, or filter by status alone"
            )
        return await self._counting.estimate(wanted)

    def history(
        self, thread_id: str, *, before: str | None = None, limit: int | None = None
    ) -> AsyncIterator[ThreadStep]:
        """See `Durable.history`."""
        check_positive(limit=limit)
        return self._history.steps(validate_thread_id(thread_id), before=before, limit=limit)

    async def questions(self, thread_id: str, *, serde: SerializerProtocol) -> Questions:
        """What the thread's newest step asks; to be called under its lease.

        Args:
            thread_id: the thread.
            serde: how the run that goes on reads an answer that plain LangGraph left.
        """
        row = await self._database.fetch_one(_QUESTIONS, thread_id)
        assert row is not None, "an aggregate has a row"
        return Questions.of(row, looking=self._serde, going_on=serde)

    async def begun(self, thread_id: str, checkpoint_id: str) -> frozenset[str]:
        """The nodes that wrote something in the step after a checkpoint, finished or not."""
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
        """See `Durable.prune`."""
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
