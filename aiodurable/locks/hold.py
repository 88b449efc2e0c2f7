"""`async with locks.hold(…)`: a lease for the length of a body."""

from __future__ import annotations

import asyncio
from types import TracebackType
from typing import Protocol

from aiodurable.locks.lease import Lease
from aiodurable.locks.scope import Scope

__all__ = ["Hold"]


class Locks(Protocol):
    """`PostgresLockManager`."""

    async def acquire(self, name: str, *, timeout: float | None) -> Lease:
        """A lease, in time."""
        ...


class Hold(Scope):
    """What `PostgresLockManager.hold` returns: entered once."""

    __slots__ = ("_cancel_on_lost", "_held", "_locks", "_loop", "_name", "_timeout")

    _held: Lease

    def __init__(
        self,
        locks: Locks,
        name: str,
        timeout: float | None,
        loop: asyncio.AbstractEventLoop | None,
        *,
        cancel_on_lost: bool,
    ) -> None:
        self._locks = locks
        self._loop = loop
        self._name = name
        self._timeout = timeout
        self._cancel_on_lost = cancel_on_lost

    async def __aenter__(self) -> Lease:
        lease = self._held = await self._locks.acquire(self._name, timeout=self._timeout)
        if self._cancel_on_lost:
            try:
                self.enter(lease, self._loop)
            except BaseException:  # lost at once: the turn still has to be passed on
                await lease.release()
                raise
            lease.scope = self  # until it is released
        return lease

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        lease = self._held
        try:
            if self._cancel_on_lost:
                self.leave(error)
        finally:
            await lease.release()
        if error is None and self._cancel_on_lost and lease.lost:
            lease.check()
