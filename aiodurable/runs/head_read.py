"""Reads a thread's newest checkpoint while the ledger writes the row of a run."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import AbstractAsyncContextManager, asynccontextmanager, nullcontext
from typing import Final

from aiodurable.models import WorkflowCheckpoint
from aiodurable.runs.lease import ThreadLease
from aiodurable.runs.services import Services

__all__ = ["reading_head"]

_PATIENCE_S: Final = 1.0
"""Seconds to wait for the read after the body: LangGraph's own can be cancelled, this one not."""


_NOTHING_TO_READ: Final = nullcontext()


def reading_head(
    services: Services, lease: ThreadLease, thread: WorkflowCheckpoint
) -> AbstractAsyncContextManager[None]:
    """Read the newest checkpoint of the thread beside the body: LangGraph's first read, which
    would follow, needs no query then.

    It is read after the token was raised, so no write of an earlier lease can follow it. An error
    is left to LangGraph's read, and so is a read that takes long. If the body raises, the read is
    cancelled.

    Args:
        services: the open services.
        lease: the thread's lease, whose write session gets the row.
        thread: the thread's status; nothing is read where it has no checkpoint.
    """
    if thread.checkpoint_id is None or lease.session.head is not None:
        return _NOTHING_TO_READ
    return _reading(services, lease)


@asynccontextmanager
async def _reading(services: Services, lease: ThreadLease) -> AsyncIterator[None]:
    rows = services.checkpoints.get_checkpointer().rows
    reading = asyncio.create_task(
        rows.steps(lease.session, inner=False), name=f"aiodurable head of {lease.thread_id}"
    )
    try:
        yield
        await asyncio.wait({reading}, timeout=_PATIENCE_S)
    finally:
        reading.cancel()  # does nothing to one that is done
        await asyncio.wait({reading})
        if not reading.cancelled():
            reading.exception()  # noted, so that asyncio does not report it
