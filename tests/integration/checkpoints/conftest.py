"""A pool, the stock saver beside it, and rows as they lie in the tables."""

from collections.abc import AsyncIterator
from typing import Any

import asyncpg
import pytest

from aiodurable.checkpoints import AsyncCheckpointerPool, DurableSaver
from aiodurable.checkpoints.fences import Fence
from aiodurable.checkpoints.write_session import WriteSession
from aiodurable.dsn import parse_dsn


@pytest.fixture
async def pool(dsn: str) -> AsyncIterator[AsyncCheckpointerPool]:
    async with AsyncCheckpointerPool(dsn) as pool:
        yield pool


@pytest.fixture
def saver(pool: AsyncCheckpointerPool) -> DurableSaver:
    return pool.get_checkpointer()


@pytest.fixture
async def db(dsn: str) -> AsyncIterator[asyncpg.Connection]:
    """A connection of the test's own."""
    connection = await asyncpg.connect(**parse_dsn(dsn).asyncpg)
    yield connection
    await connection.close()


@pytest.fixture
def lease(pool: AsyncCheckpointerPool) -> Any:
    """Lease a thread as a run does, without the lock."""

    async def lease(thread_id: str) -> Fence:
        fence = await pool.new_fence(thread_id)
        pool.get_checkpointer().sessions.hold(WriteSession(fence))
        return fence

    return lease
