"""`durable.runs`: accept runs for workers, and look at those there are."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from datetime import datetime, timedelta
from typing import Any

from langchain_core.runnables import RunnableConfig

from aiodurable.errors import RunNotFoundError
from aiodurable.models import RunRecord
from aiodurable.queue.acceptance import Acceptance
from aiodurable.queue.new_run import DEFAULT_QUEUE, NewRun, OnBusyThread, row_of
from aiodurable.queue.records import SQL, queued_record
from aiodurable.queue.retry_policy import RetryPolicy
from aiodurable.runs.graphs import Graph
from aiodurable.runs.services import Services
from aiodurable.thread_id import validate_run_id

__all__ = ["Runs"]


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
                wrote, and go on from there; "rollback": also remove what it wrote. Runs that wait
                in the queue are given up by the latter two, those that are due later are not.
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
                (`AsyncConnection`), or SQLAlchemy (`AsyncConnection`, `AsyncSession`).

        Returns:
            The run: the new one, or the one that was there.

        Raises:
            RunInProgressError: the thread has a run that is not over ("reject").
            InvalidArgumentError: an argument cannot be used or stored, or the run_id is that of a
                run of another thread, graph or input; nothing was accepted.
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

    async def get(self, run_id: str) -> RunRecord:
        """The run of that id.

        Raises:
            RunNotFoundError: there is none.
            InvalidArgumentError: a run_id that cannot be stored.
        """
        validate_run_id(run_id)
        row = await self._opened().checkpoints.database.fetch_one(SQL["get"], run_id)
        if row is None:
            raise RunNotFoundError(
                f"cannot find run {run_id!r}: it was never accepted, or was pruned; check the id",
                run_id=run_id,
            )
        return queued_record(row)

    def _acceptance(self) -> Acceptance:
        services = self._opened()
        if self._kept is None or self._kept.services is not services:
            self._kept = Acceptance(services, self._namespace)
        return self._kept
