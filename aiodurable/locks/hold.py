"""`async with locks.hold(…)`: a lease for the length of a body."""

from __future__ import annotations

import asyncio
from types import TracebackType
from typing import Protocol

from aiodurable.locks.lease import Lease
from aiodurable.locks.scope import CancelOnLost

__all__ = ["Hold"]


class Acquire(Protocol):
    """`PostgresLockManager.acquire`."""

    async def __call__(self, name: str, *, timeout: float | None) -> Lease:
        """A lease, in time."""
        ...


class Hold:
    """What `PostgresLockManager.hold` returns: entered once."""

    __slots__ = ("_acquire", "_cancel_on_lost", "_lease", "_loop", "_name", "_scope", "_timeout")

    def __init__(
        self,
        acquire: Acquire,
        name: str,
        timeout: float | None,
        loop: asyncio.AbstractEventLoop | None,
        *,
        cancel_on_lost: bool,
    ) -> None:
        self._acquire = acquire
        self._loop = loop
        self._name = name
        self._timeout = timeout
        self._cancel_on_lost = cancel_on_lost
        self._lease: Lease | None = None
        self._scope: CancelOnLost | None = None

    async def __aenter__(self) -> Lease:
        self._lease = await self._acquire(self._name, timeout=self._timeout)
        if self._cancel_on_lost:
            try:
                scope = CancelOnLost(self._lease)
                scope.enter(self._loop)
                self._scope = scope
            except BaseException:  # lost at once: the turn still has to be passed on
                await self._lease.release()
                raise
        return self._lease

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        assert self._lease is not None
        try:
            if self._scope is not None:
                self._scope.leave(error)
        finally:
            await self._lease.release()
        if error is None and self._cancel_on_lost and self._lease.lost:
            self._lease.check()
