"""Everything but the locks works through a real PgBouncer in transaction mode, also one that knows
no prepared statements.
"""

from __future__ import annotations

import asyncio
import select
import signal
from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
from psycopg.conninfo import make_conninfo

from aiodurable import AsyncCheckpointerPool, Durable, ThreadStatus
from aiodurable.checkpoints.write_session import SESSION_KEY, WriteSession
from aiodurable.dsn import parse_dsn
from aiodurable.errors import (
    AiodurableError,
    PostgresUnavailableError,
    SessionLocksUnsupportedError,
    StatementRefusedError,
)
from aiodurable.postgres import schema
from aiodurable.postgres.direct import DirectPool
from aiodurable.postgres.pool import PsycopgPool
from aiodurable.settings import Settings
from tests.support.graphs import asking, four_nodes, noted
from tests.support.pgbouncer import through
from tests.support.processes import started
from tests.support.reading_threads import reading
from tests.support.waiting import wait_until

SERVER_CONNECTIONS = 5
START: dict[str, Any] = {"words": [], "told": ""}


@pytest.fixture
def pooler(dsn: str) -> Iterator[str]:
    with through("transaction", dsn, server_connections=SERVER_CONNECTIONS) as url:
        yield url


@pytest.fixture
def settings(dsn: str) -> Settings:
    return Settings(lock_dsn=dsn)


async def test_50_runs_at_once_through_5_server_connections(
    pooler: str, settings: Settings
) -> None:
    async with Durable(pooler, settings=settings) as durable:

        async def one(number: int) -> str:
            async with durable.run(f"t{number}", four_nodes()) as run:
                return str((await run.ainvoke(START))["told"])

        assert await asyncio.gather(*map(one, range(50))) == ["collect sort weigh tell"] * 50
        complete = [
            thread async for thread in durable.threads.resumable(status=ThreadStatus.COMPLETE)
        ]
        assert len(complete) == 50


async def test_what_is_locked_directly_is_seen_through_the_pooler(
    pooler: str, settings: Settings
) -> None:
    async with Durable(pooler, settings=settings, graphs={"asking": asking()}) as durable:
        async with durable.run("t", "asking") as run:
            assert "__interrupt__" in await run.ainvoke(START)
            assert (await durable.threads.status("t")).status is ThreadStatus.RUNNING
        [found] = [thread async for thread in durable.threads.search(graph="asking")]
        assert (found.thread_id, found.status) == ("t", ThreadStatus.INTERRUPTED)
        async with durable.run("t", "asking") as run:
            assert (await run.answer("upon"))["told"] == "collect upon"


async def test_a_killed_run_is_resumed(
    pooler: str, dsn: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("AIODURABLE_LOCK_DSN", dsn)
    async with started() as processes, Durable(pooler) as durable:
        code, _ = await processes.run(pooler, "t", "linear", tmp_path / "log", ("after", 5))
        assert code == -signal.SIGKILL

        async def crashed() -> bool:
            return (await durable.threads.status("t")).status is ThreadStatus.CRASHED

        await wait_until(crashed)
        code, result = await processes.run(pooler, "t", "linear", tmp_path / "log")
        assert (code, result["told"]) == (0, "once collect sort weigh tell")
    assert noted(tmp_path / "log")[0] == "collect"


async def test_threads_are_pruned(pooler: str, settings: Settings) -> None:
    async with Durable(pooler, settings=settings) as durable:
        for thread in ("kept", "gone"):
            async with durable.run(thread, four_nodes()) as run:
                await run.ainvoke(START)
        saver = durable.checkpointer
        await saver.aprune(["gone"], strategy="delete")
        assert (await durable.threads.status("gone")).checkpoint_id is None
        database = PsycopgPool(parse_dsn(pooler))
        await database.open()
        threads = reading(database, namespace=settings.namespace, serde=saver.serde)
        pruned = await threads.prune(older_than=timedelta(0), strategy="keep_latest")
        await database.aclose()
        assert pruned.threads == 1
        assert (await durable.threads.status("kept")).status is ThreadStatus.COMPLETE


async def test_a_raised_fence_waits_a_second_and_leaves_no_setting_behind(
    pooler: str, settings: Settings, dsn: str
) -> None:
    """The patience is set for one transaction: the statements of a pipeline stay on one server
    connection.
    """
    async with (
        AsyncCheckpointerPool(pooler, settings=settings) as pool,
        AsyncCheckpointerPool(dsn) as direct,
    ):
        assert await pool.bump("t") == 1
        async with direct.database.connection() as holder, holder.transaction():
            await holder.execute("SELECT FROM aiodurable_fences FOR UPDATE")
            waiting = asyncio.create_task(pool.bump("t"))

            async def tries() -> list[dict[str, Any]]:
                return await direct.database.fetch(
                    "SELECT FROM pg_stat_activity WHERE datname = current_database()"
                    " AND wait_event_type = 'Lock' AND query LIKE '%aiodurable_fences%'"
                )

            await wait_until(tries, what="the bump to wait for the row")

            async def cut() -> bool:
                return not await tries()

            await wait_until(cut, what="the wait to be cut")
        assert await waiting == 2
        left = [
            await pool.database.fetch_one(
                "SELECT current_setting('lock_timeout') AS now, pg_backend_pid()"
            )
            for _ in range(SERVER_CONNECTIONS)
        ]
        assert all(row is not None and row["now"] == "0" for row in left)


async def test_the_tables_are_made_through_it(empty_dsn: str) -> None:
    with through("transaction", empty_dsn, server_connections=SERVER_CONNECTIONS) as url:
        pooled = parse_dsn(url)
        applied = await asyncio.gather(*(schema.migrate(pooled) for _ in range(2)))
        assert sorted(applied) == [0, len(schema.migrations())]
        await schema.check(pooled)
    async with AsyncCheckpointerPool(empty_dsn) as direct:
        assert await direct.database.fetch("SELECT FROM pg_locks WHERE locktype = 'advisory'") == []


async def test_where_a_pooler_cuts_idle_clients_the_next_statement_connects_again(dsn: str) -> None:
    with through("transaction", dsn, client_idle_timeout="1") as url:
        database = PsycopgPool(parse_dsn(url), max_size=1)
        await database.open()
        async with database.connection() as connection:
            wire = connection.fileno()
        before = database.stats().get("connections_lost", 0)
        await wait_until(
            lambda: select.select([wire], [], [], 0)[0], what="the farewell of the pooler"
        )
        assert await database.fetch("SELECT 1 AS one") == [{"one": 1}]
        assert database.stats()["connections_lost"] == before + 1
        await database.aclose()


async def test_checkpoints_alone_need_no_direct_connection(pooler: str) -> None:
    """Many writers of many pools: none meets another's prepared statements."""
    pools = [AsyncCheckpointerPool(pooler) for _ in range(4)]
    await asyncio.gather(*(pool.open() for pool in pools))

    async def one(number: int) -> str:
        pool, thread = pools[number % len(pools)], f"t{number}"
        config: Any = {"thread_id": thread, SESSION_KEY: WriteSession(await pool.new_fence(thread))}
        graph = four_nodes().compile(checkpointer=pool.get_checkpointer())
        return str(
            (await graph.ainvoke(START, {"configurable": config}, durability="sync"))["told"]
        )

    assert await asyncio.gather(*map(one, range(20))) == ["collect sort weigh tell"] * 20
    await asyncio.gather(*(pool.aclose() for pool in pools))


async def test_a_transaction_whose_client_vanished_behind_it_is_ended(pooler: str) -> None:
    """Its backend is known to the pooler alone: nothing else would end it, and free its rows."""
    silence = "SELECT current_setting('idle_in_transaction_session_timeout') AS limit"
    direct = DirectPool(parse_dsn(pooler), role="test", size=1, timeout_s=10)
    database = PsycopgPool(parse_dsn(pooler), max_size=1)
    await database.open()
    async with database.transaction() as fetch:
        assert await fetch(silence) == [{"limit": "20s"}]
    async with database.snapshot() as fetch:
        assert await fetch(silence) == [{"limit": "20s"}]
    assert await database.fetch(silence) == [{"limit": "0"}]  # it is no session of ours to set
    assert [row["limit"] for row in await direct.fetch(silence)] == ["20s"]
    with pytest.raises(StatementRefusedError):
        await direct.fetch("SELECT 1 / 0")
    with pytest.raises(AiodurableError):
        await direct.fetch("SELECT $1::int", "no number")
    assert [row["limit"] for row in await direct.fetch(silence)] == ["20s"]
    direct.close()
    await database.aclose()


async def test_statements_are_prepared_where_no_pooler_is(pooler: str, dsn: str) -> None:
    prepared: list[int] = []
    for url in (dsn, pooler):
        database = PsycopgPool(parse_dsn(url), max_size=1)
        await database.open()
        await database.fetch("SELECT 1")
        rows = await database.fetch(
            "SELECT count(*) AS n FROM pg_prepared_statements WHERE statement = 'SELECT 1'"
        )
        prepared.append(rows[0]["n"])
        await database.aclose()
    assert prepared == [1, 0]


async def test_locks_through_it_are_an_error_that_says_what_to_set(pooler: str) -> None:
    with pytest.raises(SessionLocksUnsupportedError, match="AIODURABLE_LOCK_DSN"):
        async with Durable(pooler):
            pytest.fail("opened")


async def test_the_error_of_a_parameter_that_the_pooler_refuses_names_it(pooler: str) -> None:
    with pytest.raises(PostgresUnavailableError, match="ignore_startup_parameters"):
        await schema.check(parse_dsn(make_conninfo(pooler, options="-c work_mem=8MB")))
