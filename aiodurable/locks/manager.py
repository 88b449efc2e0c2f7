"""`PostgresLockManager`: thousands of leases on a few connections."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from functools import lru_cache
from types import TracebackType
from typing import Self

from aiodurable.dsn import PasswordFunction, parse_dsn
from aiodurable.errors import ClosedError, ConfigurationError, InvalidArgumentError
from aiodurable.events import Observer
from aiodurable.lock_keys import lock_key, own_lock_key
from aiodurable.locks.acquire import Acquirer
from aiodurable.locks.health import LocksHealth, health
from aiodurable.locks.holders import HolderLookup
from aiodurable.locks.lease import Lease
from aiodurable.locks.lease_timing import LeaseTiming
from aiodurable.locks.scope import HeldLock
from aiodurable.locks.statements import RELEASES, for_keys
from aiodurable.locks.supervisor import SessionSupervisor
from aiodurable.models import LockHolder
from aiodurable.observers import prepared
from aiodurable.postgres.notifier import Notifier
from aiodurable.postgres.startup import wait_until_ready
from aiodurable.settings import Settings
from aiodurable.shield import run_to_completion
from aiodurable.thread_id import validate_thread_id

__all__ = ["PostgresLockManager", "create_lock_manager_with_retry"]


class PostgresLockManager:
    """Named locks on Postgres, each held by one task of one process anywhere.

    No name of a lock is a thread's: to keep runs of a thread out, hold its lease (`Durable.hold`).

    Open it with `async with`, or with `open` and `aclose`; it belongs to the event loop in which it
    was opened.

    Args:
        dsn: a direct connection to the primary (not through a pooler in transaction mode); None:
            from the environment.
        password: gives the password of each new connection; see `Durable`.
        sessions: dedicated connections on which all leases live; 0: none, only to read what others
            hold; None: `lock_connections` of `settings`.
        namespace: locks of two namespaces never meet; at most 64 bytes; None: that of `settings`.
        settings: None: `Settings.from_env()`. It also gives the times (`lease_ttl_s`,
            `lease_heartbeat_s`, `lease_safety_margin_s`, `connect_timeout_s`, `close_timeout_s`)
            and whether a missing sequence is created (`auto_migrate`).
        observers: are sent an event for every lease acquired, released and lost; its `thread_id` is
            the lock's name.
        allow_proxy: accept a pooler in session mode, if a probe on every connection finds that
            locks exclude through it; None: `lock_allow_proxy` of `settings`.
        notifier: receives the notifications of the process on the connection of the first session;
            None: one for the locks alone.
        raises_tokens: raise the token of a thread with its lock: the tables of the runs are where
            `dsn` leads.

    Raises:
        ConfigurationError: an argument is invalid.
    """

    def __init__(
        self,
        dsn: str | None = None,
        *,
        password: PasswordFunction | None = None,
        sessions: int | None = None,
        namespace: str | None = None,
        settings: Settings | None = None,
        observers: Sequence[Observer] = (),
        allow_proxy: bool | None = None,
        notifier: Notifier | None = None,
        raises_tokens: bool = False,
    ) -> None:
        settings = settings or Settings.from_env()
        sessions = settings.lock_connections if sessions is None else sessions
        namespace = settings.namespace if namespace is None else namespace
        allow_proxy = settings.lock_allow_proxy if allow_proxy is None else allow_proxy
        if sessions < 0:
            raise ConfigurationError(f"sessions must be 0 or more, got {sessions}")
        if not 0 < len(namespace.encode()) <= 64:
            raise ConfigurationError(
                f"namespace must have 1 to 64 bytes, got {len(namespace.encode())}"
            )
        self._settings = settings
        self._dsn = parse_dsn(
            settings.lock_dsn if dsn is None else dsn, password=password, schema=settings.schema
        )
        self._namespace = namespace
        self._lookup = HolderLookup(self._dsn, timeout_s=settings.connect_timeout_s)
        self._acquirer = Acquirer(self._lookup, self._closed, prepared(observers))
        notifier = notifier or Notifier()
        notifier.subscribe(RELEASES, for_keys(self._acquirer.key_waiters.wake))
        self._supervisors = [
            SessionSupervisor(
                self._dsn,
                LeaseTiming.of(settings),
                self._acquirer.releaser.release,
                notifier=notifier if place == 0 else None,
                up=self._acquirer.session_up,
                connect_timeout_s=settings.connect_timeout_s,
                setup=settings.auto_migrate,
                allow_proxy=allow_proxy,
                probe=place == 0,
                raises_tokens=raises_tokens,
            )
            for place in range(sessions)
        ]
        self._acquirer.supervisors = self._supervisors
        self._opening = asyncio.Lock()

    # ---- opening and closing --------------------------------------------------------------------

    async def open(self) -> None:
        """Connect. Idempotent.

        Raises:
            PostgresUnavailableError: Postgres could not be reached or refused; the driver's error
                is the cause.
            SessionLocksUnsupportedError: the connection cannot hold session locks.
            ClosedError: it is open in another event loop.
        """
        async with self._opening:  # two at once would leave the sessions of one open for ever
            if self._acquirer.loop is None:
                await self._open()
            else:
                self._check_open()

    async def _open(self) -> None:
        self._lookup.open()
        try:
            # The first one alone: it finds what is wrong, and creates what is missing.
            for supervisor in self._supervisors[:1]:
                await supervisor.open()
            await asyncio.gather(*(supervisor.open() for supervisor in self._supervisors[1:]))
        except BaseException:  # also when cancelled: what is open has no owner yet
            await run_to_completion(self._close_all())
            raise
        self._acquirer.loop = asyncio.get_running_loop()
        for supervisor in self._supervisors:
            if supervisor.session is not None:
                supervisor.session.audit_soon()  # the first one was alone when it learned its share

    async def aclose(self) -> None:
        """Release every lease, lose those still held, and disconnect.

        Idempotent, also before `open`; takes at most `close_timeout_s`. Waiters get `ClosedError`.

        Raises:
            ClosedError: it is open in another event loop, and that one is not closed.
        """
        if self._acquirer.loop is None:
            return
        if not self._acquirer.loop.is_closed():
            self._check_open()
        self._acquirer.close()
        await run_to_completion(self._close_all())

    async def _close_all(self) -> None:
        # One half for the statement under way, one for the last statement.
        bound = self._settings.close_timeout_s / 2
        closing = [supervisor.aclose(bound) for supervisor in self._supervisors]
        await asyncio.gather(*closing, self._lookup.aclose(), return_exceptions=True)

    async def __aenter__(self) -> Self:
        await self.open()
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        await self.aclose()

    # ---- acquiring ------------------------------------------------------------------------------

    def hold(
        self, name: str, *, timeout: float | None = 0, cancel_on_lost: bool = True
    ) -> HeldLock:
        """`async with locks.hold(name) as lease:` holds the lock for the body, and always releases
        it.

        Args:
            name: what to lock: 1 to 512 bytes of UTF-8 without NUL.
            timeout: seconds to wait for it; 0: at once or not at all, None: as long as it takes.
            cancel_on_lost: cancel the body when the lease is lost, and raise `LeaseLostError` at
                its end. Otherwise the body checks for itself (`lease.lost`, `lease.check()`,
                `await lease.wait_lost()`).

        Raises:
            LockBusyError: somebody else holds it (timeout 0).
            LockTimeoutError: it did not become free in time.
            LeaseLostError: the lease was lost before the body ended.
            LockCapacityError: the server's lock table would be overrun (timeout 0).
            PostgresUnavailableError: no lock session is up (timeout 0).
            ClosedError: the manager is not open in this event loop.
        """
        return HeldLock(self._acquirer, self._key(name), name, timeout, cancel_on_lost)

    async def try_acquire(self, name: str) -> Lease | None:
        """A lease if the lock is free, None if it is not. The caller releases it. Raises what
        `hold` raises."""
        return await self._acquirer.try_acquire(self._key(name), name)

    async def acquire(self, name: str, *, timeout: float | None = 0) -> Lease:
        """A lease that the caller releases; its loss cancels nothing. Raises what `hold` raises."""
        return await self._acquirer.acquire(self._key(name), name, timeout)

    async def acquire_thread(self, thread_id: str, *, timeout: float | None = 0) -> Lease:
        """The lock of a thread, which no name of `acquire` is, and in `Lease.raised` the thread's
        new token; None: it is still to be raised, another transaction has locked its fence. For
        `Durable.hold`, which emits the events of the thread's lease."""
        key = _thread_key_of(thread_id, self._namespace)
        return await self._acquirer.acquire(key, thread_id, timeout, observed=False)

    async def reacquire(self, lost: Lease) -> Lease | None:
        """The lock of a lost lease, as a new lease; None: another process has it by now.

        Until the lost lease is released, tasks of this process that wait for the lock go on
        waiting. After a success the new lease replaces it, and it need not be released. Whether
        somebody had the lock in between is not said: compare a fencing token.

        Raises:
            PostgresUnavailableError: no lock session is up yet.
            LockCapacityError: the server's lock table would be overrun.
            ClosedError: the manager is not open in this event loop.
            InvalidArgumentError: the lease is not lost, or was released.
        """
        self._check_open()
        if lost.released or not lost.lost:
            raise InvalidArgumentError(
                f"can only reacquire a lock that was lost and not released, got {lost!r}"
            )
        observed = lost.key != _thread_key_of(lost.name, self._namespace)
        return await self._acquirer.reacquire(lost, observed=observed)

    # ---- holders and health ---------------------------------------------------------------------

    async def is_locked(self, name: str) -> bool:
        """Whether somebody holds the lock, this process included. Reads what the server has, and
        never tries the lock."""
        return await self.holder_of(name) is not None

    async def holder_of(self, name: str) -> LockHolder | None:
        """Who holds the lock, this process included; None: nobody. Raises
        `PostgresUnavailableError`, `ClosedError`."""
        self._check_open()
        holders = await self._lookup.holders(self._key(name))
        return holders[0] if holders else None

    async def holders(self) -> list[LockHolder]:
        """The holders of all leases in this database, of whatever namespace. Raises as
        `holder_of`."""
        self._check_open()
        return await self._lookup.holders()

    def health(self) -> LocksHealth:
        """The sessions, leases and waiters, as this process knows them. Also before `open` and
        after `aclose`."""
        return health(self._supervisors, self._acquirer.waiting)

    # ---- parts ----------------------------------------------------------------------------------

    def _key(self, name: str) -> int:
        try:
            return _key_of(name, self._namespace)
        except TypeError:  # what cannot be hashed is no string
            raise InvalidArgumentError(
                f"a lock's name must be a str, got {type(name).__name__}"
            ) from None

    def _check_open(self) -> None:
        if self._acquirer.loop is not asyncio.get_running_loop():
            raise self._closed()

    def _closed(self) -> ClosedError:
        if self._acquirer.loop is not None:
            return ClosedError(
                "cannot use this lock manager here: it was opened in another event loop, where its "
                "connections live. Open one in each loop"
            )
        return ClosedError(
            "cannot use a lock manager that is not open: use it inside "
            "`async with PostgresLockManager(…)`, or call open()"
        )


async def create_lock_manager_with_retry(
    dsn: str | None = None,
    *,
    password: PasswordFunction | None = None,
    timeout: float = 30.0,
    sessions: int | None = None,
    namespace: str | None = None,
    settings: Settings | None = None,
    observers: Sequence[Observer] = (),
) -> PostgresLockManager:
    """An open `PostgresLockManager`, even if Postgres takes up to `timeout` seconds to come up.

    Waits between two tries grow from 0.1 s to 2 s, with jitter. A refused user, password or
    database is raised at once. The other arguments are those of `PostgresLockManager`. The caller
    closes it.

    Raises:
        PostgresUnavailableError: Postgres was not ready in time.
        SessionLocksUnsupportedError: the connection cannot hold session locks.
    """
    locks = PostgresLockManager(
        dsn,
        password=password,
        sessions=sessions,
        namespace=namespace,
        settings=settings,
        observers=observers,
    )
    await wait_until_ready(locks.open, wanted="a lock manager", timeout_s=timeout)
    return locks


@lru_cache(maxsize=4096)
def _key_of(name: str, namespace: str) -> int:
    """Cached with the validation, which costs twice as much as the key."""
    return own_lock_key(validate_thread_id(name), namespace)


@lru_cache(maxsize=4096)
def _thread_key_of(thread_id: str, namespace: str) -> int:
    return lock_key(validate_thread_id(thread_id), namespace)
