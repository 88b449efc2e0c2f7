"""Starting before Postgres is ready."""

from __future__ import annotations

from collections.abc import Sequence

from aiodurable.events import Observer
from aiodurable.locks.manager import PostgresLockManager
from aiodurable.postgres.startup import wait_until_ready
from aiodurable.settings import Settings

__all__ = ["create_lock_manager_with_retry"]


async def create_lock_manager_with_retry(
    dsn: str | None = None,
    *,
    timeout: float = 30.0,
    sessions: int | None = None,
    namespace: str | None = None,
    settings: Settings | None = None,
    observers: Sequence[Observer] = (),
) -> PostgresLockManager:
    """An opened `PostgresLockManager`, however long Postgres takes to come up within `timeout` seconds.

    Waits between two tries grow from 0.1 s to 2 s, with jitter. A refused user, password or database is raised at once.
    The other arguments are those of `PostgresLockManager`. The caller closes it.

    Raises:
        PostgresUnavailableError: Postgres was not ready in time.
        PoolerNotSupportedError: the connection cannot hold session locks.
    """
    locks = PostgresLockManager(dsn, sessions=sessions, namespace=namespace, settings=settings, observers=observers)
    await wait_until_ready(locks.open, wanted="a lock manager", timeout_s=timeout)
    return locks
