"""Losing a lease cancels the body that runs under it, and surfaces as `LeaseLostError` at the body's end.

The accounting is that of `asyncio.timeout`: cancel the owner, take that one cancellation back at the boundary, and turn it
into our error only if nobody else has cancelled the task meanwhile.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from types import TracebackType
from typing import Any, Protocol, Self

from aiodurable.errors import LeaseLostError

__all__ = ["CancelOnLost", "Losable", "cancel_on_lost"]


class Losable(Protocol):
    """What can be lost: a bare lease, or a thread's."""

    @property
    def name(self) -> str:
        """What is leased."""
        ...

    @property
    def token(self) -> int:
        """Its fencing token."""
        ...

    @property
    def lost(self) -> bool:
        """Whether it is gone."""
        ...

    def on_lost(self, callback: Callable[[], None]) -> Callable[[], Any]:
        """Have `callback` called once when it is lost; returns what takes that back."""
        ...


class CancelOnLost:
    """`async with CancelOnLost(lease):` cancels the task inside when the lease is lost.

    At the boundary:

    - the body was cancelled by the loss, or swallowed that, or finished under a lost lease: `LeaseLostError`;
    - somebody else cancelled the task as well (a user, an outer `asyncio.timeout`, a `TaskGroup`): their `CancelledError`;
    - the body raised something of its own: that, unchanged.

    Raises:
        LeaseLostError: as above, and at entry if the lease is already lost.
    """

    __slots__ = ("_cancelling", "_fired", "_forget", "_lease", "_task")

    def __init__(self, lease: Losable) -> None:
        self._lease = lease
        self._task: asyncio.Task[Any] | None = None
        self._cancelling = 0
        self._fired = False
        self._forget: Callable[[], Any] | None = None

    async def __aenter__(self) -> Self:
        self.enter()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.leave(error)

    def enter(self, loop: asyncio.AbstractEventLoop | None = None) -> None:
        """What entering does; it awaits nothing. Before Python 3.12 a loop that is known spares a system call."""
        task = asyncio.current_task(loop)
        if task is None:
            raise RuntimeError("a lease is held by a task: enter it inside one")
        if self._lease.lost:
            raise self._error()
        self._task = task
        self._cancelling = task.cancelling()
        self._forget = self._lease.on_lost(self._lost)

    def leave(self, error: BaseException | None) -> None:
        """What leaving with `error` does; it awaits nothing."""
        assert self._task is not None
        assert self._forget is not None
        self._forget()
        self._forget = None  # the lease knows us no longer, nor we the lease: no cycle is left to the garbage collector
        task, self._task = self._task, None
        if self._fired:
            ours_alone = task.uncancel() <= self._cancelling
            if error is None or (isinstance(error, asyncio.CancelledError) and ours_alone):
                raise self._error() from error
        elif error is None and self._lease.lost:
            raise self._error()

    def _lost(self) -> None:
        if self._task is None:
            return
        if self._task is asyncio.current_task():
            # A task that cancels itself hears of it only at its next await, which may lie behind the boundary.
            asyncio.get_running_loop().call_soon(self._lost)
            return
        self._fired = True
        self._task.cancel(f"the lease of {self._lease.name!r} was lost")

    def _error(self) -> LeaseLostError:
        return LeaseLostError(
            f"the lease of {self._lease.name!r} (token {self._lease.token}) was lost while it was needed: what ran under it "
            "was stopped, and somebody else may hold the lock now; look at what is there before you go on",
            thread_id=self._lease.name,
        )


cancel_on_lost = CancelOnLost
"""The same, as a verb."""
