"""`durable.runs`: accept runs for workers, and look at those there are."""

from __future__ import annotations

from collections.abc import AsyncIterable, Callable, Iterable, Mapping, Sequence
from datetime import datetime, timedelta
from typing import Any, Final, Unpack, overload

from langchain_core.runnables import RunnableConfig
from langgraph.graph import StateGraph
from langgraph.pregel import Pregel
from langgraph.types import Command

from aiodurable.errors import (
    InvalidArgumentError,
)
from aiodurable.models import RunRecord, RunStatus
from aiodurable.postgres.locked_rows import patiently
from aiodurable.queue.acceptance import Acceptance
from aiodurable.queue.create_many import BATCH, create_many
from aiodurable.queue.new_run import (
    DEFAULT_QUEUE,
    CreateOptions,
    NewRun,
    OnBusyThread,
    check_seconds,
    row_of,
)
from aiodurable.queue.records import SQL, not_found, queued_record
from aiodurable.queue.resume_many import ResumeReport, resume_many
from aiodurable.queue.retry import begin_again, no_retry
from aiodurable.queue.search import RunFilters, RunPage, newest, page
from aiodurable.queue.waiting import Waiting, is_over
from aiodurable.runs.call_types import ContextT, InputT, OutputT
from aiodurable.runs.cancel import settled_within
from aiodurable.runs.cancellation import CHANNEL
from aiodurable.runs.graphs import Graph
from aiodurable.runs.retry_policy import RetryPolicy
from aiodurable.runs.services import Services
from aiodurable.runs.threads import Threads
from aiodurable.thread_id import validate_run_id
from aiodurable.threads import ThreadFilters, check_positive

__all__ = ["Runs"]

list_of = list
"""`Runs.list` hides the built-in name inside of the class."""

_CANCELLABLE: Final = (RunStatus.QUEUED, RunStatus.RUNNING, RunStatus.FAILED, RunStatus.PAUSED)


class Runs:
    """The runs of a database, by run_id; those that `Durable.run` began are among them.

    Every method raises `ClosedError` while the `Durable` is not open, and
    `PostgresUnavailableError` where Postgres cannot be reached.

    Args:
        opened: gives the services of the `Durable`, or raises `ClosedError`.
        namespace: that of the locks.
    """

    def __init__(self, opened: Callable[[], Services], *, namespace: str) -> None:
        self._opened = opened
        self._namespace = namespace
        self._kept: Acceptance | None = None
        self._waits: tuple[Services, Waiting] | None = None

    @overload
    async def create(
        self,
        thread_id: str,
        graph: StateGraph[Any, ContextT, InputT, Any] | Pregel[Any, ContextT, InputT, Any],
        input: InputT | Command[Any],
        *,
        context: ContextT | None = None,
        **options: Unpack[CreateOptions],
    ) -> RunRecord: ...
    @overload
    async def create(
        self,
        thread_id: str,
        graph: str,
        input: Any,
        *,
        context: Any = None,
        **options: Unpack[CreateOptions],
    ) -> RunRecord: ...
    async def create(
        self,
        thread_id: str,
        graph: Graph,
        input: Any,
        *,
        run_id: str | None = None,
        on_busy: OnBusyThread = "enqueue",
        run_at: datetime | None = None,
        after: float | timedelta | None = None,
        priority: int = 0,
        fairness_key: str | None = None,
        concurrency_key: str | None = None,
        queue: str = DEFAULT_QUEUE,
        max_attempts: int | None = None,
        retry_policy: RetryPolicy | None = None,
        timeout: float | None = None,
        start_timeout: float | None = None,
        dedup_key: str | None = None,
        context: Any = None,
        config: RunnableConfig | None = None,
        metadata: Mapping[str, Any] | None = None,
        summary: str | None = None,
        conn: Any = None,
    ) -> RunRecord:
        """Accept a run: once this returns, a worker finishes it, or it is visibly set aside.

        Args:
            thread_id: the thread it advances.
            graph: the name under which workers have the graph, or the graph itself.
            input: the graph's input.
            run_id: names the run; the same one again returns the run there is.
            on_busy: where the thread has a run that is not over: "enqueue": after it, in order of
                acceptance; "reject": refuse; "interrupt": cancel what is at work, keep what it
                wrote, and go on from there; "rollback": cancel it, and remove what it wrote. Runs
                that wait in the queue are given up by these two, and so is an open question or a
                gate; runs that are due later are not. One that is due later does this when it is
                due.
            run_at: not before this moment.
            after: not before so many seconds from now, instead.
            priority: higher ones go first.
            fairness_key: workers serve the keys of a queue in rotation: one tenant's thousand runs
                do not stand before another's one.
            concurrency_key: counted by `max_running_per_key` of the queue.
            queue: which workers begin it.
            max_attempts: how often it may be tried before it is quarantined.
            retry_policy: when it is tried again; None: as the worker says.
            timeout: seconds that an attempt may take.
            start_timeout: seconds that it may wait to begin.
            dedup_key: where a run that is not over has the same key, that one is returned.
            context, config: as for `Durable.run`; what another process needs is stored.
            metadata: JSON of the caller's own, to search by.
            summary: what it is in one line, for lists.
            conn: a connection of the caller's, on this database: the run is accepted when its
                transaction commits, and not at all if that rolls back. asyncpg, psycopg
                (`AsyncConnection`), or SQLAlchemy (`AsyncConnection`, `AsyncSession`). For rows
                that others have locked it waits as long as its own `lock_timeout` says.

        Returns:
            The run: the new one, or the one that was there.

        Raises:
            RunInProgressError: the thread has a run that is not over ("reject").
            InvalidArgumentError: an argument cannot be used or stored, or the run_id is that of a
                run of another thread, graph or input; nothing was accepted.
            LockTimeoutError: another transaction kept a run that is to make way locked for 10
                seconds, or accepts one of this run_id or dedup_key; nothing was accepted.
            GraphNotRegisteredError: this `Durable` has graphs, and none of that name.
        """
        new = NewRun(
            thread_id=thread_id,
            graph=graph,
            input=input,
            run_id=run_id,
            on_busy=on_busy,
            run_at=run_at,
            after=after,
            priority=priority,
            fairness_key=fairness_key,
            concurrency_key=concurrency_key,
            queue=queue,
            max_attempts=max_attempts,
            retry_policy=retry_policy,
            timeout=timeout,
            start_timeout=start_timeout,
            dedup_key=dedup_key,
            context=context,
            config=config,
            metadata=metadata,
            summary=summary,
        )
        acceptance = self._acceptance()
        row = await row_of(acceptance.services, self._namespace, new)
        if conn is None:
            return await acceptance.one(new, row)
        (record,) = await acceptance.on(conn, [new], [row])
        return record

    async def create_many(
        self, runs: Iterable[NewRun] | AsyncIterable[NewRun], *, conn: Any = None
    ) -> tuple[RunRecord, ...]:
        """Accept many runs, 500 in a transaction; with `conn` all in its own.

        `runs` may be a generator: while 500 are written the next 500 are prepared, and no more are
        in memory. Where one is refused, those of the transactions before it are accepted: give them
        run_ids, and the whole call may be made again.

        Args:
            runs: what to accept. Those of one thread run in this order.
            conn: as for `create`.

        Returns:
            The runs, in the order given.

        Raises: as `create`.
        """
        return await create_many(self._acceptance(), runs, conn=conn)

    async def get(self, run_id: str) -> RunRecord:
        """The run of that id.

        Raises:
            RunNotFoundError: there is none.
            InvalidArgumentError: a run_id that cannot be stored.
        """
        validate_run_id(run_id)
        rows = await self._opened().checkpoints.database.fetch(SQL["get"], [run_id])
        if not rows:
            raise not_found(run_id)
        return queued_record(rows[0])

    async def list(
        self,
        *,
        after: str | None = None,
        limit: int = 100,
        **filters: Unpack[RunFilters],
    ) -> RunPage:
        """One page of the runs that pass every filter, by run_id.

        A run_id that was made by this library begins with the time: the pages are then in order of
        acceptance.

        Args:
            after: the page before's `after`; None: the first page.
            limit: runs on the page, at most.
            filters: see `RunFilters`: status, claim_state, thread_id, graph, queue, fairness_key,
                concurrency_key, schedule_id, metadata, older_than, newer_than.

        Raises:
            InvalidArgumentError: an invalid filter, or a limit below 1.
        """
        check_positive(limit=limit)
        return await page(self._opened(), filters, after=after, limit=limit)

    async def newest(
        self,
        *,
        after: str | None = None,
        limit: int = 100,
        max_scanned: int = 10_000,
        **filters: Unpack[RunFilters],
    ) -> RunPage:
        """One page of the runs that pass every filter, from the greatest run_id downwards, in a
        bounded time.

        A run_id that was made by this library begins with the time: the newest runs come first.

        Args:
            after: the page before's `after`; None: the first page.
            limit: runs on the page, at most.
            max_scanned: runs to read, at most, where no index has the filters'. A page that reached
                it may be short or empty without being the last: the last one's `after` is None.
            filters: as for `list`.

        Raises:
            InvalidArgumentError: an invalid filter, or a number below 1.
        """
        check_positive(limit=limit, max_scanned=max_scanned)
        return await newest(
            self._opened(), filters, after=after, limit=limit, max_scanned=max_scanned
        )

    @overload
    async def wait(
        self,
        run_id: str,
        graph: StateGraph[Any, Any, Any, OutputT] | Pregel[Any, Any, Any, OutputT],
        *,
        timeout: float | None = None,
    ) -> OutputT: ...
    @overload
    async def wait(
        self, run_id: str, graph: str | None = None, *, timeout: float | None = None
    ) -> Any: ...
    async def wait(
        self, run_id: str, graph: Graph | None = None, *, timeout: float | None = None
    ) -> Any:
        """Wait until a run is over, and return what its graph returned.

        A run that asks returns its questions, and one at a gate its state, as `ainvoke` does.

        Args:
            run_id: the run.
            graph: its graph, with which its output is read; None: the one that is registered here
                under the name that the run was accepted with.
            timeout: seconds to wait at most; None: as long as it takes.

        Raises:
            RunNotFoundError: it was never accepted.
            WaitTimeoutError: it was not over in time; it goes on.
            RunCancelledError: it was cancelled, or had to make way for another run.
            RunFailedError: it failed for good, or was refused; says with what.
            ResultPrunedError: it is complete, but its result is not stored any more.
            GraphNotRegisteredError: this process does not have its graph; `wait_first` needs none.
            InvalidArgumentError: the run was accepted for a graph of another name.
        """
        bound = None if graph is None else self._opened().graphs.bind(graph)
        run = await self.wait_first([run_id], timeout=timeout)
        return await self._waiting().result(run, bound)

    async def wait_first(
        self, run_ids: Iterable[str], *, timeout: float | None = None
    ) -> RunRecord:
        """Wait until one of several runs is over, and return it: of several the first of
        `run_ids`.

        Over is a run for which no worker does anything more; also one that failed or asks.

        Raises:
            RunNotFoundError: one of them was never accepted.
            WaitTimeoutError: none was over in time.
            InvalidArgumentError: no run_id, or a timeout that is none.
        """
        ids = [run_ids] if isinstance(run_ids, str) else [*run_ids]
        check_seconds("timeout", timeout)
        if not ids:
            raise InvalidArgumentError("cannot wait for no run: pass run_ids", argument="run_ids")
        return await self._waiting().first(ids, timeout)

    async def cancel(
        self, run_id: str, *, wait: bool = False, timeout: float | None = None
    ) -> RunRecord:
        """Cancel a run: one that waits is given up, one at work ends in whichever process.

        Who waits for it gets `RunCancelledError`. What is over, at a gate, or asks stays as it is.

        Args:
            run_id: the run.
            wait: return only when a run at work has ended and that is recorded.
            timeout: seconds to wait at most, with `wait`.

        Returns:
            The run, as it stands now.

        Raises:
            RunNotFoundError: it was never accepted.
            LockTimeoutError: the run did not end in time, and the request stays; or another
                transaction kept its row locked for 10 seconds, and nothing was requested.
        """
        check_seconds("timeout", timeout)
        validate_run_id(run_id)
        for thread_id, at_work in await self._cancel([run_id]):
            if at_work:
                await settled_within(self._opened(), thread_id, run_id, wait=wait, timeout=timeout)
        return await self.get(run_id)

    async def cancel_many(
        self, *, dry_run: bool = False, **filters: Unpack[RunFilters]
    ) -> tuple[str, ...]:
        """Cancel all runs that pass every filter, a page at a time. Does not wait for their ends.

        Args:
            dry_run: say which would be cancelled, cancel nothing.
            filters: see `RunFilters`; without `status` all that are not over.

        Returns:
            The run_ids of those cancelled.

        Raises:
            InvalidArgumentError: an invalid filter, or none at all.
            LockTimeoutError: another transaction kept a run locked for 10 seconds; those of the
                pages before are cancelled.
        """
        if not any(value is not None for value in filters.values()):
            raise InvalidArgumentError(
                "cannot cancel all runs there are: pass a filter, such as status or queue"
            )
        if filters.get("status") is None:
            filters["status"] = _CANCELLABLE
        cancelled, after = [], None
        while True:
            runs, after = await self.list(after=after, limit=BATCH, **filters)
            ids = [run.run_id for run in runs if not is_over(run)]
            if ids and not dry_run:
                await self._cancel(ids)
            cancelled += ids
            if after is None:
                return tuple(cancelled)

    async def retry(self, run_id: str) -> RunRecord:
        """Let a worker begin a run again that failed, was set aside, or was cancelled.

        It has all its attempts again. A run that never began goes to the end of its queue; one that
        did goes on from its last checkpoint. One that `Durable.run` began goes to the queue
        "default".

        Raises:
            RunNotFoundError: it was never accepted.
            ThreadCompleteError: it is complete.
            ThreadInterruptedError: it waits for an answer.
            LockTimeoutError: another transaction kept its row locked for 10 seconds; nothing was
                written.
            InvalidArgumentError: it was given up for another run, has no graph's name, or another
                run that is not over has its dedup_key.
        """
        validate_run_id(run_id)
        if (run := await begin_again(self._opened(), run_id)) is not None:
            return run
        run = await self.get(run_id)
        if run.status in (RunStatus.QUEUED, RunStatus.RUNNING):
            return run
        raise no_retry(run)

    async def resume_many(
        self,
        *,
        default_graph: Graph | None = None,
        concurrency: int = 10,
        dry_run: bool = False,
        limit: int | None = None,
        progress: Callable[[int, int], None] | None = None,
        **filters: Unpack[ThreadFilters],
    ) -> ResumeReport:
        """Resume in this process the threads that may go on without a person: crashed, failed and
        drained ones, also those that the ledger does not know.

        With `status="crashed"` also what plain LangGraph left behind where nothing in its tables
        says so; see `Threads.resumable`. One thread's failure does not stop the others.

        Args:
            default_graph: that of threads for which none is recorded.
            concurrency: threads at work at once.
            dry_run: say which would be resumed, resume nothing.
            limit: at most so many.
            progress: called after each thread with how many were resumed, and how many failed.
            filters: see `ThreadFilters`.

        Raises:
            InvalidArgumentError: an invalid filter, or a number below 1.
        """
        check_positive(concurrency=concurrency, limit=limit)
        threads = Threads(self._opened)
        found = threads.resumable(limit=limit, **filters)
        return await resume_many(
            threads,
            found,
            default_graph,
            concurrency=concurrency,
            dry_run=dry_run,
            progress=progress,
        )

    async def _cancel(self, run_ids: Sequence[str]) -> list_of[tuple[str, bool]]:
        """Thread and whether it is at work, of each run that was cancelled."""
        direct = self._opened().checkpoints.direct
        rows = await patiently(
            lambda: direct.fetch(SQL["cancel"], run_ids, CHANNEL), "cancel the runs", None
        )
        found = [(row["thread_id"], row["at_work"]) for row in rows]
        if threads := sorted({thread_id for thread_id, at_work in found if not at_work}):
            await self._opened().ledger.queued.promote(threads)
        return found

    def _waiting(self) -> Waiting:
        services = self._opened()
        if self._waits is None or self._waits[0] is not services:
            self._waits = (services, Waiting(services))
        return self._waits[1]

    def _acceptance(self) -> Acceptance:
        services = self._opened()
        if self._kept is None or self._kept.services is not services:
            self._kept = Acceptance(services, self._namespace)
        return self._kept
