"""Starting before Postgres is ready."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence

import stamina

from aiodurable.errors import PostgresUnavailableError
from aiodurable.events import Observer
from aiodurable.locks.manager import PostgresLockManager
from aiodurable.settings import Settings

__all__ = ["create_lock_manager_with_retry"]


def _may_pass(error: Exception) -> bool:
    """A wrong password or database does not get better by waiting; everything else of a start may."""
    state: str = getattr(error.__cause__, "sqlstate", None) or ""
    return isinstance(error, PostgresUnavailableError) and not state.startswith(("28", "3D"))


async def create_lock_manager_with_retry(
    dsn: str | None = None,
    *,
    timeout: float = 30.0,
    sessions: int = 2,
    namespace: str = "aiodurable",
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
    try:
        async with asyncio.timeout(timeout):
            async for attempt in stamina.retry_context(
                on=_may_pass, attempts=None, timeout=None, wait_initial=0.1, wait_max=2.0, wait_jitter=0.5
            ):
                with attempt:
                    await locks.open()
    except TimeoutError as error:
        raise PostgresUnavailableError(
            f"wanted a lock manager within {timeout:g} s, found Postgres not ready all that time: "
            "is it running, and are host and port right?"
        ) from error
    return locks
