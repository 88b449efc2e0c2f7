"""A connection of the pool that was ended while nobody used it is not handed out, and no statement
is spent on finding out.
"""

from __future__ import annotations

from collections.abc import AsyncIterator

import psycopg
import pytest

from aiodurable.dsn import parse_dsn
from aiodurable.postgres.pool import PsycopgPool
from tests.support.proxy import proxy
from tests.support.waiting import wait_until_sync

END_OURS = (
    "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE application_name LIKE"
    " 'aiodurable:pool@%' AND datname = current_database() AND pid <> pg_backend_pid()"
)


@pytest.fixture
async def database(dsn: str) -> AsyncIterator[PsycopgPool]:
    database = PsycopgPool(parse_dsn(dsn), min_size=2, max_size=2)
    await database.open()
    yield database
    await database.aclose()


async def test_a_backend_that_was_killed_while_idle_is_not_felt(
    database: PsycopgPool, dsn: str
) -> None:
    with psycopg.connect(dsn, autocommit=True) as connection:
        for _ in range(3):
            assert await database.fetch("SELECT 1 AS n") == [{"n": 1}]
            # Without a turn of the event loop: the pool has no time to find out by itself. Again and
            # again: a connection that the pool was opening meanwhile is listed later.
            wait_until_sync(lambda: not connection.execute(END_OURS.encode()).fetchall())


async def test_a_statement_is_all_that_is_sent(dsn: str) -> None:
    async with proxy(dsn) as wire:
        database = PsycopgPool(parse_dsn(wire.dsn), max_size=1)
        await database.open()
        sent = list[int]()
        for _ in range(5):
            before = wire.sent
            await database.fetch("SELECT 1 AS n")
            sent.append(wire.sent - before)
        await database.aclose()
    assert min(sent) < 60  # the name of what was prepared, and the protocol around it
