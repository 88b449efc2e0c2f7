"""The statements of a lock session on its dedicated connection; none of them ever blocks."""

from __future__ import annotations

import asyncio
import inspect
import logging
import re
from collections.abc import Callable, Coroutine, Mapping, Sequence
from contextlib import suppress
from typing import Any, Final, NamedTuple, Self, TypeAlias

import asyncpg

from aiodurable.dsn import Dsn
from aiodurable.errors import ConfigurationError, SessionLocksUnsupportedError
from aiodurable.lock_keys import new_lease_id
from aiodurable.locks.lease_timing import LeaseTiming
from aiodurable.postgres.connect import connect_direct
from aiodurable.postgres.errors import DRIVER_FAILURES, is_rule, to_unavailable, translate
from aiodurable.postgres.notifier import Notifier, Subscriber
from aiodurable.postgres.schema import ensure_lock_tokens
from aiodurable.postgres.sql import load

__all__ = [
    "FREED",
    "NOTIFIED",
    "NOT_HELD",
    "RELEASES",
    "Answer",
    "Leased",
    "LockStatements",
    "Raised",
    "Statement",
    "for_keys",
    "pooled",
]

_SQL = load("locks")
_PREPARED: Final = ("batch", "acquire", "release", "flags", "undo", "audit")
_OF_DURABLE_COMMITS: Final = {"acquire": "acquire_durably"}
"""The blocks that a session prepares in the place of others whose commits all wait for the disk."""
_log = logging.getLogger(__name__)
RELEASES: Final = "aiodurable_lock"
"""The channel of keys that were unlocked while somebody waited for them."""

_KEY: Final = re.compile("-?[0-9]{1,19}")

NOT_HELD: Final = 0
FREED: Final = 1
NOTIFIED: Final = 2
"""The result of unlocking a key. NOTIFIED: somebody waits for it, and was notified."""

_STATEMENT_ELSEWHERE: Final = ("26000", "42P05", "08P01")
"""A statement just prepared does not exist, or one not yet prepared does: two servers answered one
connection."""


_CANNOT_LEASE: Final = (asyncpg.InsufficientPrivilegeError, asyncpg.UndefinedObjectError)
"""A right is missing, or the language plpgsql."""


Statement: TypeAlias = Coroutine[Any, Any, Sequence[tuple[int, Any]]]
"""One that gives one row: the backend that answered, and its answer."""

_BIND_EXECUTE: Final = ("state", "args", "portal_name", "limit", "return_extra", "timeout")
"""What asyncpg's protocol takes to send a prepared statement."""


class Answer(NamedTuple):
    """The answer to a batch: the result of each release, the token of each try or None, and the
    tokens of renewals."""

    pid: int
    released: Sequence[int]
    acquired: Sequence[int | None]
    tokens: Sequence[int]


class Raised(NamedTuple):
    """The token of a thread, raised in the statement that locked it.

    Attributes:
        token: larger than that of every earlier lease of the thread.
        lease_id: the random number beside it in the thread's fence.
        first: whether the thread is new: it had no lease, no checkpoint and no run.
        waits: whether it had none of them but one run, which waits in a queue.
    """

    token: int
    lease_id: int
    first: bool = False
    waits: bool = False


class Leased(NamedTuple):
    """The answer to a request for threads: which keys are locked, and the tokens that were raised.

    A thread that is locked and has no token here has a fence that another transaction has locked.
    """

    pid: int
    locked: Sequence[bool]
    raised: Mapping[str, Raised]


class LockStatements:
    """A connection that carries locks and nothing else; use `open`.

    Its owner sends one statement at a time and never cancels one (asyncpg would open a second
    connection to cancel it).

    Attributes:
        pid: the backend that answered when it was opened. If another one answers later, the locks
            are elsewhere.
        announced: the backend that the server announced when it was connected; not `pid` behind a
            proxy.
        version: `server_version_num`.
        standby: whether the server is in recovery.
        raises_tokens: whether this session may raise the tokens of threads; see `prepare_leases`.
    """

    def __init__(
        self, connection: asyncpg.Connection, dsn: Dsn, *, pid: int, version: int, standby: bool
    ) -> None:
        self._connection = connection
        self._dsn = dsn
        self._statements: dict[str, Any] = {}
        self._send_one: Callable[..., Statement]
        self._acquire: Any
        self._release: Any
        self.raises_tokens = False
        self.pid = pid
        self.announced: int = connection.get_server_pid()
        self.version = version
        self.standby = standby

    @classmethod
    async def open(cls, dsn: Dsn, *, timeout_s: float) -> Self:
        """Connect and identify the backend; nothing is configured yet.

        Raises:
            PostgresUnavailableError: it could not be reached, refused, or failed at once.
            SessionLocksUnsupportedError: a pooler answered, and gave two statements to two servers.
        """
        connection = await connect_direct(dsn, role="lock", timeout_s=timeout_s)
        try:
            [(pid, version, standby)] = await connection.fetch(
                _SQL["identify_backend"], timeout=timeout_s
            )
        except BaseException as error:  # also when cancelled: the connection has no owner yet
            connection.terminate()
            if getattr(error, "sqlstate", None) in _STATEMENT_ELSEWHERE:
                raise pooled(dsn) from error
            if isinstance(error, DRIVER_FAILURES):
                raise to_unavailable(error, dsn) from error
            raise
        return cls(connection, dsn, pid=pid, version=version, standby=standby)

    async def prepare(self, timing: LeaseTiming, *, setup: bool, raises_tokens: bool) -> None:
        """Configure the session, which may come to raise the tokens of threads, and prepare its
        statements.

        Raises:
            SchemaMismatchError: the sequence of the tokens is missing and `setup` is off.
            ConfigurationError: the role lacks a right that leases need.
            PostgresUnavailableError: the server failed or refused meanwhile.
        """
        with translate(self._dsn):
            if self.announced != self.pid:
                # A pooler that resets nothing leaves the locks of the last user of this connection.
                await self._connection.execute(_SQL["release_all"])
            await self._connection.fetch(_SQL["configure"], *timing.server_settings, raises_tokens)
            await ensure_lock_tokens(self._connection, self._dsn, setup=setup)
            # Otherwise every session would die of its first lease, and waiters would wait for ever.
            if not await self._connection.fetchval(_SQL["rights"]):
                raise ConfigurationError(
                    f"the role of {self._dsn.safe} lacks USAGE on aiodurable_lock_tokens, which"
                    " leases need: grant it"
                )
            for name in _PREPARED:
                block = name if raises_tokens else _OF_DURABLE_COMMITS.get(name, name)
                self._statements[name] = await self._connection.prepare(_SQL[block])
            of_one_key = self._statements["acquire"], self._statements["release"]
            self._send_one, (self._acquire, self._release) = _sent_by(self._connection, *of_one_key)

    async def prepare_leases(self) -> None:
        """Prepare to raise the tokens of threads with their locks, in the tables of the runs.

        Where this role may not (it lacks a right on the tables, or that to make temporary objects,
        or an event trigger refuses the function), tokens are raised on other connections after the
        locks. So they are where the database is read-only by default, which is an error there.
        """
        with translate(self._dsn), suppress(*_CANNOT_LEASE):
            if await self._connection.fetchval(_SQL["is_read_only"]):
                return
            try:
                await self._connection.execute(_SQL["create_lease"])
            except asyncpg.PostgresError as error:
                if not is_rule(error):
                    raise
                _log.info("cannot raise tokens with the locks of their threads: %s", error)
                return
            self._statements["lease"] = await self._connection.prepare(_SQL["lease"])
            # It plans the statements, and finds a right that is missing.
            with suppress(asyncpg.LockNotAvailableError):
                await self._statements["lease"].fetchrow([], [], [])
            self.raises_tokens = True

    async def listen(self, notifier: Notifier) -> None:
        """Receive the notifications of the process on this connection."""
        await notifier.attach(self._connection)

    def on_close(self, callback: Callable[[], None]) -> None:
        """Have `callback` called when the connection ends, at either side."""

        def closed(_connection: object) -> None:
            callback()

        self._connection.add_termination_listener(closed)

    async def batch(self, releases: Sequence[int], acquires: Sequence[int], tokens: int) -> Answer:
        """Unlock, then try, in one statement. A single key has a faster statement of its own."""
        if len(acquires) == 1 and not releases and not tokens:
            [(pid, token)] = await self.acquire(acquires[0])
            return Answer(pid, (), (token,), ())
        if len(releases) == 1 and not acquires and not tokens:
            [(pid, result)] = await self.release(releases[0])
            return Answer(pid, (result,), (), ())
        pid, results, locked, token = await self._statements["batch"].fetchrow(
            releases, acquires, tokens > 0
        )
        return Answer(pid, results, [token if mine else None for mine in locked], [token] * tokens)

    def acquire(self, key: int) -> Statement:
        """Try one key: the backend, and its token or None."""
        return self._send_one(self._acquire, (key,), "", 1, False, None)

    def release(self, key: int) -> Statement:
        """Unlock one key: the backend, and the result."""
        return self._send_one(self._release, (key,), "", 1, False, None)

    async def lease(self, keys: Sequence[int | None], thread_ids: Sequence[str]) -> Leased:
        """Try the keys of threads, and raise the tokens of those that are locked, in one statement
        that does not wait for the disk.

        Args:
            keys: one a thread; None: it is locked here already.
            thread_ids: the threads, each once.
        """
        lease_ids = [new_lease_id() for _ in thread_ids]
        answer = await self._statements["lease"].fetchrow(thread_ids, lease_ids, keys)
        pid, locked, raised, tokens, made, unknown, waiting = answer
        ids = dict(zip(thread_ids, lease_ids, strict=True))
        answers: dict[str, Raised] = {}
        if raised:
            for thread_id, token in zip(raised, tokens, strict=True):
                answers[thread_id] = Raised(token, ids[thread_id])
        if made:
            for thread_id, first, waits in zip(made, unknown, waiting, strict=True):
                answers[thread_id] = Raised(1, ids[thread_id], first, waits)
        return Leased(pid, locked, answers)

    async def flags(self, down: Sequence[int], up: Sequence[int]) -> tuple[int, Sequence[bool]]:
        """Lower and raise waiters' flags; returns the backend, and which of `up` are up.

        A flag that a releaser probed in that moment is tried once more: the probe lasts
        microseconds. If that fails too, the tick wakes its waiter.
        """
        pid, are_up = await self._statements["flags"].fetchrow(down, up)
        raised = dict(zip(up, are_up, strict=True))
        missing = [key for key, is_up in raised.items() if not is_up]
        if missing and pid == self.pid:
            await asyncio.sleep(0)
            pid, are_up = await self._statements["flags"].fetchrow((), missing)
            raised.update(zip(missing, are_up, strict=True))
        return pid, list(raised.values())

    async def undo(self, keys: Sequence[int], flags: Sequence[int] = ()) -> None:
        """Unlock whatever a failed statement may have locked."""
        await self._statements["undo"].fetch(keys, flags)

    async def audit(self, held: int) -> tuple[int, Sequence[int] | None, int, int]:
        """The backend, the keys it holds if they are not `held` in number, the server's lock slots,
        and the lock sessions that share them."""
        return tuple(await self._statements["audit"].fetchrow(held))  # pyright: ignore[reportReturnType]

    async def probe_lock(self, key: int) -> bool:
        """Lock one key, for the probe."""
        return bool(await self._connection.fetchval(_SQL["probe"], key, True))

    async def probe_from_peer(self, key: int) -> bool:
        """Whether a transaction on this connection can lock `key`. The transaction stays open."""
        await self._connection.execute("BEGIN")
        return bool(await self._connection.fetchval(_SQL["probe"], key, False))

    async def probe_unlock(self, key: int) -> bool:
        """Unlock the probe's key. Returns whether it was locked."""
        return bool(await self._connection.fetchval(_SQL["unprobe"], key))

    def fileno(self) -> int:
        """The file descriptor of the connection's socket, -1 once it is closed."""
        # asyncpg has no other way to its socket.
        transport = self._connection._transport  # noqa: SLF001  # pyright: ignore[reportPrivateUsage]
        socket = None if transport is None else transport.get_extra_info("socket")
        return -1 if socket is None else socket.fileno()

    async def close(self, timeout_s: float) -> None:
        """Unlock everything and close; cut the connection after `timeout_s` seconds."""
        try:
            await self._connection.execute(_SQL["release_all"], timeout=timeout_s)
            await self._connection.close(timeout=timeout_s)
        except DRIVER_FAILURES:
            pass  # the server frees a dead session's locks by itself
        finally:
            self.terminate()

    async def leave(self, timeout_s: float) -> None:
        """Close, and wait until the server has ended the session; cut the connection after
        `timeout_s` seconds."""
        with suppress(*DRIVER_FAILURES):
            await self._connection.close(timeout=timeout_s)

    def terminate(self) -> None:
        """Cut the connection at once; a caller that awaits an answer gets an error."""
        self._connection.terminate()


def _sent_by(connection: Any, *prepared: Any) -> tuple[Callable[..., Statement], tuple[Any, ...]]:
    """What sends prepared statements, and what it takes for each of them.

    It is the method of asyncpg's protocol in which `fetch` ends: the calls on the way there and
    back are a third of the Python that a lone lock takes. If asyncpg has changed it, `fetch`.
    """
    with suppress(AttributeError, TypeError, ValueError):
        send = connection._protocol.bind_execute  # noqa: SLF001
        if tuple(inspect.signature(send).parameters) == _BIND_EXECUTE:
            return send, tuple(statement._state for statement in prepared)  # noqa: SLF001
    return _fetch, prepared


def _fetch(statement: Any, args: Sequence[Any], *_: object) -> Statement:
    return statement.fetch(*args)


def for_keys(key_released: Callable[[int], None]) -> Subscriber:
    """A subscriber to `RELEASES` that calls `key_released` with each key."""

    def notified(payload: str) -> None:
        if _KEY.fullmatch(payload):
            key_released(int(payload))
        else:  # any role may send one
            _log.debug("dropped a notification of %d characters that is no key", len(payload))

    return notified


def pooled(dsn: Dsn) -> SessionLocksUnsupportedError:
    """The error for a pooler that moves statements between servers."""
    return SessionLocksUnsupportedError(
        f"cannot hold session locks through the pooler at {dsn.safe}: it is in transaction or"
        " statement mode, so a lock belongs to the next client of that server connection. Give the"
        " locks a direct connection (lock_dsn, AIODURABLE_LOCK_DSN); everything else may go"
        " through the pooler"
    )
