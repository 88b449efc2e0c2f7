"""What a session was asked for and has not answered: futures in the order in which they came."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable, Iterable, Mapping
from contextvars import Context, copy_context
from dataclasses import dataclass, field
from itertools import compress
from typing import Final, Protocol, Self

from aiodurable.locks.lease import Holding, Lease
from aiodurable.locks.statements import FREED, Answer

__all__ = ["BATCH", "Batch", "Release", "RequestQueue"]

BATCH: Final = 2000
"""Keys a statement unlocks, and tries, at most: some 10 ms of work for the server, so that nobody waits long for others."""


class Grants(Holding, Protocol):
    """The session that was asked.

    Attributes:
        held: its leases by key.
        answered: `time.monotonic` of its last answer.
    """

    held: dict[int, Lease]
    answered: float


class Release(asyncio.Future[Mapping[int, int]]):
    """What became of keys that a statement unlocks: `NOT_HELD` or `NOTIFIED`; those that were merely `FREED` are left out.

    All releases of a batch share it. They are carried out whoever asked, so it cannot be cancelled: whoever awaits it and is
    cancelled meanwhile gets its `CancelledError` when the server has answered, for that is what a task does when the future
    it waits for refuses. `asyncio.shield` would end the wait at once, and costs twice as much as the rest of a release.

    Whoever waits is woken in one callback of the loop, one after the other: with one for each, asyncio's loop takes 7 % longer
    for the whole pair.
    """

    def __init__(self) -> None:
        super().__init__()
        self._waiting: deque[tuple[Callable[[Self], object], Context]] = deque()

    def cancel(self, msg: object = None) -> bool:  # noqa: ARG002  # asyncio passes it by name
        """Refused."""
        return False

    def add_done_callback(self, fn: Callable[[Self], object], /, *, context: Context | None = None) -> None:
        """As of any future."""
        if self.done():
            super().add_done_callback(fn, context=context)
        else:
            self._waiting.append((fn, context or copy_context()))

    def set_result(self, result: Mapping[int, int], /) -> None:
        """As of any future."""
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
        finally:  # an interrupt that one of them raises is not the others'
            self._wake_soon()


class AcquireRequests:
    """Keys that are wanted, in the order in which they were asked for, and who waits for them. Three lists, not a tuple each,
    which would be one more object for the garbage collector to go through while a task waits."""

    __slots__ = ("callers", "keys", "names")

    def __init__(self) -> None:
        self.keys: list[int] = []
        self.names: list[str] = []
        self.callers: list[asyncio.Future[Lease | None]] = []

    def add(self, key: int, name: str, caller: asyncio.Future[Lease | None]) -> None:
        """One more."""
        self.keys.append(key)
        self.names.append(name)
        self.callers.append(caller)

    def split(self, at: int) -> tuple[AcquireRequests, AcquireRequests]:
        """The first ones, and the rest."""
        if len(self.keys) <= at:
            return self, AcquireRequests()
        first, rest = AcquireRequests(), AcquireRequests()
        first.keys, rest.keys = self.keys[:at], self.keys[at:]
        first.names, rest.names = self.names[:at], self.names[at:]
        first.callers, rest.callers = self.callers[:at], self.callers[at:]
        return first, rest

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

    def settle(self, tokens: Iterable[int | None], session: Grants) -> list[int]:
        """Give each caller its lease, or None where there is no token. Returns the keys that were granted to callers who had
        left."""
        held, taken = session.held, session.answered
        unwanted: list[int] = []
        for key, name, caller, token in zip(self.keys, self.names, self.callers, tokens, strict=True):
            if caller.done():  # cancelled while the statement was under way
                if token is not None:
                    unwanted.append(key)
            elif token is None:
                caller.set_result(None)
            else:
                lease = held[key] = Lease(name, key, token, session, taken)
                caller.set_result(lease)
        return unwanted

    def fail(self, error: Callable[[], Exception]) -> None:
        """None of them was granted."""
        for caller in self.callers:
            if not caller.done():
                caller.set_exception(error())


@dataclass(slots=True)
class Batch:
    """What travels as one statement: keys to unlock, keys to try, and keys that stay locked and only want a token."""

    releases: list[int] = field(default_factory=list[int])
    acquires: AcquireRequests = field(default_factory=AcquireRequests)
    renewals: AcquireRequests = field(default_factory=AcquireRequests)
    released: Release = field(default_factory=Release)

    def __bool__(self) -> bool:
        return bool(self.releases or self.acquires.keys or self.renewals.keys)

    def settle(self, answer: Answer, session: Grants) -> list[int]:
        """Give everybody the answer. Returns keys that were granted to callers who had left: they must go back."""
        if self.releases:
            became = zip(self.releases, answer.released, strict=True)
            self.released.set_result({key: what for key, what in became if what != FREED})
        if self.renewals.keys:
            self.renewals.settle(answer.tokens, session)  # whoever has left puts it back
        return self.acquires.settle(answer.acquired, session)

    def fail(self, error: Callable[[], Exception]) -> None:
        """Nothing was granted, and everything is, or will be, let go of."""
        if not self.released.done():
            self.released.set_result({})
        self.acquires.fail(error)
        self.renewals.fail(error)


class RequestQueue(Batch):
    """The queue, and the batch that is under way."""

    __slots__ = ("_full", "under_way")

    def __init__(self) -> None:
        super().__init__()
        self.under_way: Batch | None = None
        self._full: deque[Batch] = deque()  # of releases alone

    def __bool__(self) -> bool:
        return bool(self._full) or super().__bool__()

    @property
    def trying(self) -> int:
        """How many tries have no answer yet."""
        return len(self.acquires.keys) + (len(self.under_way.acquires.keys) if self.under_way is not None else 0)

    @property
    def to_unlock(self) -> set[int]:
        """All keys that are to be unlocked and have not been sent."""
        return {key for batch in (*self._full, self) for key in batch.releases}

    def release(self, key: int) -> Release:
        """Have a key unlocked."""
        if len(self.releases) >= BATCH:
            self._full.append(Batch(self.releases, released=self.released))
            self.releases = []
        if not self.releases:
            self.released = Release()
        self.releases.append(key)
        return self.released

    def take(self, room: int, refuse: Callable[[], Exception]) -> Batch:
        """The next batch. A release never waits behind an acquire: as long as there are too many, nothing else goes. Tries
        that go beyond `room` are refused."""
        if self._full:
            self.under_way = self._full.popleft()
            return self.under_way
        acquires, self.acquires = self.acquires.split(BATCH)
        acquires = acquires.still_wanted()
        if len(acquires.keys) > room:
            acquires, beyond = acquires.split(room)
            beyond.fail(refuse)
        renewals, self.renewals = self.renewals.split(BATCH)
        self.under_way = Batch(self.releases, acquires, renewals, self.released)
        self.releases = []
        return self.under_way

    def fail_all(self, error: Callable[[], Exception]) -> None:
        """The session is over."""
        for batch in (self.under_way, *self._full, self):
            if batch is not None:
                batch.fail(error)
        self._full.clear()
        self.releases, self.acquires, self.renewals = [], AcquireRequests(), AcquireRequests()
        self.under_way = None
