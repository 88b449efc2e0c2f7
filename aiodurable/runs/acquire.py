"""Acquire a thread's lease: first its lock, then a larger token. A failure releases both."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from contextvars import ContextVar
from typing import get_args

from langgraph.checkpoint.base.id import uuid6

from aiodurable.checkpoints.fences import Fence, Standing, bump, wait_for_disk
from aiodurable.errors import InvalidArgumentError, LockBusyError, WorkflowAlreadyRunningError
from aiodurable.locks import Lease, cancel_on_lost
from aiodurable.locks.lease_events import announce
from aiodurable.locks.statements import Raised
from aiodurable.models import RunStatus
from aiodurable.runs.busy import INTERRUPTING, OnBusy, interrupting, wait_in_line
from aiodurable.runs.lease import ThreadLease
from aiodurable.runs.rollback import roll_back
from aiodurable.runs.services import Services
from aiodurable.shield import run_to_completion
from aiodurable.thread_id import validate_thread_id

__all__ = ["OnBusy", "acquire_lease"]

_CHOICES = get_args(OnBusy)

_held: ContextVar[tuple[tuple[Services, ThreadLease], ...]] = ContextVar(
    "aiodurable held", default=()
)
"""The leases of the blocks around this call, including those around a node."""


@asynccontextmanager
async def acquire_lease(
    services: Services,
    thread_id: str,
    *,
    on_busy: OnBusy = "reject",
    timeout: float | None = None,
    run_id: str | None = None,
    on_disk: bool = False,
) -> AsyncIterator[ThreadLease]:
    """Hold the lease of `thread_id` for the body. Losing it cancels the body with `LeaseLostError`.

    Args:
        services: the open services.
        thread_id: the thread.
        on_busy: see `Durable.run`.
        timeout: seconds to wait at most (None: without a limit); not with "reject".
        run_id: the run for which it is held: it neither waits for itself nor interrupts itself.
        on_disk: have the token on disk before the body begins, which may give it to systems outside
            Postgres. A run's is there when its graph begins.

    Raises:
        WorkflowAlreadyRunningError: another run holds it ("reject").
        LockTimeoutError: it did not become free in time.
        WorkflowExecutionError: what an earlier run wrote cannot be removed ("rollback").
        InvalidArgumentError: `thread_id`, `on_busy` or `timeout` is invalid.
        PostgresUnavailableError: Postgres cannot be reached.
    """
    validate_thread_id(thread_id)
    if on_busy not in _CHOICES:
        choices = ", ".join(map(repr, _CHOICES))
        raise InvalidArgumentError(
            f"cannot use on_busy={on_busy!r}: choose from {choices}", argument="on_busy"
        )
    if timeout is not None and not timeout >= 0:
        raise InvalidArgumentError(
            f"timeout must be seconds, 0 or more, got {timeout}", argument="timeout"
        )
    if timeout is not None and on_busy == "reject":
        raise InvalidArgumentError(
            f'timeout={timeout} has no meaning with on_busy="reject", which does not wait: pass'
            ' on_busy="wait" too',
            argument="timeout",
        )
    held = _held.get()
    if on_busy != "reject" and any(
        at is services and lease.thread_id == thread_id and not lease.lost for at, lease in held
    ):
        raise WorkflowAlreadyRunningError(
            f"thread {thread_id!r} is held by the block around this call, which would wait for"
            " itself: use the run of that block, or another thread",
            thread_id=thread_id,
        )
    asked = time.monotonic()
    run_id = run_id or str(uuid6())
    lock = await _lock_when_free(services, thread_id, run_id, on_busy, timeout)
    try:
        raised = lock.raised or await _raise_token(services, lock)
        fence = Fence(thread_id, raised.token, raised.lease_id)
        if on_disk:
            await wait_for_disk(services.checkpoints.direct, fence)
        lease = ThreadLease(services, lock, fence, first=raised.first, waits=raised.waits)
    except BaseException:  # a cancellation too: nobody else releases this lock
        await lock.release()
        raise
    waited_s = time.monotonic() - asked
    announce_release: Callable[[], None] | None = None
    _held.set((*held, (services, lease)))
    try:
        announce_release = announce(services.observers, lease, waited_s=waited_s, of_thread=True)
        async with cancel_on_lost(lease):
            if on_busy == "rollback":
                await roll_back(services, lease)
            yield lease
    finally:
        # Not ContextVar.reset(): a generator may be closed in another context than the one it was
        # begun in.
        _held.set(tuple(other for other in _held.get() if other[1] is not lease))
        try:
            await lease.release()
        finally:  # also where a cancellation comes with the answer
            if announce_release is not None:
                announce_release()


async def _raise_token(services: Services, lock: Lease) -> Raised:
    """Raise the token of a thread that is locked, where that was not done with the lock: another
    transaction has locked its fence, which this waits for.

    A cancelled call returns when its statement has ended, or the lock was lost: a token that is
    raised after the lock was released would make the next holder's writes stale.
    """
    raising = asyncio.create_task(
        bump(services.checkpoints.database, lock.name), name=f"aiodurable bump {lock.name}"
    )
    try:
        return Raised(*await asyncio.shield(raising))
    except asyncio.CancelledError:
        raising.cancel()  # it ends once the server has cancelled or answered the statement
        await run_to_completion(_ended_or_lost(raising, lock))
        raise


async def _ended_or_lost(raising: asyncio.Task[Standing], lock: Lease) -> None:
    lost = asyncio.create_task(lock.wait_lost())
    try:
        await asyncio.wait({raising, lost}, return_when=asyncio.FIRST_COMPLETED)
    finally:
        lost.cancel()


async def _lock_when_free(
    services: Services, thread_id: str, run_id: str, on_busy: OnBusy, timeout: float | None
) -> Lease:
    """The thread's lock, after what `on_busy` does about those that have it or wait for it."""
    if on_busy == "reject":
        return await _lock(services, thread_id, timeout=0)
    if on_busy in INTERRUPTING:
        got: Lease | None = None
        try:
            async with interrupting(services, thread_id, run_id, on_busy):
                got = await _lock(services, thread_id, timeout=timeout)
        except BaseException:  # a cancellation while `interrupting` ends: the caller has no lock
            if got is not None:
                await got.release()
            raise
        return got
    if on_busy == "enqueue":
        began = time.monotonic()
        await wait_in_line(services, thread_id, run_id, timeout=timeout)
        if timeout is not None:
            timeout = max(0.0, timeout - (time.monotonic() - began))
    return await _lock(services, thread_id, timeout=timeout)


async def _lock(services: Services, thread_id: str, *, timeout: float | None) -> Lease:
    try:
        return await services.locks.acquire_thread(thread_id, timeout=timeout)
    except LockBusyError as busy:
        newest = await services.ledger.newest(thread_id)
        running = newest is not None and newest.record.status is RunStatus.RUNNING
        since = newest.record.started_at if newest is not None and running else None
        raise WorkflowAlreadyRunningError(
            f"thread {thread_id!r} is being advanced by {busy.holder or 'somebody else'}"
            f"{f' since {since:%Y-%m-%d %H:%M:%S %Z}' if since else ''}: "
            'wait for it with on_busy="wait", or come back later',
            thread_id=thread_id,
            holder=busy.holder,
            since=since,
        ) from busy
