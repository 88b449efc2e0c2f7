"""A lease: one lock, held on one session, until it is released or lost."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Mapping
from functools import partial
from typing import Protocol

from aiodurable.errors import LeaseLostError
from aiodurable.locks.statements import NOT_HELD

__all__ = ["Holding", "Lease"]


class Holding(Protocol):
    """The session a lease lives on, as the lease sees it."""

    trusted_until: float

    def let_go(self, lease: Lease, /) -> asyncio.Future[Mapping[int, int]] | None:
        """Give the lock back. The future resolves when the server has answered, and cannot be cancelled; None: there is
        nothing to wait for."""
        ...

    def release(self, key: int, /) -> object:
        """Unlock a key that nobody has."""
        ...


class Cancellable(Protocol):
    """A body that a lease is held for, as the lease sees it (`scope.py`)."""

    def cancel(self) -> None:
        """Cancel it."""
        ...


class Lease:
    """The right to a lock. It is HELD until it is RELEASED or LOST; neither ends.

    Attributes:
        name: what was locked.
        key: its 64-bit advisory lock key.
        token: larger than the token of every earlier lease of this name, from a sequence: give it to systems outside
            Postgres, and have them refuse a smaller one than they have seen. Names taken in one moment may share one.
        taken: `time.monotonic` when it was taken.
        scope: what is cancelled first when it is lost, None: nothing. One of them needs no list.
    """

    __slots__ = ("_callbacks", "_holding", "_lost", "_released", "key", "name", "scope", "taken", "token")

    def __init__(self, name: str, key: int, token: int, holding: Holding, taken: float) -> None:
        self.name = name
        self.key = key
        self.token = token
        self.taken = taken
        self._holding = holding
        self._lost = False
        self._released: asyncio.Future[Mapping[int, int]] | bool = False
        self.scope: Cancellable | None = None
        self._callbacks: list[Callable[[], None]] | None = None

    def __repr__(self) -> str:
        state = "lost" if self.lost else "released" if self.released else "held"
        return f"<Lease {self.name!r} token={self.token} {state}>"

    @property
    def lost(self) -> bool:
        """Whether it was lost while it was held. True from the moment at which the server might free the lock
        (`LeaseTiming`), even if the event loop was blocked meanwhile and nobody has been told yet."""
        return self._lost or (self._released is False and time.monotonic() >= self._holding.trusted_until)

    @property
    def released(self) -> bool:
        """Whether it was let go."""
        return self._released is not False

    def check(self) -> None:
        """Raise `LeaseLostError` if the lock is not held any more, whether lost or released."""
        if self.lost:
            raise self.loss()
        if self.released:
            raise LeaseLostError(
                f"the lease of {self.name!r} (token {self.token}) was released: take the lock again to go on",
                thread_id=self.name,
            )

    def loss(self) -> LeaseLostError:
        """The error of a lease that was lost. Who has the lock now is not known to it."""
        return LeaseLostError(
            f"could not keep the lease of {self.name!r} (token {self.token}): its lock session ended. What ran under it was "
            "stopped; somebody else may hold the lock now, so take it again before you go on",
            thread_id=self.name,
        )

    def on_lost(self, callback: Callable[[], None]) -> Callable[[], None]:
        """Have `callback` called once, by the event loop, soon after the lease is lost (also if it already is).

        Returns what takes that back. A lease that was released is not lost any more: nothing is called.
        """
        if self._lost:
            return asyncio.get_running_loop().call_soon(callback).cancel
        if self._callbacks is None:
            self._callbacks = []
        self._callbacks.append(callback)
        return partial(_forget, self._callbacks, callback)

    async def wait_lost(self) -> None:
        """Return when the lease is lost. Of a lease that is released instead, never: cancel this then."""
        lost = asyncio.Event()
        forget = self.on_lost(lost.set)
        try:
            await lost.wait()
        finally:
            forget()

    async def release(self) -> None:
        """Let go. Idempotent. Returns when the server has answered; a cancellation that comes meanwhile is raised then.

        Without an answer it takes until the session is over, at most `lease_ttl_s` − `lease_safety_margin_s`.
        """
        if (answer := self.let_go()) is not None:
            self.let_gone(await answer)

    def let_go(self) -> asyncio.Future[Mapping[int, int]] | None:
        """Begin to release it, without waiting: what `release` waits for, None: for nothing. `let_gone` ends it."""
        if self._released is False:
            self.scope = self._callbacks = None  # whose cycles would be left to the garbage collector
            self._released = self._holding.let_go(self) or True
        return None if self._released is True else self._released

    def let_gone(self, became: Mapping[int, int]) -> None:
        """What became of it on the server."""
        if became.get(self.key) == NOT_HELD:
            self._lost = True  # whoever let it go believed to hold it until now

    def give_back(self) -> None:
        """It was granted to somebody who had left."""
        self._released = True
        self._holding.release(self.key)

    def give_turn(self) -> None:
        """Another lease of the same key has its turn in this process now: letting this one go does nothing any more."""
        self._released = True

    def lose(self) -> None:
        """The session says that the lock is gone. Callbacks run later, from the loop: what notices a loss has to notice
        that of a thousand other leases too."""
        if self._lost:
            return
        self._lost = True
        callbacks = [self.scope.cancel] if self.scope is not None else []
        callbacks += self._callbacks or ()
        self.scope = self._callbacks = None
        if callbacks:
            loop = asyncio.get_running_loop()
            for callback in callbacks:
                loop.call_soon(callback)


def _forget(callbacks: list[Callable[[], None]], callback: Callable[[], None]) -> None:
    if callback in callbacks:
        callbacks.remove(callback)
