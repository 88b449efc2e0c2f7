"""A lock session: one connection on which many leases live. It never comes back once it is over.

Requests that arrive in one iteration of the event loop travel as one statement. Only the task that
runs `serve` sends; everything else is bookkeeping without an await, so nothing there can be
cancelled: callers wait for futures of their own.
"""

from __future__ import annotations

import asyncio
import logging
import random
import time
from collections.abc import Callable
from enum import Enum
from functools import partial
from typing import Final

import asyncpg

from aiodurable.errors import PostgresUnavailableError
from aiodurable.locks.capacity import FLAGS_OF_SHARE, beyond, full, share
from aiodurable.locks.fork_safety import close_in_child
from aiodurable.locks.lease import Lease, SessionLease, Trust
from aiodurable.locks.lease_timing import LeaseTiming
from aiodurable.locks.requests import BATCH, AcquireRequests, Granting, ReleaseFuture, RequestQueue
from aiodurable.locks.statements import NOT_HELD, LockStatements
from aiodurable.locks.wait_flags import WaitFlags
from aiodurable.postgres.errors import DRIVER_FAILURES

__all__ = ["LockSession", "ReleaseLease", "SessionState"]

_log = logging.getLogger(__name__)

AUDIT_S: Final = 30.0
"""Seconds between two audits, halved at random: `pg_locks` is read whole, which takes some
milliseconds for every 10,000 locks."""

ReleaseLease = Callable[["LockSession", Lease], ReleaseFuture | None]
"""Releases a lease of a session: it unlocks the key, or hands it to the next task that waits."""


class SessionState(Enum):
    """UP → CLOSING → OVER, or UP → OVER. The supervisor connects the next one."""

    UP = "up"
    CLOSING = "closing"
    """It sends nothing more, but its leases are still held."""
    OVER = "over"


# An attribute of an Enum class costs a call on Python 3.11.
_OVER = SessionState.OVER


class LockSession:
    """Leases on one connection. All of them are lost together.

    Attributes:
        statements: the connection.
        state: whether it is up.
        over: why it ended; None while it is up or closing.
        held: its leases by key. A lease that was handed on within the process stays until its
            successor has its token.
        trust: until when what is held here is held (`LeaseTiming`).
        answered: `time.monotonic` of the last answer.
        flags: what the server knows about this session's waiters.
        share: slots of the server's lock table that this session may use.
    """

    def __init__(
        self,
        statements: LockStatements,
        timing: LeaseTiming,
        release: ReleaseLease,
        *,
        sent: float,
        share: int,
    ) -> None:
        self.statements = statements
        self.state = SessionState.UP
        self.over: str | None = None
        self.held: dict[int, SessionLease] = {}
        self.trust = Trust(timing.trusted_until(sent))
        self.answered = time.monotonic()
        self.flags = WaitFlags()
        self.share = share
        self._timing = timing
        self._granting = Granting(self.held, partial(release, self), self.trust)
        self._sent = sent
        self._requests = RequestQueue()
        self._work = asyncio.Event()
        self._sending = self._audit_due = False
        self._loop = asyncio.get_running_loop()
        self._timers: dict[str, asyncio.TimerHandle] = {}
        self._schedule_heartbeat()
        self._watch_deadline()
        self._schedule_audit()
        close_in_child(self)
        statements.on_close(lambda: self.lose("the connection ended"))

    # ---- requests; none of them waits -----------------------------------------------------------

    def acquire(self, key: int, name: str) -> asyncio.Future[SessionLease | None]:
        """Try a key.

        The future gives a lease, or None: somebody else holds it. If its caller has left, the key
        is unlocked again.
        """
        return self._request(self._requests.acquires, key, name)

    def renew(self, key: int, name: str) -> asyncio.Future[SessionLease | None]:
        """A new lease, with a new token, of a key that is locked here and whose last lease was
        released."""
        return self._request(self._requests.renewals, key, name)

    def release(self, key: int) -> ReleaseFuture:
        """Unlock a key. The future has the result; the key is free if the session is over or ends
        meanwhile."""
        self.held.pop(key, None)
        if self.state is _OVER:
            return self._requests.released  # settled when the session ended
        self._work.set()
        return self._requests.release(key)

    def set_flag(self, key: int, *, up: bool) -> None:
        """Say that somebody here waits for `key`, or no longer. Sent before the next batch."""
        if not up or len(self.flags.up) < self.share // FLAGS_OF_SHARE:
            self.flags.want(key, up=up)
        if not up:
            self._work.set()

    @property
    def is_over(self) -> bool:
        """Whether it has ended."""
        return self.state is _OVER

    @property
    def slots_used(self) -> int:
        """Slots of the server's lock table that this session uses or is about to use."""
        return len(self.held) + self._requests.trying + len(self.flags.up)

    @property
    def idle(self) -> bool:
        """Whether every request has its answer."""
        return not (self._sending or self._requests or self.flags.due or self._audit_due)

    def _request(
        self, requests: AcquireRequests, key: int, name: str
    ) -> asyncio.Future[SessionLease | None]:
        caller: asyncio.Future[SessionLease | None] = asyncio.Future(loop=self._loop)
        if self.state is _OVER:
            caller.set_exception(self._over_error())
        else:
            requests.add(key, name, caller)
            self._work.set()
        return caller

    # ---- the one task that sends ----------------------------------------------------------------

    async def serve(self) -> None:
        """Send requests, or a heartbeat if there are none, until the session ends or closes."""
        try:
            while self.state is not _OVER:
                await self._work.wait()
                self._work.clear()
                if self.state is SessionState.CLOSING:
                    return
                self._sending = True
                if self._audit_due:
                    await self._audit()
                if self.flags.due:
                    await self._send_flags()
                await self._send_batch()
                self._sending = False
                if self._requests or self.flags.due:
                    self._work.set()
        except BaseException as error:  # nobody may trust this session any longer, or wait for it
            self.lose(type(error).__name__)
            raise

    async def _send_batch(self) -> None:
        if self.state is _OVER:
            return
        capacity = max(0, self.share - len(self.held))
        batch = self._requests.take(capacity, lambda: beyond(self.share))
        if not batch and time.monotonic() < self._sent + self._timing.lease_heartbeat_s:
            return
        releases, acquires = batch.releases, batch.acquires.keys
        sent = time.monotonic()
        try:
            answer = await self.statements.batch(releases, acquires, len(batch.renewals.keys))
        except asyncpg.OutOfMemoryError as error:
            # Everything that the statement locked before it failed is still locked.
            await self._undo(releases + acquires, [])
            batch.fail(lambda cause=error: full(cause))
        except DRIVER_FAILURES as error:
            self._failed(error)
        else:
            if not self.is_over and self._note_answer(answer.pid, sent):
                for key in batch.settle(answer, self._granting, self.answered):
                    self.release(key)
                if NOT_HELD in answer.released:
                    self.lose("a lock was not there any more when it was to be unlocked")
        self._requests.under_way = None

    async def _send_flags(self) -> None:
        down, up = self.flags.take(BATCH)
        if not (down or up) or self.state is _OVER:
            return
        sent = time.monotonic()
        try:
            pid, are_up = await self.statements.flags(down, up)
        except asyncpg.OutOfMemoryError:
            await self._undo([], down + up)
            self.flags.settle(down, [])
        except DRIVER_FAILURES as error:
            self._failed(error)
        else:
            if not self.is_over and self._note_answer(pid, sent):
                raised = [key for key, is_up in zip(up, are_up, strict=True) if is_up]
                self.flags.settle(down, raised)

    async def _audit(self) -> None:
        """Compare what we believe to hold with `pg_locks`, and learn our share.

        Nothing else is under way.
        """
        self._audit_due = False
        self._schedule_audit()
        believed = self.held.keys() | self._requests.to_unlock
        sent = time.monotonic()
        try:
            pid, keys, slots, sessions = await self.statements.audit(len(believed))
        except DRIVER_FAILURES as error:
            self._failed(error)
            return
        if self.is_over or not self._note_answer(pid, sent):
            return
        self.share = share(slots, sessions)
        if keys is None:
            return
        if missing := len(believed - set(keys)):
            self.lose(
                f"the server does not have {missing} of the {len(believed)} locks that were"
                " believed to be held"
            )
            return
        for key in set(keys) - believed:
            _log.error(
                "a lock session held a key that no lease in this process has; it is unlocked:"
                " please report this"
            )
            self.release(key)

    async def _undo(self, keys: list[int], flags: list[int]) -> None:
        try:
            await self.statements.undo(keys, flags)
        except DRIVER_FAILURES as error:
            self._failed(error)

    def _note_answer(self, pid: int, sent: float) -> bool:
        """False: the answer came from another backend, or too late, and the session is over."""
        now = time.monotonic()
        if pid != self.statements.pid:
            self.lose(
                f"backend {pid} answered in place of {self.statements.pid}: a pooler or proxy moved"
                " the connection"
            )
        elif (
            now >= self.trust.until
        ):  # somebody may have seen `lost` already, which must not revert
            self._deadline_passed(
                f"an answer came {now - self._sent:.1f} s after the last statement that had one was"
                " sent"
            )
        else:
            self._sent = sent
            self.answered = now
            self.trust.until = self._timing.trusted_until(sent)
        return self.state is not _OVER

    # ---- timers ---------------------------------------------------------------------------------

    def _schedule_heartbeat(self) -> None:
        """Send a heartbeat after a while without statements. Re-armed only when it fires, so that a
        batch costs no timer."""
        wait = self._sent + self._timing.lease_heartbeat_s - time.monotonic()
        if wait <= 0:
            self._work.set()
            wait = self._timing.lease_heartbeat_s
        self._timers["heartbeat"] = self._loop.call_later(wait, self._schedule_heartbeat)

    def _watch_deadline(self) -> None:
        """End the session at its deadline, also while a statement hangs."""
        left = self.trust.until - time.monotonic()
        if left <= 0:
            self._deadline_passed(f"no answer for {time.monotonic() - self._sent:.1f} s")
        else:
            self._timers["deadline"] = self._loop.call_later(left, self._watch_deadline)

    def _schedule_audit(self) -> None:
        wait = AUDIT_S * random.uniform(0.5, 1.0)
        self._timers["audit"] = self._loop.call_later(wait, self.audit_soon)

    def audit_soon(self) -> None:
        """Audit before the next statement."""
        self._timers["audit"].cancel()
        self._audit_due = True
        self._work.set()

    # ---- the end --------------------------------------------------------------------------------

    def stop(self) -> None:
        """Have `serve` return after the statement that is under way."""
        if self.state is SessionState.UP:
            self.state = SessionState.CLOSING
        self._work.set()

    def lose(self, why: str, *, cut: bool = True) -> None:
        """End the session and lose all its leases. Idempotent; `cut` also ends the connection."""
        if self.state is _OVER:
            return
        self.state = _OVER
        self.over = why
        self.trust.until = 0.0
        for timer in self._timers.values():
            timer.cancel()
        lost = [lease for lease in self.held.values() if not lease.released]
        self.held.clear()
        self.flags = WaitFlags()
        for lease in lost:
            lease.lose()
        self._requests.fail_all(self._over_error)
        self._work.set()
        if cut:
            self.statements.terminate()
        level = logging.WARNING if lost else logging.INFO
        _log.log(level, "lock session over, %d leases lost: %s", len(lost), why)

    def _deadline_passed(self, why: str) -> None:
        """Lose the session, and cut the connection after the margin.

        The server keeps our locks for the margin, which is the time that stopping may take. Cutting
        at once could free them: our words may reach the server although its answers do not reach
        us.
        """
        self.lose(why, cut=False)
        self._loop.call_later(self._timing.margin_s, self.statements.terminate)

    def _failed(self, error: BaseException) -> None:
        # What a failed statement locked before it failed is unknown, and unknown means lost.
        self.lose(f"{type(error).__name__}: {error}")

    def _over_error(self) -> PostgresUnavailableError:
        return PostgresUnavailableError(
            f"cannot use a lock session that is over ({self.over}): it is being replaced, try again"
        )

    def fileno(self) -> int:
        """The socket's file descriptor, -1 once it is closed."""
        return self.statements.fileno()

    def inherited(self) -> None:
        """Lose the leases in a forked child: they are the parent's, and so is the event loop."""
        self.state = _OVER
        self.over = "this process was forked from the one that opened it"
        self.trust.until = 0.0
        self.held.clear()
