"""`Threads.cancel`: cancel a run in whichever process it runs; settle it here if that process
died.
"""

from __future__ import annotations

import asyncio
import random

from aiodurable.errors import InvalidArgumentError, LockTimeoutError, WorkflowAlreadyRunningError
from aiodurable.models import ThreadStatus
from aiodurable.runs.acquire import acquire_lease
from aiodurable.runs.cancellation import CHANNEL
from aiodurable.runs.decision import not_found
from aiodurable.runs.services import Services
from aiodurable.thread_id import validate_thread_id

__all__ = ["cancel", "settled_within"]

_POLL_S = (0.01, 0.5)
"""Seconds between polls for the run to settle: initial and maximum."""


async def cancel(
    services: Services, thread_id: str, *, wait: bool = False, timeout: float | None = None
) -> bool:
    """See `Threads.cancel`."""
    validate_thread_id(thread_id)
    if timeout is not None and not (wait and timeout >= 0):
        raise InvalidArgumentError(
            f"timeout must be seconds, 0 or more, and needs wait=True, got {timeout} with"
            f" wait={wait}",
            thread_id=thread_id,
            argument="timeout",
        )
    run_id = await services.ledger.request_cancel(thread_id, channel=CHANNEL)
    if run_id is None and await services.ledger.signals.stop(thread_id) is not None:
        return True
    if run_id is None:
        if (await services.threads.status(thread_id)).status is ThreadStatus.NEW:
            raise not_found(thread_id)
        return False
    await settled_within(services, thread_id, run_id, wait=wait, timeout=timeout)
    return True


async def settled_within(
    services: Services, thread_id: str, run_id: str, *, wait: bool, timeout: float | None
) -> None:
    """Return once a run that is to end has ended, or, without `wait`, where its process does that.

    Raises:
        LockTimeoutError: it did not end in time; the request stays.
    """
    try:
        async with asyncio.timeout(timeout):
            await _until_settled(services, thread_id, run_id, wait=wait)
    except TimeoutError:
        raise LockTimeoutError(
            f"cannot settle run {run_id!r} of thread {thread_id!r} within {timeout:g} s: its"
            " process is frozen, or a node blocks its event loop. The request stands; it ends the"
            " run when the process wakes, or its lease expires",
            thread_id=thread_id,
        ) from None


async def _until_settled(services: Services, thread_id: str, run_id: str, *, wait: bool) -> None:
    pause, most = _POLL_S
    while True:
        at_work, held = await services.ledger.is_at_work(run_id)
        if not at_work or (held and not wait):
            return
        if not held and await _settle(services, thread_id, run_id):
            return
        await asyncio.sleep(pause * random.uniform(0.5, 1.0))
        pause = min(pause * 1.2, most)


async def _settle(services: Services, thread_id: str, run_id: str) -> bool:
    """Close the run of a dead process under a lease of our own. False: another process has or had
    it.
    """
    try:
        async with acquire_lease(services, thread_id) as lease:
            thread = await services.threads.status(thread_id, ignore_lock=True)
            if thread.status is ThreadStatus.COMPLETE:
                return await services.ledger.complete_by_tables(
                    run_id, fence=lease.fence, checkpoint_id=thread.checkpoint_id
                )
            return await services.ledger.settle_cancelled(
                run_id, fence=lease.fence, checkpoint_id=thread.checkpoint_id
            )
    except WorkflowAlreadyRunningError:
        return False
