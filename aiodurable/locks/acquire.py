"""How a lease is taken and given back: first the turn in this process, then the server, then waiting for another process."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from typing import Final

from aiodurable.errors import ClosedError, ConfigurationError, LockCapacityError, PostgresUnavailableError
from aiodurable.locks.lease import Lease
from aiodurable.locks.local_queue import LocalQueue
from aiodurable.locks.requests import Release
from aiodurable.locks.session import LockSession
from aiodurable.locks.statements import NOTIFIED
from aiodurable.locks.supervisor import SessionSupervisor
from aiodurable.locks.waiters import CapacityWaiters, KeyWaiters

__all__ = ["Acquirer"]

YIELD_S: Final = 0.005
"""Seconds for which this process leaves a key alone after it notified another one that waits for it."""


class Acquirer:
    """Takes keys for the tasks of one process.

    Args:
        closed: makes the error for whoever waits when it is closed, or asks where it is not open.
    """

    def __init__(self, closed: Callable[[], ClosedError]) -> None:
        self.turns = LocalQueue()
        self.bell = KeyWaiters()
        self.room = CapacityWaiters()
        self._crowd = self.room.wakes  # looked at with each release: a call there costs a percent of a pair
        self.keepers: Sequence[SessionSupervisor] = ()
        self.loop: asyncio.AbstractEventLoop | None = None  # in which it is open
        self._closed = closed
        self._up = asyncio.Event()

    @property
    def waiting(self) -> int:
        """How many tasks wait for a lock."""
        return self.turns.waiting + len(self.bell) + len(self._crowd)

    def close(self) -> None:
        """Whoever waits waits no longer."""
        self.loop = None
        self.turns.fail(self._closed)
        self.session_up()

    def session_up(self) -> None:
        """A session is up (or none will be): whoever waits for one, or for a key that died with the last, looks again."""
        self._up.set()
        self.bell.ring_all()

    async def at_once(self, key: int, name: str) -> Lease | None:
        """A lease if nobody has the key. Raises `PostgresUnavailableError` where no session is up."""
        if (asked := self.ask(key, name)) is None:
            return None
        try:
            lease = await asked
        except BaseException:  # also when cancelled
            self.withdraw(key, asked)
            raise
        if lease is None:
            self.turns.end(key)
        return lease

    def ask(self, key: int, name: str) -> asyncio.Future[Lease | None] | None:
        """Try a key now. None: somebody in this process has its turn. Whoever gets the future has the turn as long as it is
        not refused, and calls `withdraw` when its wait ends otherwise. Raises as `at_once`."""
        session = self._session(key)
        if session is None:
            raise _none_up(name)
        return session.acquire(key, name) if self.turns.take(key) else None

    def withdraw(self, key: int, asked: asyncio.Future[Lease | None]) -> None:
        """Whoever asked wants it no longer, or was told of a failure: a grant goes back, and the turn is the next one's."""
        _withdraw(asked)
        self.turns.end(key)

    async def again(self, lost: Lease) -> Lease | None:
        """The key of a lease that was lost and not let go of. None: another process has it; the turn stays with `lost`.

        A lost lease keeps the turn of its key until it is let go of, so nobody in this process can come before.
        """
        await lost.wait_lost()  # a passed deadline alone does not yet mean that the session is over, and its lock gone
        session = self._session(lost.key)
        if session is None:
            raise _none_up(lost.name)
        lease = await self._try(session, lost.key, lost.name)
        if lease is not None:
            lost.give_turn()
        return lease

    async def in_turn(self, key: int, name: str) -> Lease:
        """A lease, however long it takes."""
        if not self.turns.take(key):
            session = await self.turns.wait(key)
            if session is not None:
                try:
                    lease = await session.renew(key, name)
                    assert lease is not None
                    return lease
                except PostgresUnavailableError:
                    pass  # that session is over and its lock with it; it is still our turn
                except BaseException:  # above all cancelled: the key is locked, and now nobody's
                    self.put_back(session, key)
                    raise
        try:
            return await self._wait(key, name)
        except BaseException:  # also when cancelled: the turn is let go by whoever has it
            self.turns.end(key)
            raise

    async def _wait(self, key: int, name: str) -> Lease:
        """Ask until it is ours. Whoever comes here has the turn of the key, so it is the only one in this process."""
        while True:
            session = self._session(key)
            if session is not None:
                try:
                    if lease := await self._try_in_room(session, key, name):
                        return lease
                except PostgresUnavailableError:
                    pass
            try:
                return await self._wait_for_others(key, name)
            except LockCapacityError:  # there was room, and another key has taken it: in order again
                continue

    async def _wait_for_others(self, key: int, name: str) -> Lease:
        """Ask whenever somebody lets go of it, and now and then."""
        flagged: LockSession | None = None
        with self.bell.waiting(key) as wake:
            try:
                while True:
                    while (session := self._session(key)) is None:
                        self._up.clear()
                        await self._up.wait()
                    wake.clear()  # before the try: what is let go after it rings again
                    if flagged is not None and flagged is not session:
                        flagged.flag(key, up=False)
                    flagged = session
                    session.flag(key, up=True)  # at every try: it may have found no room, and dies with its session
                    try:
                        if lease := await self._try(session, key, name):
                            return lease
                    except PostgresUnavailableError:
                        continue
                    await wake.wait()
            finally:
                if flagged is not None:
                    flagged.flag(key, up=False)

    async def _try_in_room(self, session: LockSession, key: int, name: str) -> Lease | None:
        """Try, and where the lock table has no room for it wait for that."""
        try:
            return await self._try(session, key, name)
        except LockCapacityError as error:
            refused = error
        with self.room.waiting() as wake:
            while True:
                try:
                    await wake.wait()
                except asyncio.CancelledError as cancelled:
                    raise cancelled from refused  # what a timeout tells
                wake.clear()
                try:
                    return await self._try(session, key, name)
                except LockCapacityError as error:
                    refused = error

    async def _try(self, session: LockSession, key: int, name: str) -> Lease | None:
        asked = session.acquire(key, name)
        try:
            return await asked
        except asyncio.CancelledError:
            _withdraw(asked)
            raise

    def let_go(self, session: LockSession, lease: Lease) -> Release | None:
        """The holder of a lease lets it go."""
        if session.over is None and self.turns.end_alone(lease.key):  # nobody waits for it here: the usual case
            if self._crowd:
                self._make_room()
            return session.release(lease.key)
        return self.put_back(session, lease.key)

    def put_back(self, session: LockSession, key: int) -> Release | None:
        """The key goes to who waits in this process, or back to the server; then the future is the server's answer."""
        if session.over is not None:
            self.turns.end(key)
            return None
        if self.turns.hand_on(key, session):
            return None
        crowded = self.turns.crowded(key)
        if self._crowd:
            self._make_room()
        answer = session.release(key)
        if crowded:
            answer.add_done_callback(lambda told: self._pass_baton(key, told.result().get(key)))
        else:
            self.turns.end(key)
        return answer

    def _make_room(self) -> None:
        asyncio.get_running_loop().call_soon(self.room.ring)  # when the release has been asked for

    def _pass_baton(self, key: int, became: int | None) -> None:
        """It went from task to task here for long enough: another process that waits has a moment to take it."""
        if became == NOTIFIED:
            asyncio.get_running_loop().call_later(YIELD_S, self.turns.end, key)
        else:
            self.turns.end(key)

    def _session(self, key: int) -> LockSession | None:
        """The session for a key: always the same one while it is up, so that a release travels before the next try."""
        if self.loop is not asyncio.get_running_loop():
            raise self._closed()
        if not self.keepers:
            raise ConfigurationError(
                "wanted a lease, found no lock sessions (lock_connections=0, AIODURABLE_LOCK_CONNECTIONS): such a one only "
                "looks. Open one with at least 1, on the primary"
            )
        place = key % len(self.keepers)
        session = self.keepers[place].session
        if session is not None and session.over is None:
            return session
        others = (keeper.session for keeper in (*self.keepers[place + 1 :], *self.keepers[:place]))
        return next((other for other in others if other is not None and other.over is None), None)


def _withdraw(asked: asyncio.Future[Lease | None]) -> None:
    """The caller was cancelled. If that was in the very moment in which the key was granted, it goes back."""
    if asked.done() and not asked.cancelled() and asked.exception() is None and (lease := asked.result()) is not None:
        lease.give_back()


def _none_up(name: str) -> PostgresUnavailableError:
    return PostgresUnavailableError(
        f"wanted the lock {name!r} at once, found no lock session up: Postgres is away, and tried all the time",
        thread_id=name,
    )
