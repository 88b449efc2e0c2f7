"""One dedicated connection as the locks see it: a handful of prepared statements, none of which ever blocks."""

from __future__ import annotations

import asyncio
import logging
import re
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Final, NamedTuple, Self

import asyncpg

from aiodurable.dsn import Dsn
from aiodurable.errors import ConfigurationError, PoolerNotSupportedError
from aiodurable.locks.lease_timing import LeaseTiming
from aiodurable.locks.making import make_missing
from aiodurable.postgres.connect import connect_direct
from aiodurable.postgres.errors import DRIVER_FAILURES, to_unavailable, translate
from aiodurable.postgres.sql import load

__all__ = ["FREED", "NOTIFIED", "NOT_HELD", "Answer", "LockStatements", "pooled"]

_SQL = load("locks")
_PREPARED: Final = ("batch", "acquire", "release", "flags", "undo", "audit")
_log = logging.getLogger(__name__)
_CHANNEL: Final = "aiodurable_lock"
_KEY: Final = re.compile("-?[0-9]{1,19}")

NOT_HELD: Final = 0
FREED: Final = 1
NOTIFIED: Final = 2
"""What became of a key that was to be unlocked; NOTIFIED: somebody waits for it and was told."""

_STATEMENT_ELSEWHERE: Final = ("26000", "42P05", "08P01")
"""A statement just prepared is not there, or one not yet prepared is: two servers answered one connection."""


class Answer(NamedTuple):
    """What a batch came to: of each release what became of it, of each try its token or None, and tokens asked for."""

    pid: int
    released: Sequence[int]
    acquired: Sequence[int | None]
    tokens: Sequence[int]


class LockStatements:
    """A connection that carries locks and nothing else. Made by `open`; whoever has it sees to it that one statement
    runs at a time, and that none is ever cancelled (asyncpg would open a second connection to cancel it).

    Attributes:
        pid: the backend that answered when it was opened. Another one later means that the locks are elsewhere.
        announced: the backend the server announced at connection start; not `pid` where a proxy stands in between.
        version: `server_version_num`.
        standby: whether the server is in recovery.
    """

    def __init__(self, connection: asyncpg.Connection, dsn: Dsn, *, pid: int, version: int, standby: bool) -> None:
        self._connection = connection
        self._dsn = dsn
        self._statements: dict[str, Any] = {}
        self.pid = pid
        self.announced: int = connection.get_server_pid()
        self.version = version
        self.standby = standby

    @classmethod
    async def open(cls, dsn: Dsn, *, timeout_s: float) -> Self:
        """Connect and look who answers; nothing is set yet.

        Raises:
            PostgresUnavailableError: it could not be reached, refused, or failed at once.
            PoolerNotSupportedError: a pooler answered, and gave two statements to two servers.
        """
        connection = await connect_direct(dsn, role="lock", timeout_s=timeout_s)
        try:
            [(pid, version, standby)] = await connection.fetch(_SQL["look"], timeout=timeout_s)
        except BaseException as error:  # also when cancelled: the connection has no owner yet
            connection.terminate()
            if getattr(error, "sqlstate", None) in _STATEMENT_ELSEWHERE:
                raise pooled(dsn) from error
            if isinstance(error, DRIVER_FAILURES):
                raise to_unavailable(error, dsn) from error
            raise
        return cls(connection, dsn, pid=pid, version=version, standby=standby)

    async def prepare(self, terms: LeaseTiming, *, setup: bool) -> None:
        """Configure the session and make it ready for batches.

        Raises:
            SchemaMismatchError: the sequence of the tokens is missing and `setup` is off.
            ConfigurationError: the role lacks a right that leases need.
            PostgresUnavailableError: the server failed or refused meanwhile.
        """
        with translate(self._dsn):
            if (
                self.announced != self.pid
            ):  # a pooler that resets nothing leaves the locks of whoever had this server connection
                await self._connection.execute(_SQL["release_all"])
            await self._connection.fetch(_SQL["configure"], *terms.server_settings)
            await make_missing(self._connection, self._dsn, setup=setup)
            # Else every session would die of its first lease, and whoever waits for one would wait for ever.
            if not await self._connection.fetchval(_SQL["rights"]):
                raise ConfigurationError(
                    f"the role of {self._dsn.safe} lacks USAGE on aiodurable_lock_tokens, which leases need: grant it"
                )
            for name in _PREPARED:
                self._statements[name] = await self._connection.prepare(_SQL[name])

    async def listen(self, heard: Callable[[int], None], channels: Mapping[str, Callable[[str], None]]) -> None:
        """Have `heard` called with the key whenever a lock that somebody waits for was let go; and listen on `channels`."""

        def told(_connection: object, _pid: int, _channel: str, payload: object) -> None:
            if _KEY.fullmatch(key := str(payload)):
                heard(int(key))
            else:
                _log.debug("dropped a notification of %d characters that is no key: anybody may send one", len(key))

        def passed_on(_connection: object, _pid: int, channel: str, payload: object) -> None:
            channels[channel](str(payload))

        await self._connection.add_listener(_CHANNEL, told)
        for channel in channels:
            await self._connection.add_listener(channel, passed_on)

    def on_end(self, ended: Callable[[], None]) -> None:
        """Have `ended` called when the connection ends, whoever ends it."""

        def told(_connection: object) -> None:
            ended()

        self._connection.add_termination_listener(told)

    async def batch(self, releases: Sequence[int], acquires: Sequence[int], tokens: int) -> Answer:
        """Unlock, then try, as one statement. A single key has a statement of its own, for the sake of its latency."""
        if len(acquires) == 1 and not releases and not tokens:
            pid, token = await self._statements["acquire"].fetchrow(acquires[0])
            return Answer(pid, (), (token,), ())
        if len(releases) == 1 and not acquires and not tokens:
            pid, became = await self._statements["release"].fetchrow(releases[0])
            return Answer(pid, (became,), (), ())
        pid, became, locked, token = await self._statements["batch"].fetchrow(releases, acquires, tokens > 0)
        return Answer(pid, became, [token if mine else None for mine in locked], [token] * tokens)

    async def flags(self, down: Sequence[int], up: Sequence[int]) -> tuple[int, Sequence[bool]]:
        """Take waiters' flags down and put others up; returns the backend and which of `up` are up. One at which a releaser
        looks in that moment is tried once more, when he has looked; where that fails too the tick wakes its waiter."""
        pid, are_up = await self._statements["flags"].fetchrow(down, up)
        raised = dict(zip(up, are_up, strict=True))
        missing = [key for key, is_up in raised.items() if not is_up]
        if missing and pid == self.pid:
            await asyncio.sleep(0)
            pid, are_up = await self._statements["flags"].fetchrow((), missing)
            raised.update(zip(missing, are_up, strict=True))
        return pid, list(raised.values())

    async def undo(self, keys: Sequence[int], flags: Sequence[int] = ()) -> None:
        """Let go of whatever a failed statement may have taken."""
        await self._statements["undo"].fetch(keys, flags)

    async def audit(self, held: int) -> tuple[int, Sequence[int] | None, int, int]:
        """The backend, the keys it holds if they are not `held` in number, the server's lock slots, the lock sessions
        that share them."""
        return tuple(await self._statements["audit"].fetchrow(held))  # pyright: ignore[reportReturnType]

    async def try_hold(self, key: int) -> bool:
        """Take one key, for the probe."""
        return bool(await self._connection.fetchval(_SQL["probe"], key, True))

    async def try_beside(self, key: int) -> bool:
        """Whether a transaction on this connection can have `key`. The transaction stays open."""
        await self._connection.execute("BEGIN")
        return bool(await self._connection.fetchval(_SQL["probe"], key, False))

    async def give_back(self, key: int) -> bool:
        """Unlock the probe's key; whether it was held."""
        return bool(await self._connection.fetchval(_SQL["unprobe"], key))

    def fileno(self) -> int:
        """The file descriptor of the connection's socket, -1 once it is closed."""
        # asyncpg has no other way to its socket.
        transport = self._connection._transport  # noqa: SLF001  # pyright: ignore[reportPrivateUsage]
        socket = None if transport is None else transport.get_extra_info("socket")
        return -1 if socket is None else socket.fileno()

    async def close(self, timeout_s: float) -> None:
        """Let everything go and close; cut off after `timeout_s` seconds."""
        try:
            await self._connection.execute(_SQL["release_all"], timeout=timeout_s)
            await self._connection.close(timeout=timeout_s)
        except DRIVER_FAILURES:
            pass  # the server lets go of a dead session's locks by itself
        finally:
            self.terminate()

    def terminate(self) -> None:
        """Cut the connection without a word; what waits for an answer is told."""
        self._connection.terminate()


def pooled(dsn: Dsn) -> PoolerNotSupportedError:
    """What to say of a pooler that moves statements between servers."""
    return PoolerNotSupportedError(
        f"wanted a connection to {dsn.safe} that holds session locks, found a pooler in transaction or statement mode: a "
        "lock taken through it belongs to whoever gets that server connection next. Give the locks a direct connection "
        "(lock_dsn, AIODURABLE_LOCK_DSN); everything else may go through the pooler"
    )
