"""What a session has been requested to do and has not answered yet, in the order of arrival."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable, Iterable, Mapping
from contextvars import Context, copy_context
from dataclasses import dataclass, field
from itertools import compress
from typing import Final, Self

from aiodurable.locks.lease import Release, SessionLease, Trust
from aiodurable.locks.statements import FREED, Answer, Leased

__all__ = ["BATCH", "LEASES", "Batch", "Granting", "ReleaseFuture", "RequestQueue"]

BATCH: Final = 2000
"""Keys that one statement unlocks, and tries, at most: some 10 ms of work for the server, so that
nobody waits long for the requests of others."""

LEASES: Final = 100
"""Threads that one statement locks, and whose tokens it raises, at most: it writes a row for each,
and releases wait meanwhile."""


class ReleaseFuture(asyncio.Future[Mapping[int, int]]):
    """The results of the keys that a statement unlocks: `NOT_HELD` or `NOTIFIED`, without those
    that were merely `FREED`.

    All releases of a batch share it. The server carries them out whatever becomes of the callers,
    so it cannot be cancelled: a task that is cancelled while it awaits this future gets its
    `CancelledError` when the server has answered, because a task waits on when the future it awaits
    refuses. `asyncio.shield` would end the wait at once, and costs twice as much as the rest of a
    release.

    One callback of the loop wakes all waiters, one after the other: with a callback each, asyncio's
    loop takes 7 % longer for the whole pair of lock and unlock (benchmarks/locks.py).
    """

    def __init__(self) -> None:
        super().__init__()
        self._waiting: deque[tuple[Callable[[Self], object], Context]] = deque()

    def cancel(self, msg: object = None) -> bool:  # noqa: ARG002  # asyncio passes it by name
        """Refused."""
        return False

    def add_done_callback(
        self, fn: Callable[[Self], object], /, *, context: Context | None = None
    ) -> None:
        """Like that of any future."""
        if self.done():
            super().add_done_callback(fn, context=context)
        else:
            self._waiting.append((fn, copy_context() if context is None else context))

    def set_result(self, result: Mapping[int, int], /) -> None:
        """Like that of any future."""
        super().set_result(result)
        self._wake_soon()

    def _wake_soon(self) -> None:
        if self._waiting:
            self.get_loop().call_soon(self._wake)

    def _wake(self) -> None:
        waiting = self._waiting
        try:
            while waiting:
                fn, context = waiting.popleft()
                context.run(fn, self)
        finally:  # an interrupt that one of them raises must not keep the others asleep
            self._wake_soon()


@dataclass(frozen=True, slots=True)
class Granting:
    """What a session gives each of its leases.

    Attributes:
        held: the session's leases by key.
        release: releases a lease.
        trust: how long the session may be trusted.
    """

    held: dict[int, SessionLease]
    release: Release
    trust: Trust


class AcquireRequests:
    """Requested keys in order of arrival, with the futures of their callers.

    Three lists instead of a tuple for each request: a tuple would be one more object that the
    garbage collector traverses while a task waits.
    """

    __slots__ = ("callers", "keys", "names")

    def __init__(self) -> None:
        self.keys: list[int] = []
        self.names: list[str] = []
        self.callers: list[asyncio.Future[SessionLease | None]] = []

    def add(self, key: int, name: str, caller: asyncio.Future[SessionLease | None]) -> None:
        """Append a request."""
        self.keys.append(key)
        self.names.append(name)
        self.callers.append(caller)

    def split(self, at: int) -> tuple[AcquireRequests, AcquireRequests]:
        """The first `at` requests, and the rest."""
        if len(self.keys) <= at:
            return self, AcquireRequests()
        first, rest = AcquireRequests(), AcquireRequests()
        first.keys, rest.keys = self.keys[:at], self.keys[at:]
        first.names, rest.names = self.names[:at], self.names[at:]
        first.callers, rest.callers = self.callers[:at], self.callers[at:]
        return first, rest

    def extend(self, others: AcquireRequests) -> None:
        """Append others, in their order."""
        self.keys += others.keys
        self.names += others.names
        self.callers += others.callers

    def within(self, capacity: int, refuse: Callable[[], Exception]) -> AcquireRequests:
        """Those whose callers have not left, as many as `capacity`; the rest fail with `refuse`."""
        wanted = self.still_wanted()
        if len(wanted.keys) > capacity:
            wanted, beyond = wanted.split(capacity)
            beyond.fail(refuse)
        return wanted

    def still_wanted(self) -> AcquireRequests:
        """Those whose callers have not left."""
        wanted = [not caller.done() for caller in self.callers]
        if all(wanted):
            return self
        left = AcquireRequests()
        left.keys = list(compress(self.keys, wanted))
        left.names = list(compress(self.names, wanted))
        left.callers = list(compress(self.callers, wanted))
        return left

    def settle(
        self, tokens: Iterable[int | None], granting: Granting, answered: float
    ) -> list[int]:
        """Give each caller its lease, or None where there is no token.

        Returns the keys that were granted to callers who had left.
        """
        held, release, trust = granting.held, granting.release, granting.trust
        unwanted: list[int] = []
        for key, name, caller, token in zip(
            self.keys, self.names, self.callers, tokens, strict=True
        ):
            if caller.done():  # cancelled while the statement was under way
                if token is not None:
                    unwanted.append(key)
            elif token is None:
                caller.set_result(None)
            else:
                lease = held[key] = SessionLease(name, key, token, release, trust, answered)
                caller.set_result(lease)
        return unwanted

    def fail(self, error: Callable[[], Exception]) -> None:
        """Grant none of them."""
        for caller in self.callers:
            if not caller.done():
                caller.set_exception(error())


@dataclass(slots=True)
class Batch:
    """One statement: keys to unlock, keys to try, and locked keys that only need a new token."""

    releases: list[int] = field(default_factory=list[int])
    acquires: AcquireRequests = field(default_factory=AcquireRequests)
    renewals: AcquireRequests = field(default_factory=AcquireRequests)
    released: ReleaseFuture = field(default_factory=ReleaseFuture)

    def __bool__(self) -> bool:
        return bool(self.releases or self.acquires.keys or self.renewals.keys)

    def settle(self, answer: Answer, granting: Granting, answered: float) -> list[int]:
        """Give every caller its answer.

        Returns keys that were granted to callers who had left; they have to be unlocked. A renewed
        key is not among them: the caller who left hands it over.
        """
        if self.releases:
            results = zip(self.releases, answer.released, strict=True)
            self.released.set_result({key: result for key, result in results if result != FREED})
        if self.renewals.keys:
            self.renewals.settle(answer.tokens, granting, answered)
        return self.acquires.settle(answer.acquired, granting, answered)

    def settle_leases(self, leased: Leased, granting: Granting, answered: float) -> list[int]:
        """As `settle`, of a batch of threads that was sent with its tries first."""
        raised = leased.raised
        names = self.acquires.names + self.renewals.names
        tokens = [
            None if not locked else raised[name].token if name in raised else 0
            for name, locked in zip(names, leased.locked, strict=True)
        ]
        tries = len(self.acquires.keys)
        answer = Answer(leased.pid, (), tokens[:tries], tokens[tries:])  # pyright: ignore[reportArgumentType]
        unwanted = self.settle(answer, granting, answered)
        for key, name in zip(self.acquires.keys + self.renewals.keys, names, strict=True):
            if (lease := granting.held.get(key)) is not None:
                lease.raised = raised.get(name)
        return unwanted

    def fail(self, error: Callable[[], Exception]) -> None:
        """Grant nothing; everything that was to be unlocked is unlocked, or will be."""
        if not self.released.done():
            self.released.set_result({})
        self.acquires.fail(error)
        self.renewals.fail(error)


class RequestQueue(Batch):
    """The next batch, filled batches of releases before it, and the batch under way.

    Attributes:
        under_way: what was sent and has no answer yet.
        leases: what is to be sent next of threads, whose tokens are raised with their locks.
    """

    __slots__ = ("_full", "leases", "under_way")

    def __init__(self) -> None:
        super().__init__()
        self.leases = Batch()
        self.under_way: Batch | None = None
        self._full: deque[Batch] = deque()  # releases only

    def __bool__(self) -> bool:
        return bool(self._full) or super().__bool__() or bool(self.leases)

    @property
    def trying(self) -> int:
        """How many tries have no answer yet."""
        under_way = 0 if self.under_way is None else len(self.under_way.acquires.keys)
        return len(self.acquires.keys) + len(self.leases.acquires.keys) + under_way

    @property
    def to_unlock(self) -> set[int]:
        """All keys that are to be unlocked and have not been sent."""
        return {key for batch in (*self._full, self) for key in batch.releases}

    def release(self, key: int) -> ReleaseFuture:
        """Request that a key be unlocked."""
        if len(self.releases) >= BATCH:
            self._full.append(Batch(self.releases, released=self.released))
            self.releases = []
        if not self.releases:
            self.released = ReleaseFuture()
        self.releases.append(key)
        return self.released

    def take(self, capacity: int, refuse: Callable[[], Exception]) -> Batch:
        """Remove and return the next batch.

        A release never waits behind a try: while there are more releases than one statement
        carries, nothing else is sent. Tries beyond `capacity` fail with `refuse`.
        """
        if self._full:
            self.under_way = self._full.popleft()
            return self.under_way
        acquires, self.acquires = self.acquires.split(BATCH)
        acquires = acquires.within(capacity, refuse)
        renewals, self.renewals = self.renewals.split(BATCH)
        self.under_way = Batch(self.releases, acquires, renewals, self.released)
        self.releases = []
        return self.under_way

    def take_leases(self, capacity: int, refuse: Callable[[], Exception]) -> Batch:
        """As `take`, of threads whose tokens are raised.

        Not of a renewal whose caller has left: its key is somebody else's by now.
        """
        waiting = self.leases
        renewals, waiting.renewals = waiting.renewals.split(LEASES)
        acquires, waiting.acquires = waiting.acquires.split(LEASES - len(renewals.keys))
        acquires = acquires.within(capacity, refuse)
        self.under_way = Batch([], acquires, renewals.still_wanted())
        return self.under_way

    def lock_only(self, batch: Batch) -> None:
        """Request the locks of a batch of threads again, without their tokens."""
        self.acquires.extend(batch.acquires)
        self.renewals.extend(batch.renewals)

    def fail_all(self, error: Callable[[], Exception]) -> None:
        """Fail every request: the session is over."""
        for batch in (self.under_way, *self._full, self.leases, self):
            if batch is not None:
                batch.fail(error)
        self._full.clear()
        self.releases, self.acquires, self.renewals = [], AcquireRequests(), AcquireRequests()
        self.leases = Batch()
        self.under_way = None
