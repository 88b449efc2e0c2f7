"""A plan that was made while a table was empty does not outlive the emptiness for long."""

from __future__ import annotations

import time

import psycopg
import pytest

from aiodurable.dsn import parse_dsn
from aiodurable.postgres.direct import DirectConnection
from aiodurable.postgres.plan_cache import PlanCache
from aiodurable.postgres.pool import PsycopgPool
from aiodurable.postgres.sql import load
from tests.support.waiting import wait_until

PLANNED = (
    "PREPARE planned (text[]) AS SELECT f.token FROM aiodurable_fences f JOIN unnest($1) t (id) ON"
    " f.thread_id = t.id"
)
EXPLAIN = "EXPLAIN EXECUTE planned ('{thread-7}')"


@pytest.fixture
def filling(dsn: str) -> str:
    """What fills a table that Postgres takes for empty: nobody analyses it again."""
    with psycopg.connect(dsn, autocommit=True) as connection:
        connection.execute("ALTER TABLE aiodurable_fences SET (autovacuum_enabled = off)")
        connection.execute("ANALYZE aiodurable_fences")
    return "INSERT INTO aiodurable_fences SELECT 'thread-' || n, 1 FROM generate_series(1, 3000) n"


async def test_a_direct_connection_plans_again(dsn: str, filling: str) -> None:
    link = DirectConnection(parse_dsn(dsn), role="test", connect_timeout_s=10.0)

    async def by_key() -> bool:
        return "Index Cond: (thread_id = t.id)" in "\n".join(
            row[0] for row in await link.fetch(EXPLAIN)
        )

    await link.fetch(PLANNED)
    assert not await by_key()
    await link.fetch(filling)
    await wait_until(by_key)
    link.drop()


async def test_the_pool_plans_again(dsn: str, filling: str) -> None:
    database = PsycopgPool(parse_dsn(dsn), max_size=1)
    await database.open()

    async def by_key() -> bool:
        return "Index Cond: (thread_id = t.id)" in "\n".join(
            row["QUERY PLAN"] for row in await database.fetch(EXPLAIN)
        )

    await database.execute("SET plan_cache_mode = force_generic_plan")
    await database.execute(PLANNED)
    assert not await by_key()
    await database.execute(filling)
    await wait_until(by_key)
    await database.aclose()


@pytest.mark.parametrize(("grown", "due_at_s"), [(False, [1, 3, 7, 15]), (True, [600, 1200])])
def test_plans_for_small_tables_are_made_again_soon_and_for_grown_ones_rarely(
    monkeypatch: pytest.MonkeyPatch, grown: bool, due_at_s: list[int]
) -> None:
    now_s = 0
    monkeypatch.setattr(time, "monotonic", lambda: now_s)
    plans = PlanCache(grown=grown)
    found: list[int] = []
    for now_s in range(due_at_s[-1] + 1):
        if plans.due_for_discard():
            found.append(now_s)
    assert found == due_at_s


async def test_the_tables_have_grown_when_each_of_them_has(dsn: str) -> None:
    link = DirectConnection(parse_dsn(dsn), role="test", connect_timeout_s=10.0)
    tables = ["aiodurable_fences", "aiodurable_runs", "checkpoints", "checkpoint_blobs"]

    async def grown() -> bool:
        return (await link.fetch(load("direct")["server"]))[0]["grown"]

    async def say_grown(*names: str) -> None:
        await link.fetch(
            "UPDATE pg_class SET relpages = 20 WHERE oid = ANY ($1::text[]::regclass[])", names
        )

    await say_grown(*tables)
    assert not await grown()
    await say_grown("checkpoint_writes")
    assert await grown()
    link.drop()
