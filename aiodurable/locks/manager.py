"""`PostgresLockManager`: thousands of leases on a few connections, and waiting that costs none."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Sequence
from types import TracebackType
from typing import Final, Self

from aiodurable.dsn import parse_dsn
from aiodurable.errors import ClosedError, ConfigurationError, LockBusyError, LockTimeoutError, PostgresUnavailableError
from aiodurable.events import LeaseAcquired, LeaseLost, LeaseReleased, Observer, emit
from aiodurable.keys import check_thread_id, lock_key
from aiodurable.locks.keeper import Keeper
from aiodurable.locks.lease import Lease
from aiodurable.locks.looking import Looking
from aiodurable.locks.scope import CancelOnLost
from aiodurable.locks.session import LockSession
from aiodurable.locks.terms import Terms
from aiodurable.locks.turns import Turns
from aiodurable.locks.waiting import Bell
from aiodurable.locks.wire import NOTIFIED
from aiodurable.model import LockHolder
from aiodurable.settings import Settings
from aiodurable.shielding import to_the_end

__all__ = ["Hold", "PostgresLockManager"]

YIELD_S: Final = 0.005
"""Seconds for which this process leaves a key alone after it notified another one that waits for it."""


class PostgresLockManager:
    """Named locks on Postgres, each held by one task of one process anywhere.

    Open it with `async with`, or with `open` and `aclose`; it belongs to the event loop in which it was opened.

    Args:
        dsn: a direct connection to the primary (not through a pooler in transaction mode); None: from the environment.
        sessions: dedicated connections on which all leases live.
        namespace: locks of two namespaces never meet; at most 64 bytes.
        settings: the times (`lease_ttl_s`, `heartbeat_s`, `lease_margin_s`, `connect_timeout_s`, `close_timeout_s`) and
            whether a missing token sequence is made (`setup`). `sessions` and `namespace` above win over its own.
        observers: told of every lease acquired, released and lost; the event's `thread_id` is the lock's name.

    Raises:
        ConfigurationError: an argument makes no sense.
    """

    def __init__(
        self,
        dsn: str | None = None,
        *,
        sessions: int = 2,
        namespace: str = "aiodurable",
        settings: Settings | None = None,
        observers: Sequence[Observer] = (),
    ) -> None:
        if sessions < 1:
            raise ConfigurationError(f"sessions must be at least 1, got {sessions}")
        if not 0 < len(namespace.encode()) <= 64:
            raise ConfigurationError(f"namespace must have 1 to 64 bytes, got {len(namespace.encode())}")
        self._settings = settings or Settings()
        self._dsn = parse_dsn(dsn)
        self._namespace = namespace
        self._observers = tuple(observers)
        self._turns = Turns()
        self._bell = Bell()
        self._up = asyncio.Event()
        self._open = False
        self._looking = Looking(self._dsn, timeout_s=self._settings.connect_timeout_s)
        self._keepers = [
            Keeper(
                self._dsn,
                Terms.of(self._settings),
                self._let_go,
                heard=self._bell.ring if place == 0 else None,  # one LISTEN a process: the tick covers its absence
                up=self._session_up,
                connect_timeout_s=self._settings.connect_timeout_s,
                setup=self._settings.setup,
            )
            for place in range(sessions)
        ]

    # ---- opening and closing -----------------------------------------------------------------------------------------

    async def open(self) -> None:
        """Connect. Idempotent.

        Raises:
            PostgresUnavailableError: Postgres could not be reached or refused; the driver's error is the cause.
            PoolerNotSupportedError: the connection cannot hold session locks.
        """
        if self._open:
            return
        self._looking = Looking(self._dsn, timeout_s=self._settings.connect_timeout_s)
        try:
            # The first alone: it tells what is wrong, and makes what is missing.
            await self._keepers[0].open()
            await asyncio.gather(*(keeper.open() for keeper in self._keepers[1:]))
        except BaseException:  # also when cancelled: what is open has no owner yet
            await to_the_end(self._close_all())
            raise
        self._open = True

    async def aclose(self) -> None:
        """Let go of every lease, lost to whoever still holds it, and disconnect.

        Idempotent, also before `open`; takes at most `close_timeout_s`. Whoever waits for a lock gets `ClosedError`.
        """
        if not self._open:
            return
        self._open = False
        self._turns.fail(_closed)
        self._bell.ring_all()
        self._up.set()
        await to_the_end(self._close_all())

    async def _close_all(self) -> None:
        bound = self._settings.close_timeout_s / 2  # once for the statement under way, once for the farewell
        closing = [*(keeper.aclose(bound) for keeper in self._keepers), self._looking.aclose()]
        await asyncio.gather(*closing, return_exceptions=True)

    async def __aenter__(self) -> Self:
        await self.open()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.aclose()

    # ---- taking and letting go ---------------------------------------------------------------------------------------

    def hold(self, name: str, *, timeout: float | None = 0, cancel_on_lost: bool = True) -> Hold:
        """`async with locks.hold(name) as lease:` holds the lock for the body, and lets it go whatever happens there.

        Args:
            name: what to lock: 1 to 512 bytes of UTF-8 without NUL.
            timeout: seconds to wait for it; 0: at once or not at all, None: as long as it takes.
            cancel_on_lost: cancel the body when the lease is lost, and raise `LeaseLostError` at its end. Otherwise the
                body looks for itself (`lease.lost`, `lease.check()`, `await lease.wait_lost()`).

        Raises:
            LockBusyError: somebody else holds it (timeout 0).
            LockTimeoutError: it did not become free in time.
            LeaseLostError: the lease was lost before the body ended.
            LockCapacityError: the server's lock table would be overrun.
            PostgresUnavailableError: no lock session is up (timeout 0).
            ClosedError: the manager is not open.
        """
        return Hold(self, name, timeout, cancel_on_lost=cancel_on_lost)

    async def try_acquire(self, name: str) -> Lease | None:
        """A lease if the lock is free, None if it is not. The caller releases it. Raises what `hold` raises."""
        lease = await self._at_once(name)
        if lease is not None:
            self._tell_acquired(lease, 0.0)
        return lease

    async def acquire(self, name: str, *, timeout: float | None = 0) -> Lease:
        """A lease, without a scope that releases it or is cancelled by its loss. Raises what `hold` raises."""
        if timeout is not None and not timeout >= 0:
            raise ConfigurationError(f"timeout must be seconds, 0 or more, or None, got {timeout}")
        asked = time.monotonic()
        if timeout == 0:
            lease = await self._at_once(name)
            if lease is None:
                raise await self._busy(name)
        else:
            lease = await self._in_time(name, timeout)
        self._tell_acquired(lease, time.monotonic() - asked)
        return lease

    async def _at_once(self, name: str) -> Lease | None:
        key = self._key(name)
        if not self._turns.take(key):
            return None
        lease = None
        try:
            session = self._session(key)
            if session is None:
                raise _unavailable(name)
            lease = await self._try(session, key, name)
        finally:
            if lease is None:
                self._turns.end(key)
        return lease

    async def _in_time(self, name: str, timeout: float | None) -> Lease:
        key = self._key(name)
        try:
            async with asyncio.timeout(timeout):
                return await self._in_turn(key, name)
        except TimeoutError:
            raise LockTimeoutError(
                f"wanted the lock {name!r} within {timeout:g} s, found it held all that time: "
                "wait longer, or see locks.holders() for who has it",
                thread_id=name,
            ) from None

    async def _in_turn(self, key: int, name: str) -> Lease:
        if not self._turns.take(key):
            session = await self._turns.wait(key)
            if session is not None:
                try:
                    lease = await session.renew(key, name)
                    assert lease is not None
                    return lease
                except PostgresUnavailableError:
                    pass  # that session is over and its lock with it; it is still our turn
                except BaseException:  # above all cancelled: the key is locked, and now nobody's
                    self._put_back(session, key)
                    raise
        try:
            return await self._wait(key, name)
        except BaseException:  # also when cancelled: the turn is let go by whoever has it
            self._turns.end(key)
            raise

    async def _wait(self, key: int, name: str) -> Lease:
        """Ask until it is ours. Whoever comes here has the turn of the key, so it is the only one in this process."""
        session = self._session(key)
        if session is not None:
            try:
                if lease := await self._try(session, key, name):
                    return lease
            except PostgresUnavailableError:
                pass
        with self._bell.waiting(key) as wake:
            try:
                while True:
                    while (session := self._session(key)) is None:
                        self._up.clear()
                        await self._up.wait()
                        self._key(name)
                    wake.clear()  # before the try: what is let go after it rings again
                    session.flag(key, up=True)  # again on every session: it died with the last one
                    try:
                        if lease := await self._try(session, key, name):
                            return lease
                    except PostgresUnavailableError:
                        continue
                    await wake.wait()
                    self._key(name)
            finally:
                if session is not None:
                    session.flag(key, up=False)

    async def _try(self, session: LockSession, key: int, name: str) -> Lease | None:
        asked = session.acquire(key, name)
        try:
            return await asked
        except asyncio.CancelledError:
            if asked.done() and not asked.cancelled() and asked.exception() is None and asked.result() is not None:
                session.release(key)  # granted in the very moment in which the caller was cancelled
            raise

    def _let_go(self, session: LockSession, lease: Lease) -> asyncio.Future[int] | None:
        if self._observers:
            emit(
                self._observers,
                LeaseReleased(lease.name, token=lease.token, held_s=time.monotonic() - lease.taken),
            )
        return self._put_back(session, lease.key)

    def _put_back(self, session: LockSession, key: int) -> asyncio.Future[int] | None:
        """The key goes to who waits in this process, or back to the server."""
        if session.over is not None:
            self._turns.end(key)
            return None
        if self._turns.hand_on(key, session):
            return None
        crowded = self._turns.crowded(key)
        answer = session.release(key)
        if crowded:
            answer.add_done_callback(lambda told: self._pass_baton(key, told.result()))
        else:
            self._turns.end(key)
        return answer

    def _pass_baton(self, key: int, became: int) -> None:
        """It went from task to task here for long enough: another process that waits has a moment to take it."""
        if became == NOTIFIED:
            asyncio.get_running_loop().call_later(YIELD_S, self._turns.end, key)
        else:
            self._turns.end(key)

    # ---- looking -----------------------------------------------------------------------------------------------------

    async def is_locked(self, name: str) -> bool:
        """Whether anybody holds the lock, this process included. Reads `pg_locks`, never tries the lock."""
        return await self.holder_of(name) is not None

    async def holder_of(self, name: str) -> LockHolder | None:
        """Who holds the lock, this process included; None: nobody. Raises `PostgresUnavailableError`, `ClosedError`."""
        holders = await self._looking.holders(self._key(name))
        return holders[0] if holders else None

    async def holders(self) -> list[LockHolder]:
        """Everybody who holds a lease in this database, of whatever namespace. Raises as `holder_of`."""
        self._check_open()
        return await self._looking.holders()

    # ---- small parts -------------------------------------------------------------------------------------------------

    def _key(self, name: str) -> int:
        self._check_open()
        return lock_key(check_thread_id(name), self._namespace)

    def _check_open(self) -> None:
        if not self._open:
            raise _closed()

    def _session(self, key: int) -> LockSession | None:
        """The session for a key: always the same one while it is up, so that a release travels before the next try."""
        places = len(self._keepers)
        for place in range(places):
            session = self._keepers[(key + place) % places].session
            if session is not None and session.over is None:
                return session
        return None

    def _session_up(self) -> None:
        self._up.set()
        self._bell.ring_all()

    async def _busy(self, name: str) -> LockBusyError:
        try:
            holder = await self.holder_of(name)
        except PostgresUnavailableError:
            holder = None
        who = holder or "somebody who has let go by now"
        return LockBusyError(
            f"wanted the lock {name!r} at once, found it held by {who}: pass timeout= to wait for it, or come back later",
            thread_id=name,
            holder=holder,
            since=holder.since if holder else None,
        )

    def _tell_acquired(self, lease: Lease, waited_s: float) -> None:
        if self._observers:
            emit(self._observers, LeaseAcquired(lease.name, token=lease.token, waited_s=waited_s))
            lease.on_lost(lambda: emit(self._observers, LeaseLost(lease.name, token=lease.token)))


class Hold:
    """What `PostgresLockManager.hold` returns: entered once."""

    def __init__(self, locks: PostgresLockManager, name: str, timeout: float | None, *, cancel_on_lost: bool) -> None:
        self._locks = locks
        self._name = name
        self._timeout = timeout
        self._cancel_on_lost = cancel_on_lost
        self._lease: Lease | None = None
        self._scope: CancelOnLost | None = None

    async def __aenter__(self) -> Lease:
        self._lease = await self._locks.acquire(self._name, timeout=self._timeout)
        if self._cancel_on_lost:
            try:
                self._scope = await CancelOnLost(self._lease).__aenter__()
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
                await self._scope.__aexit__(kind, error, trace)
        finally:
            await self._lease.release()
        if error is None and self._cancel_on_lost and self._lease.lost:
            self._lease.check()


def _closed() -> ClosedError:
    return ClosedError(
        "the lock manager is not open: use it inside `async with PostgresLockManager(…)`, or call open()"
    )


def _unavailable(name: str) -> PostgresUnavailableError:
    return PostgresUnavailableError(
        f"wanted the lock {name!r} at once, found no lock session up: Postgres is away, and is tried again all the time",
        thread_id=name,
    )
