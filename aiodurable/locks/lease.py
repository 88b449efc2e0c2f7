"""A lease: one lock, held on one session, until it is released or lost."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Mapping
from enum import Enum
from functools import partial
from typing import TYPE_CHECKING, TypeAlias

from aiodurable.errors import LeaseLostError
from aiodurable.locks.statements import NOT_HELD, Raised

if TYPE_CHECKING:
    from aiodurable.locks.scope import CancelScope

__all__ = ["Lease", "LeaseState", "Release", "SessionLease", "Trust"]


class LeaseState(Enum):
    """What became of a lease: HELD → RELEASED or HELD → LOST. A lost lease stays lost."""

    HELD = "held"
    RELEASED = "released"
    LOST = "lost"


# An attribute of an Enum class costs a call on Python 3.11.
_HELD, _RELEASED, _LOST = LeaseState.HELD, LeaseState.RELEASED, LeaseState.LOST


class Trust:
    """How long a session may be trusted; its leases share it.

    Attributes:
        until: `time.monotonic` until which the session's locks are held (`LeaseTiming`); 0 once it
            is over.
    """

    __slots__ = ("until",)

    def __init__(self, until: float) -> None:
        self.until = until


class Lease:
    """The right to a lock.

    Attributes:
        name: what was locked.
        key: its 64-bit advisory lock key.
        token: larger than the token of every earlier lease of this name, from a sequence: give it
            to systems outside Postgres, and have them refuse a smaller one than they have seen.
            Leases of several names may share a token.
        taken: `time.monotonic` when it was acquired.
        raised: the token of the thread, if this is the lock of one and it was raised with it.
    """

    __slots__ = (
        "_answer",
        "_callbacks",
        "_release",
        "_scope",
        "_state",
        "_trust",
        "key",
        "name",
        "raised",
        "taken",
        "token",
    )

    def __init__(
        self, name: str, key: int, token: int, release: Release, trust: Trust, taken: float
    ) -> None:
        self.name = name
        self.key = key
        self.token = token
        self.taken = taken
        self.raised: Raised | None = None
        self._state = _HELD
        self._trust = trust
        self._release: Release | None = release  # None: it was released
        self._answer: asyncio.Future[Mapping[int, int]] | None = None
        self._scope: CancelScope | None = None
        self._callbacks: list[Callable[[], None]] | None = None

    def __repr__(self) -> str:
        return f"<Lease {self.name!r} token={self.token} {self.state.value}>"

    @property
    def state(self) -> LeaseState:
        """What became of it."""
        return _LOST if self.lost else self._state

    @property
    def lost(self) -> bool:
        """Whether it was lost while it was held.

        True from the moment at which the server might free the lock (`LeaseTiming`), even if a
        blocked event loop has not yet called anybody back.
        """
        return self._state is _LOST or (
            self._release is not None and time.monotonic() >= self._trust.until
        )

    @property
    def released(self) -> bool:
        """Whether its holder has released it. A lost lease can be released too."""
        return self._release is None

    def check(self) -> None:
        """Raise `LeaseLostError` if the lock is not held any more, whether lost or released."""
        if self.lost:
            raise self.loss()
        if self.released:
            raise LeaseLostError(
                f"cannot go on under the lease of {self.name!r} (token {self.token}): it was "
                "released. Acquire the lock again",
                thread_id=self.name,
            )

    def loss(self) -> LeaseLostError:
        """The error of a lease that was lost. The lease does not know who has the lock now."""
        return LeaseLostError(
            f"cannot keep the lease of {self.name!r} (token {self.token}): its lock session ended. "
            "Its body was cancelled, and somebody else may hold the lock now; acquire it again "
            "before you go on",
            thread_id=self.name,
        )

    def on_lost(self, callback: Callable[[], None]) -> Callable[[], None]:
        """Have the event loop call `callback` once, soon after the lease is lost, or now if it is.

        Returns a callable that unsubscribes. A lease that was released cannot be lost any more.
        """
        if self._state is _LOST:
            return asyncio.get_running_loop().call_soon(callback).cancel
        if self._callbacks is None:
            self._callbacks = []
        self._callbacks.append(callback)
        return partial(_unsubscribe, self._callbacks, callback)

    async def wait_lost(self) -> None:
        """Return when the lease is lost; never if it is released: cancel this then."""
        lost = asyncio.Event()
        unsubscribe = self.on_lost(lost.set)
        try:
            await lost.wait()
        finally:
            unsubscribe()

    async def release(self) -> None:
        """Release the lock. Idempotent.

        Returns when the server has answered, and raises a cancellation that arrives meanwhile only
        then. Without an answer that takes until the session is over, at most
        `lease_ttl_s` − `lease_safety_margin_s`.
        """
        if (answer := self._begin_release()) is not None:
            self._settle(await answer)

    def _begin_release(self) -> asyncio.Future[Mapping[int, int]] | None:
        if (release := self._release) is not None:
            self._release = None
            # their cycles would be left to the garbage collector
            self._scope = self._callbacks = None
            if self._state is _HELD:
                self._state = _RELEASED
            self._answer = release(self)
        return self._answer

    def _settle(self, result: Mapping[int, int]) -> bool:
        if result.get(self.key) != NOT_HELD:
            return True
        self._state = _LOST  # its holder believed to hold it until now
        return False


class SessionLease(Lease):
    """A lease with the verbs of those who manage it: its session, the acquirer, a scope."""

    __slots__ = ()

    begin_release = Lease._begin_release  # noqa: SLF001
    """Begin to release it. Returns the future of the server's answer, which cannot be cancelled
    and belongs to `settle`; None if there is nothing to wait for."""

    settle = Lease._settle  # noqa: SLF001
    """Note what the server did with its key. False: the server did not have the lock any more."""

    def cancel_if_lost(self, scope: CancelScope) -> None:
        """Have `scope` cancelled first if the lease is lost. One scope needs no list."""
        self._scope = scope

    def before_release(self, callback: Callable[[], None]) -> None:
        """Have `callback` called when the holder releases it."""
        release = self._release
        assert release is not None

        def observed(lease: Lease) -> asyncio.Future[Mapping[int, int]] | None:
            callback()
            return release(lease)

        self._release = observed

    def retire(self) -> None:
        """End it without unlocking: another lease has its key, or the caller unlocks it."""
        self._release = None
        if self._state is _HELD:
            self._state = _RELEASED

    def lose(self) -> None:
        """The session says that the lock is gone.

        Callbacks run later, from the loop: one loss may have to be noted for a thousand leases.
        """
        if self._state is not _HELD:
            return
        self._state = _LOST
        callbacks = [self._scope.cancel] if self._scope is not None else []
        callbacks += self._callbacks or ()
        self._scope = self._callbacks = None
        if callbacks:
            loop = asyncio.get_running_loop()
            for callback in callbacks:
                loop.call_soon(callback)


Release: TypeAlias = Callable[[Lease], "asyncio.Future[Mapping[int, int]] | None"]
"""Unlocks the key of a lease, or hands it to the next task that waits for it; what it returns is
what `SessionLease.begin_release` returns."""


def _unsubscribe(callbacks: list[Callable[[], None]], callback: Callable[[], None]) -> None:
    if callback in callbacks:
        callbacks.remove(callback)
