"""What `durable.threads` reads: where threads stand and why, which there are, and their past."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from typing import Unpack

from aiodurable.errors import InvalidArgumentError
from aiodurable.models import ThreadStatus, WorkflowCheckpoint
from aiodurable.runs.check import ThreadCheck, check
from aiodurable.runs.decision import not_found
from aiodurable.runs.graphs import Graph
from aiodurable.runs.services import Services
from aiodurable.runs.why import Why, why
from aiodurable.thread_id import validate_text, validate_thread_id
from aiodurable.threads import (
    Filter,
    ThreadCounts,
    ThreadEffect,
    ThreadFilters,
    ThreadPage,
    ThreadStep,
    check_positive,
)
from aiodurable.threads.filters import Statuses
from aiodurable.threads.findings import Finding
from aiodurable.threads.verify import VerifyProgress, verify

__all__ = ["ThreadReads"]


class ThreadReads:
    """Reads threads; `Threads` says what also goes on with them and changes them.

    Args:
        opened: gives the services of the `Durable`, or raises `ClosedError`.
    """

    def __init__(self, opened: Callable[[], Services]) -> None:
        self._opened = opened

    async def get(self, thread_id: str) -> WorkflowCheckpoint:
        """Where a thread stands.

        Raises:
            ThreadNotFoundError: it has no checkpoint and no run; `status` returns `new`.
            InvalidArgumentError: a thread_id that cannot be stored.
        """
        found = await self.status(thread_id)
        if found.status is ThreadStatus.NEW:
            raise not_found(thread_id)
        return found

    async def status(self, thread_id: str) -> WorkflowCheckpoint:
        """Where a thread stands, by the tables and the live lock.

        `aiodurable.threads.status` has the rules. A thread without checkpoints and runs is `new`.

        Raises:
            InvalidArgumentError: a thread_id that cannot be stored.
        """
        return await self._opened().threads.status(thread_id)

    async def why(self, thread_id: str) -> Why:
        """Why a thread stands as it does, and what happens next: which rule decided its status,
        what a call, a worker or a schedule will do with it and when, and what a person can do.

        Reads only, in one snapshot, also on a standby; needs no graph. `str(…)` of it is a
        paragraph without states, questions and errors.

        Raises:
            InvalidArgumentError: a thread_id that cannot be stored.
        """
        return await why(self._opened(), thread_id)

    def verify(
        self,
        *,
        after: str | None = None,
        limit: int | None = None,
        batch_size: int = 500,
        threads_per_second: float | None = None,
        recheck_s: float = 2.0,
        progress: Callable[[VerifyProgress], None] | None = None,
    ) -> AsyncIterator[Finding]:
        """Compare what is stored with what must be, and give what must not be: forked lines, gaps,
        values, tokens and results that are lost, runs that no worker goes on with.

        Only reads, also on a standby: a batch of threads at a time, each in a READ ONLY transaction
        of one snapshot. What is found is looked at again before it is given.

        Args:
            after: only threads whose id comes after this one, as the database sorts text.
            limit: at most so many threads; then without the schedules.
            batch_size: threads of one transaction.
            threads_per_second: no more than so many; None: as fast as Postgres answers.
            recheck_s: seconds until a finding that a running process may be about to end is looked
                at again.
            progress: called after each batch.

        Returns:
            The findings, by thread_id; those about schedules last.

        Raises:
            InvalidArgumentError: a number out of range; at the call, not at the first step.
        """
        check_positive(limit=limit, batch_size=batch_size)
        validate_text(after=after)
        for name, value in (("threads_per_second", threads_per_second), ("recheck_s", recheck_s)):
            if value is not None and not value >= (0 if name == "recheck_s" else 1e-3):
                raise InvalidArgumentError(
                    f"cannot verify with {name}={value!r}: it must be more than 0", argument=name
                )
        return verify(
            self._opened().checkpoints.database,
            after=after,
            limit=limit,
            batch_size=batch_size,
            threads_per_second=threads_per_second,
            recheck_s=recheck_s,
            progress=progress,
        )

    def search(
        self,
        *,
        after: str | None = None,
        limit: int | None = None,
        **filters: Unpack[ThreadFilters],
    ) -> AsyncIterator[WorkflowCheckpoint]:
        """The threads that pass every filter, by thread_id.

        Reads a step at a time, when the iterator gets there: a thread that changes meanwhile is
        given as it is then. Crashed and complete threads are searched among all threads, some
        25,000 a second; so are running ones while locks are held that belong to no recorded run.

        Args:
            after: only threads whose id comes after this one, as the database sorts text.
            limit: at most so many.
            filters: see `ThreadFilters`: status, older_than, newer_than, graph, prefix, error,
                holder, orphaned, resumable, reason, doubtful.

        Raises:
            InvalidArgumentError: an invalid filter, or a limit below 1; at the call, not at the
                first step.
        """
        check_positive(limit=limit)
        validate_text(after=after)
        return self._opened().threads.search.threads(Filter.of(**filters), after=after, limit=limit)

    def resumable(
        self,
        *,
        after: str | None = None,
        limit: int | None = None,
        **filters: Unpack[ThreadFilters],
    ) -> AsyncIterator[WorkflowCheckpoint]:
        """The threads that may go on without a person: failed, crashed and drained ones.

        Not those at a gate, nor where plain LangGraph may have stopped at one, nor cancelled,
        quarantined or interrupted ones. Small indexes find them, however many threads there are.
        With `status` it is `search`.
        """
        if filters.get("status") is None:
            filters.setdefault("resumable", True)
        return self.search(after=after, limit=limit, **filters)

    async def search_page(
        self,
        *,
        after: str | None = None,
        limit: int = 100,
        max_scanned: int = 10_000,
        **filters: Unpack[ThreadFilters],
    ) -> ThreadPage:
        """One page of a search, in a bounded time: `threads, after = await
        …search_page(status="failed")`.

        Args:
            after: the page before's `after`; None: the first page.
            limit: threads on the page, at most.
            max_scanned: threads to read, at most. A page that reached it may be short or empty
                without being the last: the last one's `after` is None.
            filters: see `ThreadFilters`. Give every page the same; ages as moments.

        Raises:
            InvalidArgumentError: an invalid filter, or a number below 1.
        """
        check_positive(limit=limit, max_scanned=max_scanned)
        validate_text(after=after)
        search = self._opened().threads.search
        return await search.page(
            Filter.of(**filters), after=after, limit=limit, max_scanned=max_scanned
        )

    async def count(self, **filters: Unpack[ThreadFilters]) -> ThreadCounts:
        """How many threads have each status. Counts every thread that passes, as `search` finds
        them.

        Raises:
            InvalidArgumentError: an invalid filter.
        """
        return await self._opened().threads.counts.count(Filter.of(**filters))

    async def estimate_counts(self, *, status: Statuses | None = None) -> ThreadCounts:
        """The same in a bounded time, about a second for a million threads.

        Complete and crashed threads of a large database are estimated from a sample; what is rare
        is counted. The result says which.

        Args:
            status: only threads of these statuses; None: of all.

        Raises:
            InvalidArgumentError: an unknown status.
        """
        return await self._opened().threads.counts.estimate(Filter.of(status=status))

    def check(
        self,
        *,
        default_graph: Graph | None = None,
        after: str | None = None,
        limit: int | None = None,
        **filters: Unpack[ThreadFilters],
    ) -> AsyncIterator[ThreadCheck]:
        """What the graphs of this `Durable` would do with the unfinished threads there are; before
        a deploy.

        Reads of each thread what a call would read before going on: nodes, channels, questions,
        values, and the name of its graph. Runs nothing, builds no stored object, takes no lease,
        writes nothing.

        Args:
            default_graph: the graph of threads for which none is recorded; None: those are a
                problem.
            after: only threads whose id comes after this one.
            limit: at most so many.
            filters: see `ThreadFilters`. Without `status` all that are not complete.

        Returns:
            A `ThreadCheck` each, by thread_id, also of threads without a problem.

        Raises:
            InvalidArgumentError: an invalid filter, or a limit below 1.
            ConfigurationError: the graph cannot be run.
        """
        services = self._opened()
        check_positive(limit=limit)
        validate_text(after=after)
        default = None if default_graph is None else services.graphs.bind(default_graph)
        return check(services, default=default, after=after, limit=limit, filters=filters)

    def history(
        self, thread_id: str, *, before: str | None = None, limit: int | None = None
    ) -> AsyncIterator[ThreadStep]:
        """The steps of a thread, newest first: which nodes, when, how long, and who ran them. Not
        those of subgraphs.

        Args:
            thread_id: the thread; one nobody knows has none.
            before: a checkpoint id: only steps older than that.
            limit: at most so many.

        Raises:
            InvalidArgumentError: a thread_id that cannot be stored, or a limit below 1; at once,
                not at the first step.
        """
        check_positive(limit=limit)
        validate_text(before=before)
        history = self._opened().threads.history
        return history.steps(validate_thread_id(thread_id), before=before, limit=limit)

    async def effects(self, thread_id: str, *, limit: int = 100) -> tuple[ThreadEffect, ...]:
        """The side effects of a thread's nodes (`effect(name)`), newest first, without results.

        Pruning removes those of steps that are over.

        Args:
            thread_id: the thread; one nobody knows has none.
            limit: at most so many.

        Raises:
            InvalidArgumentError: a thread_id that cannot be stored, or a limit below 1.
        """
        check_positive(limit=limit)
        return await self._opened().threads.effects(thread_id, limit=limit)
