"""An open lock manager on a fresh database, and a second one that stands for another process."""

from __future__ import annotations

from collections.abc import AsyncIterator

import pytest

from aiodurable.locks import PostgresLockManager
from aiodurable.settings import Settings

QUICK = Settings(
    lease_ttl_s=3,
    lease_heartbeat_s=0.5,
    lease_safety_margin_s=1,
    connect_timeout_s=5,
    close_timeout_s=2,
)


@pytest.fixture
def settings() -> Settings:
    return QUICK


@pytest.fixture
async def locks(dsn: str, settings: Settings) -> AsyncIterator[PostgresLockManager]:
    async with PostgresLockManager(dsn, settings=settings) as opened:
        yield opened


@pytest.fixture
async def other(dsn: str, settings: Settings) -> AsyncIterator[PostgresLockManager]:
    """As good as another process: nothing is shared but the server."""
    async with PostgresLockManager(dsn, settings=settings) as opened:
        yield opened
