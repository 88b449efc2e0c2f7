"""`async with locks.hold(…)`: a lease for the length of a body."""

from __future__ import annotations

from collections.abc import Sequence
from types import TracebackType
from typing import Protocol

from aiodurable.errors import LockBusyError
from aiodurable.events import Observer
from aiodurable.locks.acquire import Acquirer
from aiodurable.locks.lease import Lease
from aiodurable.locks.scope import CancelScope

__all__ = ["HeldLock"]


class Locks(Protocol):
    """`PostgresLockManager`."""

    @property
    def observers(self) -> Sequence[Observer]:
        """Whom `acquire` tells of a lease."""
        ...

    async def acquire(self, name: str, *, timeout: float | None) -> Lease:
        """A lease, in time."""
        ...

    async def busy(self, name: str) -> LockBusyError:
        """The error for whoever wanted at once what somebody has."""
        ...


class HeldLock(CancelScope):
    """What `PostgresLockManager.hold` returns: entered once.

    Each of its ends is one coroutine that waits once, and calls what does not wait. With coroutines within coroutines a pair
    takes a tenth longer: the garbage collector goes through them, too, while a thousand tasks wait.

    Args:
        locks: where the lease comes from.
        taking: where it is asked for if there is nothing to do but to ask.
        key: of the name.
    """

    __slots__ = ("_cancel_on_lost", "_held", "_key", "_locks", "_name", "_taking", "_timeout")

    _held: Lease

    def __init__(
        self,
        locks: Locks,
        taking: Acquirer,
        key: int,
        name: str,
        timeout: float | None,
        cancel_on_lost: bool,
    ) -> None:
        self._locks = locks
        self._taking = taking
        self._key = key
        self._name = name
        self._timeout = timeout
        self._cancel_on_lost = cancel_on_lost

    async def __aenter__(self) -> Lease:
        taking, key = self._taking, self._key
        at_once = self._timeout == 0 and not self._locks.observers
        asked = taking.ask(key, self._name) if at_once else None
        if asked is None:
            lease = await self._locks.acquire(self._name, timeout=self._timeout)
        else:
            try:
                lease = await asked
            except BaseException:  # also when cancelled
                taking.withdraw(key, asked)
                raise
            if lease is None:
                taking.turns.end(key)
                raise await self._locks.busy(self._name)
        self._held = lease
        if self._cancel_on_lost:
            try:
                self.enter(lease, taking.loop)
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
            if (answer := lease.let_go()) is not None:
                lease.let_gone(await answer)
        if error is None and self._cancel_on_lost and lease.lost:
            lease.check()
