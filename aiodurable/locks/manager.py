"""`PostgresLockManager`: thousands of leases on a few connections, and waiting that costs none."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Mapping, Sequence
from functools import lru_cache
from types import TracebackType
from typing import Self

from aiodurable.dsn import parse_dsn
from aiodurable.errors import (
    ClosedError,
    ConfigurationError,
    InvalidArgumentError,
    LockBusyError,
    LockCapacityError,
    LockTimeoutError,
    PostgresUnavailableError,
)
from aiodurable.events import LeaseAcquired, LeaseLost, LeaseReleased, Observer, emit
from aiodurable.lock_keys import lock_key, own_lock_key
from aiodurable.locks.acquire import Acquirer
from aiodurable.locks.health import LocksHealth, health
from aiodurable.locks.hold import HeldLock
from aiodurable.locks.holders import HolderLookup
from aiodurable.locks.lease import Lease
from aiodurable.locks.lease_timing import LeaseTiming
from aiodurable.locks.requests import Release
from aiodurable.locks.session import LockSession
from aiodurable.locks.supervisor import SessionSupervisor
from aiodurable.models import LockHolder
from aiodurable.settings import Settings
from aiodurable.shield import run_to_completion
from aiodurable.thread_id import validate_thread_id

__all__ = ["PostgresLockManager"]


class PostgresLockManager:
    """Named locks on Postgres, each held by one task of one process anywhere.

    No name of a lock is a thread's: to keep runs of a thread out, hold its lease (`Durable.hold`).

    Open it with `async with`, or with `open` and `aclose`; it belongs to the event loop in which it was opened.

    Args:
        dsn: a direct connection to the primary (not through a pooler in transaction mode); None: from the environment.
        sessions: dedicated connections on which all leases live; 0: none, to look at what others hold; None: as `settings`
            says (`lock_connections`).
        namespace: locks of two namespaces never meet; at most 64 bytes; None: as `settings` says.
        settings: None: `Settings.from_env()`. Beside the above, the times (`lease_ttl_s`, `lease_heartbeat_s`,
            `lease_safety_margin_s`, `connect_timeout_s`, `close_timeout_s`) and whether a missing
            sequence is made (`auto_migrate`).
        observers: told of every lease acquired, released and lost; the event's `thread_id` is the lock's name.
        allow_proxy: accept a pooler in session mode, if a probe on every connection finds that locks exclude through it;
            None: as `settings` says (`lock_allow_proxy`).
        channels: further channels to listen on, and what is called with the payload; best effort, as NOTIFY is.

    Raises:
        ConfigurationError: an argument makes no sense.
    """

    def __init__(
        self,
        dsn: str | None = None,
        *,
        sessions: int | None = None,
        namespace: str | None = None,
        settings: Settings | None = None,
        observers: Sequence[Observer] = (),
        allow_proxy: bool | None = None,
        channels: Mapping[str, Callable[[str], None]] | None = None,
    ) -> None:
        settings = settings or Settings.from_env()
        sessions = settings.lock_connections if sessions is None else sessions
        namespace = settings.namespace if namespace is None else namespace
        allow_proxy = settings.lock_allow_proxy if allow_proxy is None else allow_proxy
        if sessions < 0:
            raise ConfigurationError(f"sessions must be 0 or more, got {sessions}")
        if not 0 < len(namespace.encode()) <= 64:
            raise ConfigurationError(f"namespace must have 1 to 64 bytes, got {len(namespace.encode())}")
        self._settings = settings
        self._dsn = parse_dsn(settings.lock_dsn if dsn is None else dsn)
        self._namespace = namespace
        self.observers = tuple(observers)
        self._taking = Acquirer(self._closed)
        self._looking = HolderLookup(self._dsn, timeout_s=self._settings.connect_timeout_s)
        self._keepers = [
            SessionSupervisor(
                self._dsn,
                LeaseTiming.of(self._settings),
                self._tell_and_let_go if observers else self._taking.let_go,
                heard=self._taking.bell.ring
                if place == 0
                else None,  # one LISTEN a process: the tick covers its absence
                channels=channels if channels and place == 0 else {},
                up=self._taking.session_up,
                connect_timeout_s=self._settings.connect_timeout_s,
                setup=self._settings.auto_migrate,
                allow_proxy=allow_proxy,
                probe=place == 0,
            )
            for place in range(sessions)
        ]
        self._taking.keepers = self._keepers
        self._opening = asyncio.Lock()

    # ---- opening and closing -----------------------------------------------------------------------------------------

    async def open(self) -> None:
        """Connect. Idempotent.

        Raises:
            PostgresUnavailableError: Postgres could not be reached or refused; the driver's error is the cause.
            PoolerNotSupportedError: the connection cannot hold session locks.
            ClosedError: it is open in another event loop.
        """
        async with self._opening:  # of two at once the second would leave the first one's sessions open for ever
            if self._taking.loop is None:
                await self._open()
            else:
                self._check_open()

    async def _open(self) -> None:
        self._looking = HolderLookup(self._dsn, timeout_s=self._settings.connect_timeout_s)
        try:
            # The first alone: it tells what is wrong, and makes what is missing.
            for keeper in self._keepers[:1]:
                await keeper.open()
            await asyncio.gather(*(keeper.open() for keeper in self._keepers[1:]))
        except BaseException:  # also when cancelled: what is open has no owner yet
            await run_to_completion(self._close_all())
            raise
        self._taking.loop = asyncio.get_running_loop()
        for keeper in self._keepers:
            if keeper.session is not None:
                keeper.session.audit_soon()  # the first one was alone when it learned its share

    async def aclose(self) -> None:
        """Let go of every lease, lost to whoever still holds it, and disconnect.

        Idempotent, also before `open`; takes at most `close_timeout_s`. Whoever waits for a lock gets `ClosedError`.

        Raises:
            ClosedError: it is open in another event loop, and that one is not closed.
        """
        if self._taking.loop is None:
            return
        if not self._taking.loop.is_closed():
            self._check_open()
        self._taking.close()
        await run_to_completion(self._close_all())

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

    def hold(self, name: str, *, timeout: float | None = 0, cancel_on_lost: bool = True) -> HeldLock:
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
            LockCapacityError: the server's lock table would be overrun (timeout 0).
            PostgresUnavailableError: no lock session is up (timeout 0).
            ClosedError: the manager is not open in this event loop.
        """
        return HeldLock(self, self._taking, self._key(name), name, timeout, cancel_on_lost)

    async def try_acquire(self, name: str) -> Lease | None:
        """A lease if the lock is free, None if it is not. The caller releases it. Raises what `hold` raises."""
        lease = await self._taking.at_once(self._key(name), name)
        if lease is not None:
            self._tell_acquired(lease, 0.0)
        return lease

    async def acquire(self, name: str, *, timeout: float | None = 0) -> Lease:
        """A lease, without a scope that releases it or is cancelled by its loss. Raises what `hold` raises."""
        asked = time.monotonic()
        lease = await self._acquire(self._key(name), name, timeout)
        if self.observers:
            self._tell_acquired(lease, time.monotonic() - asked)
        return lease

    async def acquire_thread(self, thread_id: str, *, timeout: float | None = 0) -> Lease:
        """The lock of a thread, which no name of `acquire` is: for `Durable.hold`, which tells the observers itself."""
        return await self._acquire(_thread_key_of(thread_id, self._namespace), thread_id, timeout)

    async def _acquire(self, key: int, name: str, timeout: float | None) -> Lease:
        if timeout is not None and not timeout >= 0:
            raise InvalidArgumentError(
                f"timeout must be seconds, 0 or more, or None, got {timeout}", argument="timeout"
            )
        if timeout != 0:
            return await self._in_time(key, name, timeout)
        lease = await self._taking.at_once(key, name)
        if lease is None:
            raise await self._busy(key, name)
        return lease

    async def take_again(self, lost: Lease) -> Lease | None:
        """The lock of a lost lease once more, as a new lease; None: another process has it by now.

        Until the lost lease is let go of, whoever waits for the lock in this process goes on waiting. After a success the
        new lease takes its place there, and the old one need not be let go of. That nobody had the lock in between is not
        said: a token has to tell.

        Raises:
            PostgresUnavailableError: no lock session is up yet.
            LockCapacityError: the server's lock table would be overrun.
            ClosedError: the manager is not open in this event loop.
            InvalidArgumentError: the lease is not lost, or was let go of.
        """
        self._check_open()
        if lost.released or not lost.lost:
            raise InvalidArgumentError(f"only a lock that was lost and not let go of can be taken again, got {lost!r}")
        asked = time.monotonic()
        lease = await self._taking.again(lost)
        if lease is not None:
            self._tell_acquired(lease, time.monotonic() - asked)
        return lease

    async def _in_time(self, key: int, name: str, timeout: float | None) -> Lease:
        self._check_open()
        try:
            async with asyncio.timeout(timeout):
                return await self._taking.in_turn(key, name)
        except TimeoutError as error:
            found = "it held: wait longer, or see locks.holders() for who has it"
            full = error.__cause__ and error.__cause__.__cause__
            if isinstance(full, LockCapacityError):
                raise LockTimeoutError(
                    f"wanted the lock {name!r} within {timeout:g} s, found no room for it all that time: {full}",
                    thread_id=name,
                ) from full
            if not any(session.up for session in self.health().sessions):
                found = "no lock session up: Postgres is away, and tried all the time"
            raise LockTimeoutError(
                f"wanted the lock {name!r} within {timeout:g} s, found {found}", thread_id=name
            ) from None

    def _tell_and_let_go(self, session: LockSession, lease: Lease) -> Release | None:
        if self._is_a_threads(lease):
            return self._taking.let_go(session, lease)
        released = LeaseReleased(lease.name, token=lease.token, held_s=time.monotonic() - lease.taken)
        emit(self.observers, released)
        return self._taking.let_go(session, lease)

    # ---- looking -----------------------------------------------------------------------------------------------------

    async def is_locked(self, name: str) -> bool:
        """Whether anybody holds the lock, this process included. Reads what the server has, never tries the lock."""
        return await self.holder_of(name) is not None

    async def holder_of(self, name: str) -> LockHolder | None:
        """Who holds the lock, this process included; None: nobody. Raises `PostgresUnavailableError`, `ClosedError`."""
        self._check_open()
        holders = await self._looking.holders(self._key(name))
        return holders[0] if holders else None

    async def holders(self) -> list[LockHolder]:
        """Everybody who holds a lease in this database, of whatever namespace. Raises as `holder_of`."""
        self._check_open()
        return await self._looking.holders()

    def health(self) -> LocksHealth:
        """How the sessions are, what is held and who waits, as this process knows it. Also before `open` and after `aclose`."""
        return health(self._keepers, self._taking.waiting)

    # ---- small parts -------------------------------------------------------------------------------------------------

    def _key(self, name: str) -> int:
        try:
            return _key_of(name, self._namespace)
        except TypeError:  # what cannot be hashed is no string
            raise InvalidArgumentError(f"a lock's name must be a str, got {type(name).__name__}") from None

    def _check_open(self) -> None:
        if self._taking.loop is not asyncio.get_running_loop():
            raise self._closed()

    def _closed(self) -> ClosedError:
        if self._taking.loop is not None:
            return ClosedError(
                "this lock manager was opened in another event loop, where its connections live: open one in each loop"
            )
        return ClosedError(
            "the lock manager is not open: use it inside `async with PostgresLockManager(…)`, or call open()"
        )

    async def busy(self, name: str) -> LockBusyError:
        """The error for whoever wanted at once what somebody has. Raises as `holder_of`."""
        return await self._busy(self._key(name), name)

    async def _busy(self, key: int, name: str) -> LockBusyError:
        try:
            self._check_open()
            holder = next(iter(await self._looking.holders(key)), None)
        except PostgresUnavailableError:
            holder = None
        who = holder or "somebody who has let go by now"
        return LockBusyError(
            f"wanted the lock {name!r} at once, found it held by {who}: pass timeout= to wait for it, or come back later",
            thread_id=name,
            holder=holder,
        )

    def _is_a_threads(self, lease: Lease) -> bool:
        return lease.key == _thread_key_of(lease.name, self._namespace)

    def _tell_acquired(self, lease: Lease, waited_s: float) -> None:
        if self.observers and not self._is_a_threads(lease):
            emit(self.observers, LeaseAcquired(lease.name, token=lease.token, waited_s=waited_s))
            lease.on_lost(lambda: emit(self.observers, LeaseLost(lease.name, token=lease.token)))


@lru_cache(maxsize=4096)
def _key_of(name: str, namespace: str) -> int:
    """A name that was found good is not looked at again: the look costs twice as much as the key."""
    return own_lock_key(validate_thread_id(name), namespace)


@lru_cache(maxsize=4096)
def _thread_key_of(thread_id: str, namespace: str) -> int:
    return lock_key(validate_thread_id(thread_id), namespace)
