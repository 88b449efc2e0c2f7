"""`durable.insights`: what the database is doing, in numbers."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from datetime import timedelta
from typing import Any

from aiodurable.errors import InvalidArgumentError
from aiodurable.events import OperatorActed, emit
from aiodurable.insights.audit import action_name, actor_name, audit_record, stored_details
from aiodurable.insights.database import database_health
from aiodurable.insights.models import (
    AuditPage,
    AuditRecord,
    DatabaseHealth,
    Latencies,
    LockSession,
    Overview,
    QueueInsight,
    ScheduleInsight,
    StatusSample,
    Throughput,
    WorkerInsight,
)
from aiodurable.insights.overview import CountedThreads, overview
from aiodurable.insights.queues import Waiting, queues, waiting
from aiodurable.insights.schedules import schedules
from aiodurable.insights.sessions import lock_sessions, workers
from aiodurable.insights.throughput import history, latencies, throughput
from aiodurable.postgres.sql import load
from aiodurable.runs.services import Services
from aiodurable.thread_id import validate_run_id, validate_text, validate_thread_id
from aiodurable.threads import check_positive

__all__ = ["Insights"]

_SQL = load("insights")


class Insights:
    """What the database is doing, in numbers; each in a bounded time, with millions of threads too.

    Works with a `Durable` that only looks (`lock_connections=0`), and on a standby; what a standby
    does not know is None there. Every method raises `ClosedError` while the `Durable` is not open,
    and `PostgresUnavailableError` where Postgres cannot be reached.

    Args:
        opened: gives the services of the `Durable`, or raises `ClosedError`.
    """

    def __init__(self, opened: Callable[[], Services]) -> None:
        self._opened = opened
        self._threads: tuple[Services, CountedThreads] | None = None

    async def overview(self, *, max_age_s: float = 30.0) -> Overview:
        """All of the database at once.

        Args:
            max_age_s: this process counts the threads no more often than so many seconds; with
                5,000 threads and more it uses the newest sample of the workers. 0: count them now,
                which takes about a third of a second with a million threads.

        Raises:
            InvalidArgumentError: a negative age.
        """
        _check("max_age_s", max_age_s, least=0)
        services = self._opened()
        found = await waiting(services.checkpoints.database)
        return await self._overview(services, found, max_age_s)

    async def overview_and_queues(
        self, *, max_age_s: float = 30.0
    ) -> tuple[Overview, list[QueueInsight]]:
        """Both of them, by fewer statements than one after the other. See `overview`, `queues`.

        Raises:
            InvalidArgumentError: a negative age.
        """
        _check("max_age_s", max_age_s, least=0)
        services = self._opened()
        database = services.checkpoints.database
        found = await waiting(database)
        now = await self._overview(services, found, max_age_s)
        return now, await queues(database, found)

    async def _overview(self, services: Services, found: Waiting, max_age_s: float) -> Overview:
        # Opened again, it may be in another event loop: what counted before is of no use.
        if self._threads is None or self._threads[0] is not services:
            self._threads = (services, CountedThreads())
        return await overview(services, self._threads[1], found, max_age_s=max_age_s)

    async def history(self, hours: float = 24) -> list[StatusSample]:
        """The samples of the last hours, oldest first. Workers take one each five minutes, and keep
        those of 25 hours: without workers there are none.

        Raises:
            InvalidArgumentError: not above 0.
        """
        _check("hours", hours)
        return await history(self._opened().checkpoints.database, hours=hours)

    async def throughput(self, minutes: float = 60) -> Throughput:
        """How many runs ended in the last minutes, by how; the newest 20,000 at most.

        Raises:
            InvalidArgumentError: not above 0.
        """
        _check("minutes", minutes)
        return await throughput(self._opened().checkpoints.database, minutes=minutes)

    async def latencies(self, minutes: float = 60) -> list[Latencies]:
        """How long runs waited and took, by graph: of the newest 5,000 that ended in the last
        minutes.

        Raises:
            InvalidArgumentError: not above 0.
        """
        _check("minutes", minutes)
        return await latencies(self._opened().checkpoints.database, minutes=minutes)

    async def queues(self) -> list[QueueInsight]:
        """The queues by name: what waits in each, for how long, and for which keys. Counting stops
        at 5,000 of a state and queue, earlier where there are many queues.
        """
        database = self._opened().checkpoints.database
        return await queues(database, await waiting(database))

    async def workers(self) -> list[WorkerInsight]:
        """The workers by name, at most 1,000. One that died is listed for some minutes, as not
        alive.
        """
        return await workers(self._opened().checkpoints.database)

    async def lock_sessions(self) -> list[LockSession]:
        """The connections on which leases live, at most 1,000, those with the most leases first. A
        standby has none.
        """
        return await lock_sessions(self._opened().checkpoints.database)

    async def schedules(
        self, *, limit: int = 100, after: str | None = None
    ) -> list[ScheduleInsight]:
        """Schedules by schedule_id, with what comes next and what came last.

        Args:
            limit: schedules, at most.
            after: only those whose schedule_id comes after this one.

        Raises:
            InvalidArgumentError: a limit below 1.
        """
        check_positive(limit=limit)
        validate_text(after=after)
        database = self._opened().checkpoints.database
        return await schedules(database, limit=limit, after=after or "")

    async def database(self, *, older_than: timedelta = timedelta(days=30)) -> DatabaseHealth:
        """The sizes of the tables, what is dead in them, and what a prune would remove.

        Args:
            older_than: the age that `prunable` is about.

        Raises:
            InvalidArgumentError: a negative age.
        """
        if older_than < timedelta():
            raise InvalidArgumentError(
                f"cannot use older_than={older_than}: it must be 0 or more", argument="older_than"
            )
        return await database_health(self._opened().checkpoints.database, older_than=older_than)

    async def audit(
        self, *, limit: int = 100, before: int | None = None, thread_id: str | None = None
    ) -> AuditPage:
        """One page of what people did, newest first; workers remove what is older than 90 days.

        Args:
            limit: records, at most.
            before: the page before's `before`; None: the newest.
            thread_id: only what was done to this thread.

        Raises:
            InvalidArgumentError: a limit below 1, or a thread_id that cannot be stored.
        """
        check_positive(limit=limit)
        if thread_id is not None:
            validate_thread_id(thread_id)
        rows = await self._opened().checkpoints.database.fetch(
            _SQL["audit"], before, thread_id, limit + 1
        )
        records = tuple(map(audit_record, rows[:limit]))
        return AuditPage(records, records[-1].id if len(rows) > limit else None)

    async def record(
        self,
        actor: str,
        action: str,
        *,
        thread_id: str | None = None,
        run_id: str | None = None,
        details: Mapping[str, Any] | None = None,
    ) -> AuditRecord:
        """Record what somebody did, and emit `OperatorActed`; it is committed when this returns.

        Args:
            actor: who, at most 200 characters.
            action: what, such as "threads.cancel", at most 100 characters.
            thread_id, run_id: whose, if it is about one.
            details: more of it, as JSON of at most 10,000 characters. Never a state, an input or an
                answer.

        Raises:
            InvalidArgumentError: something is empty, too long, or cannot be stored.
            PostgresUnavailableError: also where this role may not write it.
        """
        services = self._opened()
        values = (
            actor_name(actor),
            action_name(action),
            None if thread_id is None else validate_thread_id(thread_id),
            None if run_id is None else validate_run_id(run_id),
            stored_details(details or {}),
        )
        (row,) = await services.checkpoints.database.fetch(_SQL["record"], *values)
        found = audit_record(row)
        emit(
            services.observers,
            OperatorActed(
                thread_id=thread_id or "", actor=found.actor, action=found.action, run_id=run_id
            ),
        )
        return found


def _check(name: str, value: float, *, least: float | None = None) -> None:
    if not (0 < value < 1e6 if least is None else least <= value < 1e9):
        wanted = "above 0" if least is None else f"{least} or more"
        raise InvalidArgumentError(
            f"cannot use {name}={value!r}: it must be {wanted}", argument=name
        )
