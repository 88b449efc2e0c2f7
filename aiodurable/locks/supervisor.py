"""Keeps one lock session open: connects, checks, serves, and after a loss begins again."""

from __future__ import annotations

import asyncio
import logging
import random
import time
from collections.abc import Callable, Mapping
from typing import Final

from aiodurable.dsn import Dsn
from aiodurable.locks.capacity import share
from aiodurable.locks.lease_timing import LeaseTiming
from aiodurable.locks.selfcheck import check
from aiodurable.locks.session import LetGo, LockSession
from aiodurable.locks.statements import LockStatements
from aiodurable.postgres.errors import DRIVER_FAILURES, to_unavailable

__all__ = ["SessionSupervisor"]

_log = logging.getLogger(__name__)

BACKOFF_S: Final = (0.05, 2.0)
"""Seconds before the first and at most before any later try to connect again, halved at random."""

_WARN_EVERY_S: Final = 30.0
"""Seconds between two warnings that Postgres is away; each try in between is logged at level DEBUG."""

_PARTING_S: Final = 0.1
"""Seconds in which a session whose connection was cut ends by itself."""


class SessionSupervisor:
    """One place among the manager's sessions.

    Args:
        dsn: where to, directly.
        terms: of the leases.
        let_go: what a lease calls when it is released.
        heard: called with a key that was let go while somebody waits; None: this session does not listen.
        channels: others to listen on, and what is called with the payload.
        up: called whenever a session is up.
        connect_timeout_s: seconds to connect, at each try.
        setup: make the token sequence where it is missing.
        allow_proxy: accept a pooler that passes the probe.
        probe: try once whether this server's locks exclude at all.
    """

    def __init__(
        self,
        dsn: Dsn,
        terms: LeaseTiming,
        let_go: LetGo,
        *,
        heard: Callable[[int], None] | None,
        channels: Mapping[str, Callable[[str], None]],
        up: Callable[[], None],
        connect_timeout_s: float,
        setup: bool,
        allow_proxy: bool,
        probe: bool,
    ) -> None:
        self._dsn = dsn
        self._terms = terms
        self._let_go = let_go
        self._heard = heard
        self._channels = channels
        self._up = up
        self._connect_timeout_s = connect_timeout_s
        self._setup = setup
        self._allow_proxy = allow_proxy
        self._probe = probe
        self._task: asyncio.Task[None] | None = None
        self._closing = False
        self.session: LockSession | None = None
        self.reconnects = 0

    async def open(self) -> None:
        """Bring the first session up, or raise why it cannot be."""
        self._closing = False
        self.session = await self._connect()
        self._task = asyncio.create_task(self._keep(self.session), name="aiodurable lock session")

    async def aclose(self, timeout_s: float) -> None:
        """Let go of everything and end, within `timeout_s` seconds. Idempotent."""
        self._closing = True
        task, self._task = self._task, None
        session, self.session = self.session, None
        if session is None or session.over is not None:
            if session is not None:
                session.wire.terminate()  # past its deadline it may hang in a statement, and none is ever cancelled
            if task is not None:  # nothing is held
                await asyncio.wait({task}, timeout=_PARTING_S)
                task.cancel()  # while it connects again
                await asyncio.wait({task})
            return
        session.stop()
        try:
            if task is not None:
                await asyncio.wait({task}, timeout=timeout_s)
        finally:
            # A statement that hangs is not cancelled: its connection is cut.
            done = task is None or task.done()
            session.lose("the lock manager was closed", cut=not done)
        await session.wire.close(timeout_s)
        if task is not None:
            await asyncio.wait({task})

    async def _connect(self) -> LockSession:
        wire = await LockStatements.open(self._dsn, timeout_s=self._connect_timeout_s)
        try:
            await check(
                wire,
                self._dsn,
                allow_proxy=self._allow_proxy,
                probe=self._probe,
                timeout_s=self._connect_timeout_s,
            )
            await wire.prepare(self._terms, setup=self._setup)
            if self._heard is not None:
                await wire.listen(self._heard, self._channels)
            sent = time.monotonic()
            _, _, slots, sessions = await wire.audit(0)
        except BaseException as error:  # also when cancelled: the connection has no owner yet
            wire.terminate()
            if isinstance(error, DRIVER_FAILURES):
                raise to_unavailable(error, self._dsn) from error
            raise
        self._probe = False
        return LockSession(wire, self._terms, self._let_go, sent=sent, share=share(slots, sessions))

    async def _keep(self, session: LockSession) -> None:
        while True:
            self._up()
            try:
                await session.serve()
            except Exception:  # whatever a session died of, another takes its place
                _log.exception("a lock session failed in a way nobody foresaw: please report this")
            if self._closing:
                return
            session = self.session = await self._connect_again()
            self.reconnects += 1

    async def _connect_again(self) -> LockSession:
        wait, most = BACKOFF_S
        warned = float("-inf")
        while True:
            try:
                return await self._connect()
            except Exception as error:  # whatever it was, the next try may do better, and there is nobody else to try
                quiet = time.monotonic() < warned + _WARN_EVERY_S
                warned = warned if quiet else time.monotonic()
                level = logging.DEBUG if quiet else logging.WARNING
                _log.log(level, "a lock session could not be opened again; it is tried until it can: %s", error)
            await asyncio.sleep(wait * random.uniform(0.5, 1.0))
            wait = min(2 * wait, most)
