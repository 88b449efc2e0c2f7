"""A lock session: one connection on which many leases live, from its first batch to its end. It never comes back.

What is asked for in one turn of the event loop travels as one statement. One task, `serve`, sends; everything else here is
plain bookkeeping without an await, so there is nowhere to be cancelled: callers wait for futures of their own.
"""

from __future__ import annotations

import asyncio
import logging
import random
import time
from collections.abc import Callable
from functools import partial
from typing import Final

import asyncpg

from aiodurable.errors import PostgresUnavailableError
from aiodurable.locks.capacity import FLAGS_OF_SHARE, beyond, full, share
from aiodurable.locks.fork_safety import close_in_child
from aiodurable.locks.lease import Lease
from aiodurable.locks.lease_timing import LeaseTiming
from aiodurable.locks.requests import BATCH, AcquireRequests, Release, RequestQueue
from aiodurable.locks.statements import NOT_HELD, LockStatements
from aiodurable.locks.wait_flags import WaitFlags
from aiodurable.postgres.errors import DRIVER_FAILURES

__all__ = ["LetGo", "LockSession"]

_log = logging.getLogger(__name__)

AUDIT_S: Final = 30.0
"""Seconds between two looks at `pg_locks`, halved at random: it is read whole, some milliseconds per 10,000 locks."""

LetGo = Callable[["LockSession", Lease], Release | None]


class LockSession:
    """Leases on one connection. All of them are lost together.

    Attributes:
        wire: the connection.
        held: its leases by key. A lease that was handed on within the process stays until its successor has its token.
        trusted_until: `time.monotonic` until which what is held here is held (`LeaseTiming`); 0 once the session is over.
        answered: `time.monotonic` of the last answer.
        flags: what this session's waiters have said to the server.
        share: slots of the server's lock table that this session may take.
        let_go: what a lease calls that its holder lets go of: whoever waits for it in this process comes next.
        over: why it ended, None while it is up.
    """

    def __init__(self, wire: LockStatements, terms: LeaseTiming, let_go: LetGo, *, sent: float, share: int) -> None:
        self.wire = wire
        self.held: dict[int, Lease] = {}
        self.trusted_until = terms.trusted_until(sent)
        self.answered = time.monotonic()
        self.flags = WaitFlags()
        self.share = share
        self.over: str | None = None
        self._terms = terms
        self.let_go: Callable[[Lease], Release | None] = partial(let_go, self)
        self._sent = sent
        self._asked = RequestQueue()
        self._work = asyncio.Event()
        self._sending = self._closing = self._audit_due = False
        self._loop = asyncio.get_running_loop()
        self._timers: dict[str, asyncio.TimerHandle] = {}
        self._beat()
        self._watch()
        self._audit_later()
        close_in_child(self)
        wire.on_end(lambda: self.lose("the connection ended"))

    # ---- what is asked; none of it waits -----------------------------------------------------------------------------

    def acquire(self, key: int, name: str) -> asyncio.Future[Lease | None]:
        """Try a key. The future gives a lease, or None: somebody else holds it. A grant nobody waits for is let go."""
        return self._ask(self._asked.acquires, key, name)

    def renew(self, key: int, name: str) -> asyncio.Future[Lease | None]:
        """A new lease, with a new token, of a key that is locked here and that the last lease has let go of."""
        return self._ask(self._asked.renewals, key, name)

    def release(self, key: int) -> Release:
        """Unlock a key. The future says what became of it; it is freed if the session is over, or ends meanwhile."""
        self.held.pop(key, None)
        if self.over is not None:
            return self._asked.released  # settled when the session ended
        self._work.set()
        return self._asked.release(key)

    def flag(self, key: int, *, up: bool) -> None:
        """Say that somebody here waits for `key`, or waits no longer. Goes out before the tries of the same turn."""
        if not up or len(self.flags.up) < self.share // FLAGS_OF_SHARE:
            self.flags.want(key, up=up)
        if not up:
            self._work.set()

    @property
    def load(self) -> int:
        """Slots of the server's lock table that this session takes or is about to take."""
        return len(self.held) + self._asked.trying + len(self.flags.up)

    @property
    def idle(self) -> bool:
        """Whether everything that was asked has been answered."""
        return not (self._sending or self._asked or self.flags.due or self._audit_due)

    def _ask(self, queue: AcquireRequests, key: int, name: str) -> asyncio.Future[Lease | None]:
        caller: asyncio.Future[Lease | None] = asyncio.Future(loop=self._loop)
        if self.over is None:
            queue.add(key, name, caller)
            self._work.set()
        else:
            caller.set_exception(self._gone())
        return caller

    # ---- the one task that sends -------------------------------------------------------------------------------------

    async def serve(self) -> None:
        """Send what is asked, and a heartbeat when nothing is, until the session is over."""
        try:
            while self.over is None:
                await self._work.wait()
                self._work.clear()
                if self._closing:
                    return
                self._sending = True
                if self._audit_due:
                    await self._audit()
                if self.flags.due:
                    await self._send_flags()
                await self._send_batch()
                self._sending = False
                if self._asked or self.flags.due:
                    self._work.set()
        except BaseException as error:  # whatever it is: nobody may trust this session any longer, or wait for it
            self.lose(type(error).__name__)
            raise

    async def _send_batch(self) -> None:
        if self.over is not None:
            return
        room = max(0, self.share - len(self.held))
        batch = self._asked.take(room, lambda: beyond(self.share))
        if not batch and time.monotonic() < self._sent + self._terms.lease_heartbeat_s:
            return
        releases, acquires = batch.releases, batch.acquires.keys
        sent = time.monotonic()
        try:
            answer = await self.wire.batch(releases, acquires, len(batch.renewals.keys))
        except asyncpg.OutOfMemoryError as error:
            # Everything the statement took before it failed is still held: the whole batch goes back.
            await self._undo(releases + acquires, [])
            batch.fail(lambda cause=error: full(cause))
        except DRIVER_FAILURES as error:
            self._failed(error)
        else:
            if self.over is None and self._heard(answer.pid, sent):
                for key in batch.settle(answer, self):
                    self.release(key)
                if NOT_HELD in answer.released:
                    self.lose("a lock was not there any more when it was to be unlocked")
        self._asked.under_way = None

    async def _send_flags(self) -> None:
        down, up = self.flags.take(BATCH)
        if not (down or up) or self.over is not None:
            return
        sent = time.monotonic()
        try:
            pid, are_up = await self.wire.flags(down, up)
        except asyncpg.OutOfMemoryError:
            await self._undo([], down + up)
            self.flags.settle(down, [])
        except DRIVER_FAILURES as error:
            self._failed(error)
        else:
            if self.over is None and self._heard(pid, sent):
                self.flags.settle(down, [key for key, is_up in zip(up, are_up, strict=True) if is_up])

    async def _audit(self) -> None:
        """Compare what we believe to hold with `pg_locks`, while nothing is under way; and learn our share anew."""
        self._audit_due = False
        self._audit_later()
        believed = self.held.keys() | self._asked.to_unlock
        sent = time.monotonic()
        try:
            pid, keys, slots, sessions = await self.wire.audit(len(believed))
        except DRIVER_FAILURES as error:
            self._failed(error)
            return
        if self.over is not None or not self._heard(pid, sent):
            return
        self.share = share(slots, sessions)
        if keys is None:
            return
        if missing := len(believed - set(keys)):
            self.lose(f"the server does not have {missing} of the {len(believed)} locks that were believed to be held")
            return
        for key in set(keys) - believed:
            _log.error("a lock session held a key that nobody in this process holds; it is let go: please report this")
            self.release(key)

    async def _undo(self, keys: list[int], flags: list[int]) -> None:
        try:
            await self.wire.undo(keys, flags)
        except DRIVER_FAILURES as error:
            self._failed(error)

    def _heard(self, pid: int, sent: float) -> bool:
        """Note an answer. False: it came from elsewhere, or too late, and the session is over."""
        now = time.monotonic()
        if pid != self.wire.pid:
            self.lose(f"backend {pid} answered in place of {self.wire.pid}: a pooler or proxy moved the connection")
        elif now >= self.trusted_until:  # somebody may have seen `lost` already: it does not become false again
            self._too_late(f"an answer came {now - self._sent:.1f} s after the last statement that had one was sent")
        else:
            self._sent = sent
            self.answered = now
            self.trusted_until = self._terms.trusted_until(sent)
        return self.over is None

    # ---- the clocks --------------------------------------------------------------------------------------------------

    def _beat(self) -> None:
        """Have a heartbeat sent when nothing else was for a while. Armed anew only when it fires: a batch costs no timer."""
        wait = self._sent + self._terms.lease_heartbeat_s - time.monotonic()
        if wait <= 0:
            self._work.set()
            wait = self._terms.lease_heartbeat_s
        self._timers["beat"] = self._loop.call_later(wait, self._beat)

    def _watch(self) -> None:
        """Give up at the deadline, also while a statement hangs."""
        left = self.trusted_until - time.monotonic()
        if left <= 0:
            self._too_late(f"no answer for {time.monotonic() - self._sent:.1f} s")
        else:
            self._timers["watch"] = self._loop.call_later(left, self._watch)

    def _audit_later(self) -> None:
        self._timers["audit"] = self._loop.call_later(AUDIT_S * random.uniform(0.5, 1.0), self.audit_soon)

    def audit_soon(self) -> None:
        """Look at `pg_locks` before the next statement."""
        self._timers["audit"].cancel()
        self._audit_due = True
        self._work.set()

    # ---- the end -----------------------------------------------------------------------------------------------------

    def stop(self) -> None:
        """Have `serve` return after the statement that is under way."""
        self._closing = True
        self._work.set()

    def lose(self, why: str, *, cut: bool = True) -> None:
        """The session is over, and every lease on it lost. Idempotent; `cut` ends the connection without a word."""
        if self.over is not None:
            return
        self.over = why
        self.trusted_until = 0.0
        for timer in self._timers.values():
            timer.cancel()
        held, self.held = self.held, {}
        self.flags = WaitFlags()
        lost = [lease for lease in held.values() if not lease.released]
        for lease in lost:
            lease.lose()
        self._asked.fail_all(self._gone)
        self._work.set()
        if cut:
            self.wire.terminate()
        _log.log(logging.WARNING if lost else logging.INFO, "lock session over, %d leases lost: %s", len(lost), why)

    def _too_late(self, why: str) -> None:
        """The deadline has passed. What the server still has of ours it keeps for the margin, for that is what stopping
        may take; only then is the connection cut, which may reach the server although its answers do not reach us."""
        self.lose(why, cut=False)
        self._loop.call_later(self._terms.margin_s, self.wire.terminate)

    def _failed(self, error: BaseException) -> None:
        # Also a statement that merely failed: what it took before it failed is unknown, and unknown means lost.
        self.lose(f"{type(error).__name__}: {error}")

    def _gone(self) -> PostgresUnavailableError:
        return PostgresUnavailableError(
            f"wanted an answer from a lock session, found that it is over ({self.over}): try again, it is being replaced"
        )

    def fileno(self) -> int:
        """The socket's file descriptor, -1 once it is closed."""
        return self.wire.fileno()

    def inherited(self) -> None:
        """We are in a forked child: what is held is the parent's. Nothing here may touch the parent's event loop."""
        self.over = "this process was forked from the one that opened it"
        self.trusted_until = 0.0
        self.held.clear()
