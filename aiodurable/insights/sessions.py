"""Who is connected: workers, and the sessions on which leases live."""

from __future__ import annotations

from typing import Final

from aiodurable.insights.models import LockSession, WorkerInsight
from aiodurable.models import LockHolder
from aiodurable.postgres.pool import PsycopgPool
from aiodurable.postgres.sql import load

__all__ = ["lock_sessions", "workers"]

_SQL = load("insights")
_MOST: Final = 1_000


async def workers(database: PsycopgPool) -> list[WorkerInsight]:
    """See `Insights.workers`."""
    rows = await database.fetch(_SQL["workers"], _MOST)
    return [
        WorkerInsight(queues=tuple(row.pop("queues")), graphs=tuple(row.pop("graphs")), **row)
        for row in rows
    ]


async def lock_sessions(database: PsycopgPool) -> list[LockSession]:
    """See `Insights.lock_sessions`."""
    sessions: list[LockSession] = []
    for row in await database.fetch(_SQL["lock_sessions"], _MOST):
        leases = row.pop("leases")
        holder = LockHolder(key=0, **row)
        sessions.append(
            LockSession(
                pid=holder.pid,
                application=holder.application,
                process=holder.process,
                client=holder.client,
                since=holder.since,
                leases=leases,
            )
        )
    return sessions
