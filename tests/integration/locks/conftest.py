"""An open lock manager on a fresh database, and a second one that stands for another process."""

from __future__ import annotations

from collections.abc import AsyncIterator

import pytest

from aiodurable.locks import PostgresLockManager
from aiodurable.settings import Settings

CALM = Settings(lease_ttl_s=120, lease_heartbeat_s=50, lease_safety_margin_s=10)
"""No heartbeat comes between two steps of a test that uses a session's own connection or counts
its statements, and no lease is lost because the machine is loaded.
"""


@pytest.fixture
def settings() -> Settings:
    return CALM


@pytest.fixture
async def locks(dsn: str, settings: Settings) -> AsyncIterator[PostgresLockManager]:
    async with PostgresLockManager(dsn, settings=settings) as opened:
        yield opened


@pytest.fixture
async def other(dsn: str, settings: Settings) -> AsyncIterator[PostgresLockManager]:
    """As good as another process: nothing is shared but the server."""
    async with PostgresLockManager(dsn, settings=settings) as opened:
        yield opened
