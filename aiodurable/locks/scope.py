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

    def loss(self) -> LeaseLostError:
        """The error that says why it is gone."""
        ...


class CancelScope:
    """What `CancelOnLost` does at its two ends, and `PostgresLockManager.hold` too, which does more there."""

    __slots__ = ("_cancelling", "_fired", "_lease", "_task")

    _lease: Losable
    _task: asyncio.Task[Any] | None
    _cancelling: int
    _fired: bool

    def enter(self, lease: Losable, loop: asyncio.AbstractEventLoop | None = None) -> None:
        """Begin; who calls this has `cancel` called when the lease is lost. Before Python 3.12 a loop that is known spares a
        system call."""
        task = asyncio.current_task(loop)
        if task is None:
            raise RuntimeError("a lease is held by a task: enter it inside one")
        if lease.lost:
            raise lease.loss()
        self._lease = lease
        self._task = task
        self._cancelling = task.cancelling()
        self._fired = False

    def leave(self, error: BaseException | None) -> None:
        """End, with what the body raised. From now on `cancel` does nothing."""
        lease, task = self._lease, self._task
        assert task is not None
        self._task = None
        if self._fired:
            ours_alone = task.uncancel() <= self._cancelling
            if error is None or (isinstance(error, asyncio.CancelledError) and ours_alone):
                raise lease.loss() from error
        elif error is None and lease.lost:
            raise lease.loss()

    def cancel(self) -> None:
        """The lease is lost."""
        if self._task is None:
            return
        if self._task is asyncio.current_task():
            # A task that cancels itself hears of it only at its next await, which may lie behind the boundary.
            asyncio.get_running_loop().call_soon(self.cancel)
            return
        self._fired = True
        self._task.cancel(f"the lease of {self._lease.name!r} was lost")


class CancelOnLost:
    """`async with CancelOnLost(lease):` cancels the task inside when the lease is lost.

    At the boundary:

    - the body was cancelled by the loss, or swallowed that, or finished under a lost lease: `LeaseLostError`;
    - somebody else cancelled the task as well (a user, an outer `asyncio.timeout`, a `TaskGroup`): their `CancelledError`;
    - the body raised something of its own: that, unchanged.

    Raises:
        LeaseLostError: as above, and at entry if the lease is already lost.
    """

    __slots__ = ("_forget", "_lease", "_scope")

    def __init__(self, lease: Losable) -> None:
        self._lease = lease
        self._scope = CancelScope()

    async def __aenter__(self) -> Self:
        self._scope.enter(self._lease)
        self._forget = self._lease.on_lost(self._scope.cancel)
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._forget()
        self._scope.leave(error)


cancel_on_lost = CancelOnLost
"""The same, as a verb."""
