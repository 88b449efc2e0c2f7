"""A lock session: one connection on which many leases live, from its first batch to its end. It never comes back.

What is asked for in one turn of the event loop travels as one statement. One task, `serve`, sends; everything else here is
plain bookkeeping without an await, so there is nowhere to be cancelled: callers wait for futures of their own.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable
from typing import Final

import asyncpg

from aiodurable.errors import LockCapacityError, PostgresUnavailableError
from aiodurable.locks.lease import Lease
from aiodurable.locks.terms import Terms
from aiodurable.locks.wire import FREED, NOT_HELD, Answer, Wire

__all__ = ["LockSession"]

_log = logging.getLogger(__name__)

BATCH: Final = 2000
"""Keys a statement carries at most: some 10 ms of work for the server, so that nobody waits long behind the others."""

Granted = tuple[int, str, "asyncio.Future[Lease | None]"]
Released = tuple[int, "asyncio.Future[int]"]
LetGo = Callable[["LockSession", Lease], "asyncio.Future[int] | None"]


class LockSession:
    """Leases on one connection. All of them are lost together.

    Attributes:
        wire: the connection.
        held: its leases by key. A lease that was handed on within the process stays until its successor has its token.
        trusted_until: `time.monotonic` until which what is held here is held (`Terms`); 0 once the session is over.
        answered: `time.monotonic` of the last answer.
        flags: the keys whose waiters' flags are up.
        over: why it ended, None while it is up.
    """

    def __init__(self, wire: Wire, terms: Terms, let_go: LetGo, *, sent: float) -> None:
        self.wire = wire
        self._let_go = let_go
        self.held: dict[int, Lease] = {}
        self.flags: set[int] = set()
        self.trusted_until = terms.trusted_until(sent)
        self.answered = time.monotonic()
        self.over: str | None = None
        self._terms = terms
        self._sent = sent
        self._closing = False
        self._sending = False
        self._work = asyncio.Event()
        self._releases: list[Released] = []
        self._acquires: list[Granted] = []
        self._renewals: list[Granted] = []
        self._wanted: dict[int, bool] = {}
        self._under_way: tuple[list[Released], list[Granted]] = ([], [])
        self._loop = asyncio.get_running_loop()
        self._timers: dict[str, asyncio.TimerHandle] = {}
        self._beat()
        self._watch()
        wire.on_end(lambda: self.lose("the connection ended"))

    # ---- what is asked; none of it waits -----------------------------------------------------------------------------

    def acquire(self, key: int, name: str) -> asyncio.Future[Lease | None]:
        """Try a key. The future gives a lease, or None: somebody else holds it. A grant nobody waits for is let go."""
        return self._ask(self._acquires, key, name)

    def renew(self, key: int, name: str) -> asyncio.Future[Lease | None]:
        """A new lease, with a new token, of a key that is locked here and that the last lease has let go of."""
        return self._ask(self._renewals, key, name)

    def release(self, key: int) -> asyncio.Future[int]:
        """Unlock a key. The future says what became of it (`wire`), and `FREED` if the session ends meanwhile."""
        future: asyncio.Future[int] = self._loop.create_future()
        self.held.pop(key, None)
        if self.over is not None:
            future.set_result(FREED)
        else:
            self._releases.append((key, future))
            self._work.set()
        return future

    def flag(self, key: int, *, up: bool) -> None:
        """Say that somebody here waits for `key`, or waits no longer. Goes out before the tries of the same turn."""
        self._wanted[key] = up
        if not up and self.over is None:
            self._work.set()

    def let_go(self, lease: Lease) -> asyncio.Future[int] | None:
        """Of a lease that its holder lets go of: whoever waits for it in this process comes next."""
        return self._let_go(self, lease)

    @property
    def load(self) -> int:
        """Slots of the server's lock table that this session takes or is about to take."""
        return len(self.held) + len(self._acquires) + len(self.flags)

    @property
    def idle(self) -> bool:
        """Whether everything that was asked has been answered."""
        return not (self._sending or self._releases or self._acquires or self._renewals or self._wanted)

    def _ask(self, queue: list[Granted], key: int, name: str) -> asyncio.Future[Lease | None]:
        future: asyncio.Future[Lease | None] = self._loop.create_future()
        if self.over is not None:
            future.set_exception(self._gone())
        else:
            queue.append((key, name, future))
            self._work.set()
        return future

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
                await self._round()
                self._sending = False
        except BaseException as error:  # whatever it is: nobody may trust this session any longer, or wait for it
            self.lose(type(error).__name__)
            raise

    async def _round(self) -> None:
        if self._wanted:
            await self._send_flags()
        releases, self._releases = self._releases[:BATCH], self._releases[BATCH:]
        acquires: list[Granted] = []
        if not self._releases:  # a release never waits behind an acquire
            acquires, self._acquires = self._acquires[:BATCH], self._acquires[BATCH:]
            acquires = [asked for asked in acquires if not asked[2].done()]
        renewals, self._renewals = self._renewals[:BATCH], self._renewals[BATCH:]
        if self._releases or self._acquires or self._renewals or self._wanted:
            self._work.set()
        if not (releases or acquires or renewals or self._beat_due):
            return
        self._under_way = releases, acquires + renewals
        keys = [key for key, _ in releases], [key for key, _, _ in acquires]
        sent = time.monotonic()
        try:
            answer = await self.wire.batch(*keys, len(renewals))
        except asyncpg.OutOfMemoryError as error:
            self._renewals = renewals + self._renewals
            await self._undo(keys, error)
        except (asyncpg.PostgresError, asyncpg.InterfaceError, OSError) as error:
            # Also a statement that merely failed: what it took before it failed is unknown, and unknown means lost.
            self.lose(f"{type(error).__name__}: {error}")
        else:
            if self.over is None and self._heard(answer.pid, sent):
                self._apply(answer, releases, acquires, renewals)
        self._under_way = ([], [])

    async def _send_flags(self) -> None:
        wanted, self._wanted = self._wanted, {}
        up = [key for key, is_up in wanted.items() if is_up and key not in self.flags]
        down = [key for key, is_up in wanted.items() if not is_up and key in self.flags]
        for at in range(0, max(len(up), len(down)), BATCH):
            raising, lowering = up[at : at + BATCH], down[at : at + BATCH]
            sent = time.monotonic()
            try:
                pid, are_up = await self.wire.flags(lowering, raising)
            except asyncpg.OutOfMemoryError:
                await self.wire.undo([], raising)  # without a flag its waiter is woken by the tick alone
                continue
            except (asyncpg.PostgresError, asyncpg.InterfaceError, OSError) as error:
                self.lose(f"{type(error).__name__}: {error}")
                return
            if self.over is not None or not self._heard(pid, sent):
                return
            self.flags.difference_update(lowering)
            self.flags.update(key for key, is_up in zip(raising, are_up, strict=True) if is_up)

    async def _undo(self, keys: tuple[list[int], list[int]], error: asyncpg.PostgresError) -> None:
        """The server's lock table is full. What the statement took before it failed is still held: all of it goes back."""
        try:
            await self.wire.undo([*keys[0], *keys[1]])
        except (asyncpg.PostgresError, asyncpg.InterfaceError, OSError) as failed:
            self.lose(f"{type(failed).__name__}: {failed}")
            return
        tried = set(keys[1])
        for key, _, future in self._under_way[1]:
            if key in tried and not future.done():
                full = LockCapacityError(
                    "the server's lock table is full: hold fewer locks, or raise max_locks_per_transaction and restart it"
                )
                full.__cause__ = error
                future.set_exception(full)
        for _, released in self._under_way[0]:
            if not released.done():
                released.set_result(FREED)

    def _heard(self, pid: int, sent: float) -> bool:
        if pid != self.wire.pid:
            self.lose(f"backend {pid} answered in place of {self.wire.pid}: a pooler or proxy moved the connection")
            return False
        now = time.monotonic()
        if now >= self.trusted_until:  # somebody may have seen `lost` already: it does not become false again
            self.lose(f"an answer came {now - self._sent:.1f} s after the last")
            return False
        self._sent = sent
        self.answered = now
        self.trusted_until = self._terms.trusted_until(sent)
        return True

    def _apply(
        self, answer: Answer, releases: list[Released], acquires: list[Granted], renewals: list[Granted]
    ) -> None:
        for (_, future), became in zip(releases, answer.released, strict=True):
            if not future.done():
                future.set_result(became)
        if NOT_HELD in answer.released:
            self.lose("a lock was not there any more when it was to be unlocked")
            return
        for (key, name, future), token in zip(renewals, answer.tokens, strict=True):
            if not future.done():
                self._grant(key, name, token, future)
        for (key, name, future), token in zip(acquires, answer.acquired, strict=True):
            if future.done():
                if token is not None:  # its caller was cancelled while the statement was under way
                    self.release(key)
            elif token is None:
                future.set_result(None)
            else:
                self._grant(key, name, token, future)

    def _grant(self, key: int, name: str, token: int, future: asyncio.Future[Lease | None]) -> None:
        lease = self.held[key] = Lease(name, key, token, self)
        future.set_result(lease)

    # ---- the end -----------------------------------------------------------------------------------------------------

    def lose(self, why: str, *, cut: bool = True) -> None:
        """The session is over, and every lease on it lost. Idempotent; `cut` ends the connection without a word."""
        if self.over is not None:
            return
        self.over = why
        self.trusted_until = 0.0
        for timer in self._timers.values():
            timer.cancel()
        held, self.held = self.held, {}
        self.flags.clear()
        for lease in held.values():
            if not lease.released:
                lease.lose()
        for _, future in (*self._under_way[0], *self._releases):
            if not future.done():
                future.set_result(FREED)  # the server frees what a dead session held
        for _, _, future in (*self._under_way[1], *self._acquires, *self._renewals):
            if not future.done():
                future.set_exception(self._gone())
        self._under_way = ([], [])
        self._releases, self._acquires, self._renewals = [], [], []
        self._work.set()
        if cut:
            self.wire.terminate()
        _log.log(logging.WARNING if held else logging.INFO, "lock session over, %d leases lost: %s", len(held), why)

    def stop(self) -> None:
        """Have `serve` return after the statement that is under way."""
        self._closing = True
        self._work.set()

    def _gone(self) -> PostgresUnavailableError:
        return PostgresUnavailableError(
            f"wanted an answer from a lock session, found that it is over ({self.over}): try again, it is being replaced"
        )

    # ---- the two clocks ----------------------------------------------------------------------------------------------

    @property
    def _beat_due(self) -> bool:
        return time.monotonic() >= self._sent + self._terms.heartbeat_s

    def _beat(self) -> None:
        """Have a heartbeat sent when nothing else was for a while. Armed anew only when it fires: a batch costs no timer."""
        if self._beat_due:
            self._work.set()
            wait = self._terms.heartbeat_s
        else:
            wait = self._sent + self._terms.heartbeat_s - time.monotonic()
        self._timers["beat"] = self._loop.call_later(max(wait, 0.001), self._beat)

    def _watch(self) -> None:
        """Give up at the deadline, also while a statement hangs."""
        left = self.trusted_until - time.monotonic()
        if left <= 0:
            self.lose(f"no answer for {time.monotonic() - self._sent:.1f} s")
        else:
            self._timers["watch"] = self._loop.call_later(left, self._watch)
