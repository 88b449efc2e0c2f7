"""Acquiring leases: first within this process, then on the server, then by waiting for another
process."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Sequence
from typing import Final

from aiodurable.errors import (
    ClosedError,
    ConfigurationError,
    InvalidArgumentError,
    LockBusyError,
    LockCapacityError,
    LockTimeoutError,
    PostgresUnavailableError,
)
from aiodurable.events import Observer
from aiodurable.locks.holders import HolderLookup
from aiodurable.locks.lease import Lease, SessionLease
from aiodurable.locks.lease_events import announce
from aiodurable.locks.local_queue import LocalQueue
from aiodurable.locks.release import Releaser
from aiodurable.locks.session import LockSession, SessionState
from aiodurable.locks.supervisor import SessionSupervisor
from aiodurable.locks.waiters import CapacityWaiters, KeyWaiters

__all__ = ["Acquirer"]

_OVER: Final = SessionState.OVER


class Acquirer:
    """Acquires keys for the tasks of one process.

    Args:
        lookup: finds the holder of a busy lock.
        closed: makes the error for calls and waiters when the manager is not open.
        observers: are sent the events of leases.

    Attributes:
        queue: which task of this process may request a key.
        key_waiters: tasks that wait for another process.
        capacity_waiters: tasks that wait for a slot of the server's lock table.
        releaser: releases what was acquired.
        supervisors: of the lock sessions.
        loop: in which the manager is open; None: it is closed.
    """

    def __init__(
        self, lookup: HolderLookup, closed: Callable[[], ClosedError], observers: Sequence[Observer]
    ) -> None:
        self.queue = LocalQueue()
        self.key_waiters = KeyWaiters()
        self.capacity_waiters = CapacityWaiters()
        self.releaser = Releaser(self.queue, self.capacity_waiters)
        self.supervisors: Sequence[SessionSupervisor] = ()
        self.loop: asyncio.AbstractEventLoop | None = None
        self.observers = tuple(observers)
        self._lookup = lookup
        self._closed = closed
        self._up = asyncio.Event()

    @property
    def waiting(self) -> int:
        """How many tasks wait for a lock."""
        return self.queue.waiting + len(self.key_waiters) + len(self.capacity_waiters.events)

    def close(self) -> None:
        """Fail every waiter: the manager is closing."""
        self.loop = None
        self.queue.fail_all(self._closed)
        self.session_up()

    def session_up(self) -> None:
        """Wake everybody who waits for a session, or for a key that died with the last one."""
        self._up.set()
        self.key_waiters.wake_all()

    # ---- acquiring ------------------------------------------------------------------------------

    async def acquire(
        self, key: int, name: str, timeout: float | None, *, observed: bool = True
    ) -> SessionLease:
        """A lease within `timeout` seconds; 0: at once or not at all, None: however long it takes.

        Raises:
            LockBusyError: somebody else holds it (timeout 0).
            LockTimeoutError: it did not become free in time.
            LockCapacityError: the server's lock table would be overrun (timeout 0).
            PostgresUnavailableError: no lock session is up (timeout 0).
            ClosedError: the manager is not open in this event loop.
            ConfigurationError: there are no lock sessions.
            InvalidArgumentError: the timeout is invalid.
        """
        requested = time.monotonic()
        if timeout == 0:
            lease = await self._try_acquire(key, name)
            if lease is None:
                raise await self.busy(key, name)
        else:
            lease = await self._acquire_in_time(key, name, timeout)
        if observed and self.observers:
            self._announce(lease, time.monotonic() - requested)
        return lease

    async def try_acquire(self, key: int, name: str) -> SessionLease | None:
        """A lease if nobody has the key. Raises what `acquire` raises with timeout 0."""
        lease = await self._try_acquire(key, name)
        if lease is not None and self.observers:
            self._announce(lease, 0.0)
        return lease

    async def reacquire(self, lost: Lease, *, observed: bool) -> SessionLease | None:
        """The key of a lease that was lost and not released. None: another process has it.

        A lost lease keeps its key entered in this process until it is released, so no other task of
        this process can come first. After a success the new lease takes its place.
        """
        requested = time.monotonic()
        # A deadline that has passed does not mean yet that the session is over and its lock gone.
        await lost.wait_lost()
        session = self._session_for(lost.key)
        if session is None:
            raise _none_up(lost.name)
        lease = await self._answer(session, session.acquire_again(lost.key, lost.name))
        if lease is not None:
            assert isinstance(lost, SessionLease)
            lost.retire()
            if observed and self.observers:
                self._announce(lease, time.monotonic() - requested)
        return lease

    def request(self, key: int, name: str) -> asyncio.Future[SessionLease | None] | None:
        """Try a key now. None: another task of this process has entered it.

        The caller has entered the key unless the future gives None, and calls `withdraw` if its
        wait ends otherwise. Raises what `acquire` raises with timeout 0.
        """
        session = self._session_for(key)
        if session is None:
            raise _none_up(name)
        return session.acquire(key, name) if self.queue.try_enter(key) else None

    def withdraw(self, key: int, request: asyncio.Future[SessionLease | None]) -> None:
        """Leave a key that was requested and is not wanted any more, or could not be tried."""
        if (lease := _granted(request)) is not None:
            lease.begin_release()
        else:
            request.cancel()  # a coroutine that is closed has not cancelled what it awaits
            self.queue.leave(key)

    async def busy(self, key: int, name: str) -> LockBusyError:
        """The error for a lock that somebody else holds. Raises `ClosedError`."""
        if self.loop is not asyncio.get_running_loop():
            raise self._closed()
        try:
            holder = next(iter(await self._lookup.holders(key)), None)
        except PostgresUnavailableError:
            holder = None
        return LockBusyError(
            f"cannot acquire the lock {name!r}: it is held by"
            f" {holder or 'a process that has released it by now'}. Pass timeout= to wait for it,"
            " or come back later",
            thread_id=name,
            holder=holder,
        )

    async def _try_acquire(self, key: int, name: str) -> SessionLease | None:
        if (request := self.request(key, name)) is None:
            return None
        try:
            lease = await request
        except BaseException:  # also when cancelled
            self.withdraw(key, request)
            raise
        if lease is None:
            self.queue.leave(key)
        return lease

    async def _acquire_in_time(self, key: int, name: str, timeout: float | None) -> SessionLease:
        if timeout is not None and not timeout > 0:
            raise InvalidArgumentError(
                f"timeout must be seconds, 0 or more, or None, got {timeout}", argument="timeout"
            )
        if self.loop is not asyncio.get_running_loop():
            raise self._closed()
        try:
            async with asyncio.timeout(timeout):
                return await self._wait_in_process(key, name)
        except TimeoutError as error:
            full = error.__cause__ and error.__cause__.__cause__
            if isinstance(full, LockCapacityError):
                raise LockTimeoutError(
                    f"cannot acquire the lock {name!r} within {timeout:g} s: the lock table was"
                    f" full all that time. {full}",
                    thread_id=name,
                ) from full
            why = "somebody held it; wait longer, or see locks.holders() for the holder"
            if not any(map(_is_up, (supervisor.session for supervisor in self.supervisors))):
                why = "no lock session is connected; it reconnects once Postgres can be reached"
            raise LockTimeoutError(
                f"cannot acquire the lock {name!r} within {timeout:g} s: {why}", thread_id=name
            ) from None

    async def _wait_in_process(self, key: int, name: str) -> SessionLease:
        """Wait for the other tasks of this process, then for other processes."""
        if not self.queue.try_enter(key):
            session = await self.queue.wait(key)
            if session is not None:
                renewal = session.renew(key, name)
                try:
                    lease = await renewal
                    assert lease is not None
                    return lease
                except PostgresUnavailableError:
                    pass  # that session is over, and its lock gone; the key is still entered
                except BaseException:  # above all cancelled: the key is locked, and has no holder
                    renewal.cancel()
                    self.releaser.hand_over(session, key)
                    raise
        try:
            return await self._wait_on_server(key, name)
        except BaseException:  # also when cancelled
            self.queue.leave(key)
            raise

    async def _wait_on_server(self, key: int, name: str) -> SessionLease:
        """Try until the key is ours. The caller has entered it, so this is its only task here."""
        while True:
            session = self._session_for(key)
            if session is not None:
                try:
                    if lease := await self._try_within_capacity(session, key, name):
                        return lease
                except PostgresUnavailableError:
                    pass
            try:
                return await self._wait_for_holder(key, name)
            except LockCapacityError:  # there was a slot, and another key took it: queue again
                continue

    async def _wait_for_holder(self, key: int, name: str) -> SessionLease:
        """Try whenever another process releases the key, and at each tick."""
        flagged: LockSession | None = None
        with self.key_waiters.waiting(key) as wake:
            try:
                while True:
                    while (session := self._session_for(key)) is None:
                        self._up.clear()
                        await self._up.wait()
                    wake.clear()  # before the try: a release after it sets the event again
                    if flagged is not None and flagged is not session:
                        flagged.set_flag(key, up=False)
                    flagged = session
                    # With every try: it dies with its session, and may have found no slot.
                    session.set_flag(key, up=True)
                    try:
                        if lease := await self._try(session, key, name):
                            return lease
                    except PostgresUnavailableError:
                        continue
                    await wake.wait()
            finally:
                if flagged is not None:
                    flagged.set_flag(key, up=False)

    async def _try_within_capacity(
        self, session: LockSession, key: int, name: str
    ) -> SessionLease | None:
        """Try the key; if the lock table has no slot for it, wait for one."""
        try:
            return await self._try(session, key, name)
        except LockCapacityError as error:
            refused = error
        with self.capacity_waiters.waiting() as wake:
            try:
                while True:
                    await wake.wait()
                    wake.clear()
                    try:
                        return await self._try(session, key, name)
                    except LockCapacityError as error:
                        refused = error
            except asyncio.CancelledError as cancelled:
                raise cancelled from refused  # a timeout reports it

    async def _try(self, session: LockSession, key: int, name: str) -> SessionLease | None:
        return await self._answer(session, session.acquire(key, name))

    @staticmethod
    async def _answer(
        session: LockSession, request: asyncio.Future[SessionLease | None]
    ) -> SessionLease | None:
        try:
            return await request
        except BaseException:
            if (lease := _granted(request)) is not None:  # cancelled in that very moment
                lease.retire()
                session.release(lease.key)
            request.cancel()  # a coroutine that is closed has not cancelled what it awaits
            raise

    # ---- parts ----------------------------------------------------------------------------------

    def _announce(self, lease: SessionLease, waited_s: float) -> None:
        lease.before_release(announce(self.observers, lease, waited_s=waited_s, of_thread=False))

    def _session_for(self, key: int) -> LockSession | None:
        """The session for a key; the same one while it is up, which releases before it tries
        again.
        """
        if self.loop is not asyncio.get_running_loop():
            raise self._closed()
        supervisors = self.supervisors
        if not supervisors:
            raise ConfigurationError(
                "cannot take a lease: there are no lock sessions (lock_connections=0,"
                " AIODURABLE_LOCK_CONNECTIONS), which is for reading only. Open one with at least"
                " 1, on the primary"
            )
        place = (key >> 1) % len(supervisors)  # the lowest bit only tells threads' keys from others
        session = supervisors[place].session
        if session is not None and session.state is not _OVER:
            return session
        others = (other.session for other in (*supervisors[place + 1 :], *supervisors[:place]))
        return next(filter(_is_up, others), None)


def _is_up(session: LockSession | None) -> bool:
    return session is not None and session.state is not _OVER


def _granted(request: asyncio.Future[SessionLease | None]) -> SessionLease | None:
    """The lease of a request whose caller was cancelled in the moment in which it was granted."""
    if request.done() and not request.cancelled() and request.exception() is None:
        return request.result()
    return None


def _none_up(name: str) -> PostgresUnavailableError:
    return PostgresUnavailableError(
        f"cannot acquire the lock {name!r}: no lock session is up. Postgres is away, and is tried"
        " all the time",
        thread_id=name,
    )
