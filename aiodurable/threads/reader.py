"""`ThreadReader`: status, search, counts, history and pruning of the threads of one database."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial

from langgraph.checkpoint.serde.base import SerializerProtocol

from aiodurable.inert import Inert
from aiodurable.models import WorkflowCheckpoint
from aiodurable.postgres.batcher import Batcher
from aiodurable.postgres.direct import DirectPool
from aiodurable.postgres.pool import PsycopgPool
from aiodurable.postgres.sql import load
from aiodurable.thread_id import validate_thread_id
from aiodurable.threads.counts import Counting
from aiodurable.threads.effects import ThreadEffect, read_effects
from aiodurable.threads.history import History
from aiodurable.threads.prune import Retention
from aiodurable.threads.questions import Questions
from aiodurable.threads.search import Search
from aiodurable.threads.status import CLASSIFY, Classifier

__all__ = ["ThreadReader"]

_QUESTIONS = load("answers")["questions"]


class ThreadReader:
    """Reads the threads of a database, also those that only plain LangGraph has written.

    Every method raises `PostgresUnavailableError` where Postgres cannot be reached; an iterator at
    any step.

    Args:
        database: where the threads are. The caller opens and closes it.
        direct: direct connections to the same database, for the statuses that runs read under their
            lease; None: `database` serves these, too.
        namespace: the namespace of the locks.
        serde: the saver's serializer. It decodes values without building the stored objects.
    """

    def __init__(
        self,
        database: PsycopgPool,
        *,
        namespace: str,
        serde: SerializerProtocol,
        direct: DirectPool | None = None,
    ) -> None:
        self._database = database
        self._serde = serde = Inert(serde)
        self._direct = direct
        self.classifier = Classifier(database, namespace=namespace, serde=serde)
        # Every run reads its status when it starts and ends. One statement serves many of them.
        self._seen = Batcher(partial(self._classify, ignore_lock=False), name="aiodurable statuses")
        self._without_lock = Batcher(
            partial(self._classify, ignore_lock=True), name="aiodurable statuses without locks"
        )
        self.search = Search(database, self.classifier, namespace=namespace)
        self.counts = Counting(database, self.search, self.classifier)
        self.retention = Retention(database, self.search, self.classifier, namespace=namespace)
        self.history = History(database, serde=serde)

    async def status(self, thread_id: str, *, ignore_lock: bool = False) -> WorkflowCheckpoint:
        """See `aiodurable.runs.threads.Threads.status`.

        Args:
            thread_id: the thread.
            ignore_lock: compute the status as if nobody held the lease; for its holder.
        """
        found = await (self._without_lock if ignore_lock else self._seen)(
            validate_thread_id(thread_id)
        )
        assert found is not None, "every thread has a status"
        return found

    async def _classify(
        self, thread_ids: Sequence[str], *, ignore_lock: bool
    ) -> dict[str, WorkflowCheckpoint]:
        if ignore_lock and self._direct is not None:
            args = self.classifier.arguments(thread_ids)
            return await self.classifier.decode(
                await self.classifier.fetch(self._direct.fetch, CLASSIFY, *args)
            )
        found = await self.classifier.classify(thread_ids, ignore_lock=ignore_lock)
        return {checkpoint.thread_id: checkpoint for checkpoint in found}

    async def effects(self, thread_id: str, *, limit: int) -> tuple[ThreadEffect, ...]:
        """See `aiodurable.runs.threads.Threads.effects`."""
        return await read_effects(self._database, validate_thread_id(thread_id), limit=limit)

    async def questions(self, thread_id: str, *, serde: SerializerProtocol) -> Questions:
        """The open questions of the thread's newest step. Call it under the thread's lease.

        Args:
            thread_id: the thread.
            serde: decodes an answer that plain LangGraph left, for the run that will use it.
        """
        (row,) = await self._database.read(_QUESTIONS, thread_id)
        return Questions.of(row, question_serde=self._serde, answer_serde=serde)
