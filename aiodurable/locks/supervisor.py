"""Keeps one lock session open: connects, checks and serves it, and replaces it after a loss."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable
from typing import Final

from aiodurable.dsn import Dsn
from aiodurable.errors import PostgresUnavailableError
from aiodurable.locks.capacity import share
from aiodurable.locks.lease_timing import LeaseTiming
from aiodurable.locks.selfcheck import check
from aiodurable.locks.sender import Sender
from aiodurable.locks.session import LockSession, ReleaseLease
from aiodurable.locks.statements import LockStatements
from aiodurable.postgres.errors import DRIVER_FAILURES, to_unavailable, was_ended
from aiodurable.postgres.notifier import Notifier
from aiodurable.postgres.retry import SESSION_RECONNECT

__all__ = ["SessionSupervisor"]

_log = logging.getLogger(__name__)

_WARN_EVERY_S: Final = 30.0
"""Seconds between two warnings that Postgres is away; tries in between are logged as DEBUG."""

_MOST_ENDED: Final = 5
"""Connections that may be ended by the server before the first session is up."""

_CUT_ENDS_WITHIN_S: Final = 0.1
"""Seconds within which the task of a session whose connection was cut ends by itself."""


class SessionSupervisor:
    """One of the manager's sessions, and its successors.

    Args:
        dsn: a direct connection to the primary.
        timing: of the leases.
        release: releases a lease.
        notifier: receives notifications on this session's connection; None: this session does not
            listen.
        up: called whenever a session is up.
        connect_timeout_s: seconds to connect, at each try.
        setup: create the token sequence if it is missing.
        allow_proxy: accept a pooler that passes the probe.
        probe: check once whether this server's locks exclude at all.
        raises_tokens: see `LockStatements.prepare_leases`.

    Attributes:
        session: the newest one; None before `open` and after `aclose`.
        reconnects: how often a session was replaced.
    """

    def __init__(
        self,
        dsn: Dsn,
        timing: LeaseTiming,
        release: ReleaseLease,
        *,
        notifier: Notifier | None,
        up: Callable[[], None],
        connect_timeout_s: float,
        setup: bool,
        allow_proxy: bool,
        probe: bool,
        raises_tokens: bool,
    ) -> None:
        self._dsn = dsn
        self._timing = timing
        self._release = release
        self._notifier = notifier
        self._up = up
        self._connect_timeout_s = connect_timeout_s
        self._setup = setup
        self._allow_proxy = allow_proxy
        self._probe = probe
        self._raises_tokens = raises_tokens
        self._task: asyncio.Task[None] | None = None
        self._closing = False
        self.session: LockSession | None = None
        self.reconnects = 0

    async def open(self) -> None:
        """Connect the first session, or raise why it cannot be connected. A connection that ends
        before it is a session, as somebody ends the backend, is replaced.
        """
        self._closing = False
        failures = 0
        while True:
            try:
                self.session = await self._connect()
                break
            except PostgresUnavailableError as error:
                failures += 1
                if failures == _MOST_ENDED or not was_ended(error.__cause__):
                    raise
                await SESSION_RECONNECT.pause(failures)
        self._task = asyncio.create_task(
            self._supervise(self.session), name="aiodurable lock session"
        )

    async def aclose(self, timeout_s: float) -> None:
        """Release everything and end, within `timeout_s` seconds. Idempotent."""
        self._closing = True
        task, self._task = self._task, None
        session, self.session = self.session, None
        if session is None or session.is_over:
            if session is not None:
                # Past its deadline it may hang in a statement, and none is ever cancelled.
                session.statements.terminate()
            if task is not None:  # nothing is held
                await asyncio.wait({task}, timeout=_CUT_ENDS_WITHIN_S)
                task.cancel()  # while it reconnects
                await asyncio.wait({task})
            return
        session.stop()
        try:
            if task is not None:
                await asyncio.wait({task}, timeout=timeout_s)
        finally:
            # A statement that hangs is not cancelled: its connection is cut.
            done = task is None or task.done()
            session.lose("the lock manager was closed", cut=not done, ordinary=done)
        await session.statements.close(timeout_s)
        if task is not None:
            await asyncio.wait({task})

    async def _connect(self) -> LockSession:
        statements = await LockStatements.open(self._dsn, timeout_s=self._connect_timeout_s)
        try:
            await check(
                statements,
                self._dsn,
                allow_proxy=self._allow_proxy,
                probe=self._probe,
                timeout_s=self._connect_timeout_s,
            )
            sent, slots, sessions = await self._set_up(statements)
        except BaseException as error:  # also when cancelled: the connection has no owner yet
            statements.terminate()
            if isinstance(error, DRIVER_FAILURES):
                raise to_unavailable(error, self._dsn) from error
            raise
        self._probe = False
        capacity = share(slots, sessions)
        return LockSession(statements, self._timing, self._release, sent=sent, share=capacity)

    async def _set_up(self, statements: LockStatements) -> tuple[float, int, int]:
        """Returns when the last statement was sent, and what it says of the lock table."""
        # If the connection falls silent, nothing else ends a statement, and none is cancelled.
        silent = asyncio.get_running_loop().call_later(
            self._connect_timeout_s, statements.terminate
        )
        try:
            await statements.prepare(
                self._timing, setup=self._setup, raises_tokens=self._raises_tokens
            )
            if self._raises_tokens:
                await statements.prepare_leases()
            if self._notifier is not None:
                await statements.listen(self._notifier)
            sent = time.monotonic()
            _, _, slots, sessions = await statements.audit(0)
        finally:
            silent.cancel()
        return sent, slots, sessions

    async def _supervise(self, session: LockSession) -> None:
        while True:
            self._up()
            try:
                await Sender(session).serve()
            except Exception:  # whatever ended the session, another one replaces it
                _log.exception("a lock session failed unexpectedly: please report this")
            if self._closing:
                return
            session = self.session = await self._reconnect()
            self.reconnects += 1

    async def _reconnect(self) -> LockSession:
        failures = 0
        warned = float("-inf")
        while True:
            try:
                return await self._connect()
            except Exception as error:  # the next try may do better, and nobody else would try
                quiet = time.monotonic() < warned + _WARN_EVERY_S
                warned = warned if quiet else time.monotonic()
                level = logging.DEBUG if quiet else logging.WARNING
                _log.log(level, "cannot reconnect a lock session, trying again: %s", error)
            failures += 1
            await SESSION_RECONNECT.pause(failures)
