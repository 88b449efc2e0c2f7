"""`lock_dsn` must lead to the database of the DSN: what was written by the one is read by the
other.
"""

from __future__ import annotations

from collections.abc import Iterator

import psycopg
import pytest

from aiodurable import AsyncCheckpointerPool, ConfigurationError, Durable, Settings
from tests.support.graphs import INPUT, STEPS, four_nodes
from tests.support.pgbouncer import through
from tests.support.postgres import Server
from tests.support.proxy import proxy
from tests.support.waiting import wait_until_sync


@pytest.fixture
def another_dsn(server: Server, template: str) -> Iterator[str]:
    name = server.create(template)
    yield server.database(name)
    server.drop(name)


async def test_a_lock_dsn_to_another_database_is_refused(dsn: str, another_dsn: str) -> None:
    with pytest.raises(ConfigurationError, match="another database"):
        async with Durable(dsn, settings=Settings(lock_dsn=another_dsn)):
            pytest.fail("opened")
    with pytest.raises(ConfigurationError, match="another database"):
        await AsyncCheckpointerPool(dsn, settings=Settings(lock_dsn=another_dsn)).open()
    query = (
        "SELECT count(*) FROM pg_stat_activity WHERE application_name LIKE 'aiodurable:%%' AND"
        " datname = %s"
    )
    with psycopg.connect(dsn) as connection:
        connection.autocommit = True
        name = connection.info.dbname
        # The server ends a process a moment after its client is gone.
        wait_until_sync(
            lambda: connection.execute(query, (name,)).fetchone() == (0,), what="nothing left open"
        )


async def test_another_way_to_the_same_database_is_taken(dsn: str) -> None:
    async with proxy(dsn) as wire, Durable(dsn, settings=Settings(lock_dsn=wire.dsn)) as durable:
        async with durable.run("t", four_nodes()) as run:
            assert (await run.ainvoke(INPUT))["words"] == list(STEPS)


async def test_so_is_a_pooler_in_transaction_mode_beside_it(dsn: str, another_dsn: str) -> None:
    with through("transaction", dsn, server_connections=2) as pooler:
        async with Durable(pooler, settings=Settings(lock_dsn=dsn)):
            pass
        with pytest.raises(ConfigurationError, match="another database"):
            await Durable(pooler, settings=Settings(lock_dsn=another_dsn)).open()
