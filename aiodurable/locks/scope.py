"""The body that runs under a lease: losing the lease cancels it, and is raised at its end.

The accounting is that of `asyncio.timeout`: cancel the owner, take that one cancellation back at
the boundary, and turn it into our error only if nobody else has cancelled the task meanwhile.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from types import TracebackType
from typing import TYPE_CHECKING, Any, Protocol, Self

from aiodurable.errors import LeaseLostError

if TYPE_CHECKING:
    from aiodurable.locks.acquire import Acquirer
    from aiodurable.locks.lease import Lease, SessionLease

__all__ = ["CancelOnLost", "CancelScope", "HeldLock", "Losable", "cancel_on_lost"]


class Losable(Protocol):
    """What can be lost: the lease of a lock (`Lease`) or of a thread (`ThreadLease`)."""

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
        """Whether it is lost."""
        ...

    def on_lost(self, callback: Callable[[], None]) -> Callable[[], Any]:
        """Have `callback` called once when it is lost; returns a callable that unsubscribes."""
        ...

    def loss(self) -> LeaseLostError:
        """The error that says why it was lost."""
        ...


class CancelScope:
    """The boundary of a body: cancels its task when the lease is lost, and raises the loss."""

    __slots__ = ("_cancelled", "_cancelling", "_lease", "_task")

    _lease: Losable
    _task: asyncio.Task[Any] | None
    _cancelling: int
    _cancelled: bool

    def enter(self, lease: Losable, loop: asyncio.AbstractEventLoop | None = None) -> None:
        """Begin. The caller has `cancel` called when the lease is lost.

        Args:
            lease: what the body runs under.
            loop: the running loop, if it is known: before Python 3.12 that spares a system call.
        """
        task = asyncio.current_task(loop)
        if task is None:
            raise RuntimeError("cannot hold a lease outside a task: enter it inside one")
        if lease.lost:
            raise lease.loss()
        self._lease = lease
        self._task = task
        self._cancelling = task.cancelling()
        self._cancelled = False

    def leave(self, error: BaseException | None) -> None:
        """End, with what the body raised. From now on `cancel` does nothing."""
        lease, task = self._lease, self._task
        assert task is not None
        self._task = None
        if self._cancelled:
            ours_alone = task.uncancel() <= self._cancelling
            if error is None or (isinstance(error, asyncio.CancelledError) and ours_alone):
                raise lease.loss() from error
        elif error is None and lease.lost:
            raise lease.loss()

    def cancel(self) -> None:
        """Cancel the body: the lease is lost."""
        if self._task is None:
            return
        if self._task is asyncio.current_task():
            # A task that cancels itself is cancelled at its next await, which may lie behind the
            # boundary.
            asyncio.get_running_loop().call_soon(self.cancel)
            return
        self._cancelled = True
        self._task.cancel(f"the lease of {self._lease.name!r} was lost")


class CancelOnLost:
    """`async with cancel_on_lost(lease):` cancels the task inside when the lease is lost.

    At the boundary:

    - the body was cancelled by the loss, or swallowed that, or finished under a lost lease:
      `LeaseLostError`;
    - somebody else cancelled the task as well (a user, an outer `asyncio.timeout`, a `TaskGroup`):
      their `CancelledError`;
    - the body raised something of its own: that, unchanged.

    Raises:
        LeaseLostError: as above, and at entry if the lease is already lost.
    """

    __slots__ = ("_lease", "_scope", "_unsubscribe")

    def __init__(self, lease: Losable) -> None:
        self._lease = lease
        self._scope = CancelScope()

    async def __aenter__(self) -> Self:
        self._scope.enter(self._lease)
        self._unsubscribe = self._lease.on_lost(self._scope.cancel)
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._unsubscribe()
        self._scope.leave(error)


cancel_on_lost = CancelOnLost


class HeldLock(CancelScope):
    """What `PostgresLockManager.hold` returns: entered once.

    Each of its ends is one coroutine that awaits once, and calls functions that do not await. With
    coroutines within coroutines a pair takes a tenth longer: the garbage collector traverses them
    too while a thousand tasks wait.

    Args:
        acquirer: where the lease comes from.
        key: of the name.
        name: of the lock.
        timeout: seconds to wait for it; None: as long as it takes.
        cancel_on_lost: cancel the body when the lease is lost.
    """

    __slots__ = ("_acquirer", "_cancel_on_lost", "_held", "_key", "_name", "_timeout")

    _held: SessionLease

    def __init__(
        self, acquirer: Acquirer, key: int, name: str, timeout: float | None, cancel_on_lost: bool
    ) -> None:
        self._acquirer = acquirer
        self._key = key
        self._name = name
        self._timeout = timeout
        self._cancel_on_lost = cancel_on_lost

    async def __aenter__(self) -> Lease:
        acquirer, key = self._acquirer, self._key
        at_once = self._timeout == 0 and not acquirer.observers
        request = acquirer.request(key, self._name) if at_once else None
        if request is None:
            lease = await acquirer.acquire(key, self._name, self._timeout)
        else:
            try:
                lease = await request
            except BaseException:  # also when cancelled
                acquirer.withdraw(key, request)
                raise
            if lease is None:
                acquirer.queue.leave(key)
                raise await acquirer.busy(key, self._name)
        self._held = lease
        if self._cancel_on_lost:
            try:
                self.enter(lease, acquirer.loop)
            except BaseException:  # lost at once: the next task must still be able to enter the key
                await lease.release()
                raise
            lease.cancel_if_lost(self)
        return lease

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        lease = self._held
        kept = True
        try:
            if self._cancel_on_lost:
                self.leave(error)
        finally:
            if (answer := lease.begin_release()) is not None:
                kept = lease.settle(await answer)
        if not kept and error is None and self._cancel_on_lost:
            raise lease.loss()
