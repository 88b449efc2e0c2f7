"""What tests here share: a `Threads` and a stock saver, on the test's database."""

from __future__ import annotations

from collections.abc import AsyncIterator

import pytest
from langgraph.checkpoint.postgres.aio import AsyncPostgresSaver

from aiodurable.dsn import parse_dsn
from aiodurable.postgres.pool import PsycopgPool
from aiodurable.runs.threads import Threads
from tests.support.reading_threads import reading


@pytest.fixture
async def saver(dsn: str) -> AsyncIterator[AsyncPostgresSaver]:
    async with AsyncPostgresSaver.from_conn_string(dsn) as saver:
        yield saver


@pytest.fixture
async def database(dsn: str) -> AsyncIterator[PsycopgPool]:
    database = PsycopgPool(parse_dsn(dsn), max_size=2)
    await database.open()
    yield database
    await database.aclose()


@pytest.fixture
def threads(database: PsycopgPool) -> Threads:
    return reading(database)
