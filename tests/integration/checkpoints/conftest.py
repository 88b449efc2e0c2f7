"""A pool, the stock saver beside it, and rows as they lie in the tables."""

from collections.abc import AsyncIterator
from typing import Any

import pytest

from aiodurable.checkpoints import AsyncCheckpointerPool, DurableSaver
from aiodurable.checkpoints.fences import Fence
from aiodurable.checkpoints.write_session import WriteSession


@pytest.fixture
async def pool(dsn: str) -> AsyncIterator[AsyncCheckpointerPool]:
    async with AsyncCheckpointerPool(dsn) as pool:
        yield pool


@pytest.fixture
def saver(pool: AsyncCheckpointerPool) -> DurableSaver:
    return pool.get_checkpointer()


@pytest.fixture
def lease(pool: AsyncCheckpointerPool) -> Any:
    """Lease a thread as a run does, without the lock."""

    async def lease(thread_id: str) -> Fence:
        fence = await pool.new_fence(thread_id)
        pool.get_checkpointer().sessions.hold(WriteSession(fence))
        return fence

    return lease
