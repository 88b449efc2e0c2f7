"""A lock session: one connection on which many leases live. It never comes back once it is over.

Requests that arrive in one iteration of the event loop travel as one statement, which the task of
its `Sender` sends; that of a caller who is alone is sent at once (`lone.py`). Everything here is
bookkeeping without an await, so nothing can be cancelled: callers wait for futures of their own.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Mapping
from enum import Enum
from functools import partial
from typing import Any

from aiodurable.errors import PostgresUnavailableError
from aiodurable.lock_keys import is_thread_key
from aiodurable.locks.capacity import FLAGS_OF_SHARE
from aiodurable.locks.fork_safety import close_in_child
from aiodurable.locks.lease import Lease, SessionLease
from aiodurable.locks.lease_timing import LeaseTiming
from aiodurable.locks.lone import LoneRelease, LoneRequest, LoneTry
from aiodurable.locks.requests import AcquireRequests, Batch, Granting, RequestQueue
from aiodurable.locks.session_clock import SessionClock
from aiodurable.locks.statements import LockStatements
from aiodurable.locks.wait_flags import WaitFlags

__all__ = ["LockSession", "ReleaseLease", "SessionState"]

_log = logging.getLogger(__name__)

ReleaseLease = Callable[["LockSession", Lease], "asyncio.Future[Mapping[int, int]] | None"]
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
        clock: until when what is held here is held.
        flags: what the server knows about this session's waiters.
        requests: what is to be sent, or under way.
        audit_due: the held locks are to be compared with `pg_locks`.
        work: set when there is something to send.
        sending: the `Sender` has a statement under way.
        lone: the lone request under way.
        quiet: nothing is under way or to be sent, and the last statement carried one request at
            most: the next request is a lone one.
        more: something is to be sent when the lone request has its answer.
        granting: what each of its leases gets.
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
        self.flags = WaitFlags()
        self.share = share
        self.requests = RequestQueue()
        self.audit_due = self.sending = False
        self.quiet = self.more = False
        self.lone: LoneRequest[Any] | None = None
        self.work = asyncio.Event()
        self.clock = SessionClock(timing, sent, heartbeat=self._wake, expired=self._expired)
        self.granting = Granting(self.held, partial(release, self), self.clock.trust)
        self._loop = asyncio.get_running_loop()
        self.clock.start()
        close_in_child(self)
        statements.on_close(lambda: self.lose("the connection ended"))

    # ---- requests; none of them waits -----------------------------------------------------------

    def acquire(self, key: int, name: str) -> asyncio.Future[SessionLease | None]:
        """Try a key. If it is a thread's, raise the thread's token too.

        The future gives a lease, or None: somebody else holds it. If its caller has left, the key
        is unlocked again.
        """
        requests = self._queue_for(key)
        if self.quiet and requests is self.requests and len(self.held) < self.share:
            lone = LoneTry(loop=self._loop)
            lone.name = name
            return lone.send(self, key, self.statements.acquire)
        return self._request(requests.acquires, key, name)

    def acquire_again(self, key: int, name: str) -> asyncio.Future[SessionLease | None]:
        """As `acquire`, of a lock that was lost: the token of a thread stays what it is."""
        return self._request(self.requests.acquires, key, name)

    def renew(self, key: int, name: str) -> asyncio.Future[SessionLease | None]:
        """A new lease, with a new token, of a key that is locked here and whose last lease was
        released."""
        return self._request(self._queue_for(key).renewals, key, name)

    def _queue_for(self, key: int) -> Batch:
        raises = self.statements.raises_tokens and is_thread_key(key)
        return self.requests.leases if raises else self.requests

    def release(self, key: int) -> asyncio.Future[Mapping[int, int]]:
        """Unlock a key. The future has the result; the key is free if the session is over or ends
        meanwhile."""
        self.held.pop(key, None)
        if self.state is _OVER:
            return self.requests.released  # settled when the session ended
        if self.quiet:
            return LoneRelease(loop=self._loop).send(self, key, self.statements.release)
        if self.lone is not None:
            self._wake()
        else:
            self.work.set()
        return self.requests.release(key)

    def lone_answered(self) -> None:
        """Send what has come meanwhile, or be ready for the next lone request."""
        self.lone = None
        if self.more:
            self._wake()
        else:
            self.quiet = True

    def _wake(self) -> None:
        self.quiet = False
        self.more = self.lone is not None
        if not self.more:
            self.work.set()

    def set_flag(self, key: int, *, up: bool) -> None:
        """Say that somebody here waits for `key`, or no longer. Sent before the next batch."""
        if not up or len(self.flags.up) < self.share // FLAGS_OF_SHARE:
            self.flags.want(key, up=up)
            self.quiet = False
        if not up:
            self._wake()

    def audit_soon(self) -> None:
        """Audit before the next statement."""
        self.audit_due = True
        self._wake()

    @property
    def is_over(self) -> bool:
        """Whether it has ended."""
        return self.state is _OVER

    @property
    def slots_used(self) -> int:
        """Slots of the server's lock table that this session uses or is about to use."""
        lone = 0 if self.lone is None else self.lone.tries
        return len(self.held) + lone + self.requests.trying + len(self.flags.up)

    @property
    def idle(self) -> bool:
        """Whether every request has its answer."""
        under_way = self.sending or self.lone is not None
        return not (under_way or self.requests or self.flags.due or self.audit_due)

    def _request(
        self, requests: AcquireRequests, key: int, name: str
    ) -> asyncio.Future[SessionLease | None]:
        caller: asyncio.Future[SessionLease | None] = asyncio.Future(loop=self._loop)
        if self.state is _OVER:
            caller.set_exception(self._over_error())
        else:
            requests.add(key, name, caller)
            if self.quiet or self.lone is not None:
                self._wake()
            else:
                self.work.set()  # spares a thousand tasks a call each
        return caller

    # ---- answers --------------------------------------------------------------------------------

    def note_answer(self, pid: int, sent: float) -> bool:
        """False: the answer came from another backend, or too late, and the session is over."""
        if pid != self.statements.pid:
            self.lose(
                f"backend {pid} answered in place of {self.statements.pid}: a pooler or proxy moved"
                " the connection"
            )
        elif (why := self.clock.note_answer(sent)) is not None:
            self._expired(why)
        return self.state is not _OVER

    def failed(self, error: BaseException) -> None:
        """End the session: a statement failed.

        What it locked before it failed is unknown, and unknown means lost.
        """
        self.lose(f"{type(error).__name__}: {error}")

    # ---- the end --------------------------------------------------------------------------------

    def stop(self) -> None:
        """Have its `Sender` return after the statement that is under way."""
        if self.state is SessionState.UP:
            self.state = SessionState.CLOSING
        self._wake()

    def lose(self, why: str, *, cut: bool = True, ordinary: bool = False) -> None:
        """End the session and lose all its leases. Idempotent; `cut` also ends the connection. An
        `ordinary` end is that of its manager.
        """
        if self.state is _OVER:
            return
        self.state = _OVER
        self.over = why
        self.clock.stop()
        lost = [lease for lease in self.held.values() if not lease.released]
        self.held.clear()
        self.flags = WaitFlags()
        for lease in lost:
            lease.lose()
        if (lone := self.lone) is not None:
            self.lone = None
            lone.fail(self._over_error)
        self.requests.fail_all(self._over_error)
        self._wake()
        if cut:
            self.statements.terminate()
        level = logging.WARNING if lost else logging.DEBUG if ordinary else logging.INFO
        _log.log(level, "lock session over, %d leases lost: %s", len(lost), why)

    def _expired(self, why: str) -> None:
        """Lose the session, and cut the connection after the margin.

        The server keeps our locks for the margin, which is the time that stopping may take. Cutting
        at once could free them: our words may reach the server although its answers do not reach
        us.
        """
        self.lose(why, cut=False)
        self.clock.after_margin(self.statements.terminate)

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
        self.clock.trust.until = 0.0
        self.held.clear()
