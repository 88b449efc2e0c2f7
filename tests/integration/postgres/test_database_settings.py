"""What an administrator sets for a database changes how things are written down, not what they
mean.
"""

from __future__ import annotations

import asyncio
from datetime import UTC, datetime, timedelta
from functools import partial
from typing import Any

import psycopg
import pytest
from psycopg import sql
from psycopg.conninfo import make_conninfo

from aiodurable import (
    ConfigurationError,
    Durable,
    PostgresUnavailableError,
    Settings,
    WorkflowCheckpoint,
)
from aiodurable.current import needs_resume
from aiodurable.dsn import parse_dsn
from aiodurable.locks import create_lock_manager_with_retry
from aiodurable.postgres import schema
from aiodurable.postgres.direct import DirectPool
from aiodurable.postgres.pool import PsycopgPool
from tests.support.graphs import four_nodes
from tests.support.postgres import Server
from tests.support.scenario_graphs import GRAPHS
from tests.support.waiting import wait_until

START: dict[str, Any] = {"words": [], "told": ""}


@pytest.mark.parametrize(
    "settings",
    [
        {"datestyle": "German, DMY", "timezone": "Asia/Kathmandu", "intervalstyle": "sql_standard"},
        {"standard_conforming_strings": "off", "bytea_output": "escape", "extra_float_digits": "0"},
        {"default_transaction_isolation": "serializable", "default_transaction_deferrable": "on"},
        {
            "statement_timeout": "10s",
            "lock_timeout": "5s",
            "idle_in_transaction_session_timeout": "5s",
        },
        {"search_path": "aiodurable_elsewhere"},
    ],
    ids=lambda settings: next(iter(settings)),
)
async def test_a_run_its_status_its_history_and_pruning_are_the_same(
    empty_dsn: str, settings: dict[str, str]
) -> None:
    async with await psycopg.AsyncConnection.connect(empty_dsn, autocommit=True) as admin:
        await admin.execute(b"CREATE SCHEMA aiodurable_elsewhere")
        for name, value in settings.items():
            await admin.execute(
                sql.SQL("ALTER DATABASE {} SET {} TO {}").format(
                    sql.Identifier(admin.info.dbname), sql.Identifier(name), sql.Literal(value)
                )
            )
    before = datetime.now(UTC)
    async with Durable(empty_dsn) as durable:
        for _ in range(2):
            async with durable.run("t", four_nodes()) as run:
                await run.ainvoke(START)
        told = await durable.threads.status("t")
        assert told.status == "complete"
        assert told.updated_at is not None
        assert before < told.updated_at < datetime.now(UTC)
        assert [
            thread.thread_id
            async for thread in durable.threads.search(newer_than=timedelta(minutes=5))
        ] == ["t"]
        written = [
            step.written_at
            async for step in durable.threads.history("t")
            if step.written_at is not None
        ]
        assert before < written[-1] < written[0]
        assert (await durable.threads.prune(older_than=timedelta())).threads == 1
        assert await durable.threads.status("t") == told


@pytest.mark.parametrize("encoding", ["SQL_ASCII", "LATIN1"])
async def test_a_database_of_another_encoding_carries_runs_too(
    server: Server, admin: psycopg.Connection[Any], encoding: str
) -> None:
    name = f"encoding_{encoding.lower()}"
    admin.execute(
        sql.SQL(
            "CREATE DATABASE {} TEMPLATE template0 ENCODING {} LC_COLLATE 'C' LC_CTYPE 'C'"
        ).format(sql.Identifier(name), sql.Literal(encoding))
    )
    try:
        async with Durable(server.database(name)) as durable:
            async with durable.run("mär", four_nodes()) as run:
                await run.ainvoke(START)
            assert (await durable.threads.status("mär")).status == "complete"
            assert [thread.thread_id async for thread in durable.threads.search()] == ["mär"]
            if encoding == "LATIN1":
                await _a_character_that_it_lacks_is_told(durable)
    finally:
        server.drop(name)


async def _a_character_that_it_lacks_is_told(durable: Durable) -> None:
    async def enter() -> None:
        async with durable.run("\u4e2d", four_nodes()):
            pytest.fail("entered")

    async def look_back() -> None:
        async for _ in durable.threads.history("\u4e2d"):
            pytest.fail("found")

    # Also while others ask for what there is.
    asked = [
        enter(),
        durable.threads.status("\u4e2d"),
        needs_resume("\u4e2d", durable=durable),
        look_back(),
    ]
    status, *refused = await asyncio.gather(
        durable.threads.status("mär"), *asked, return_exceptions=True
    )
    assert isinstance(status, WorkflowCheckpoint)
    for error in refused:
        assert isinstance(error, ConfigurationError)
        assert "UTF8" in str(error)
        assert "\u4e2d" not in str(error)
    async with durable.run("t", four_nodes()) as run:
        with pytest.raises(ConfigurationError, match="a database not in UTF8"):
            await run.ainvoke({"words": [], "told": "\u4e2d"})


async def test_a_read_only_database_is_an_error_that_says_so(empty_dsn: str) -> None:
    await _set_read_only(empty_dsn, True)
    with pytest.raises(PostgresUnavailableError, match="read-only"):
        await Durable(empty_dsn).open()
    await _set_read_only(empty_dsn, False)
    await schema.migrate(parse_dsn(empty_dsn))
    await _set_read_only(empty_dsn, True)
    async with Durable(empty_dsn) as durable:
        with pytest.raises(PostgresUnavailableError, match="default_transaction_read_only"):
            async with durable.run("t", four_nodes()):
                pass
        assert (await durable.threads.status("t")).status == "new"


@pytest.mark.parametrize(
    ("granted", "lacking"),
    [
        (b"SELECT 1", "aiodurable_migrations"),
        (
            b"GRANT SELECT, INSERT, UPDATE, DELETE ON ALL TABLES IN SCHEMA public TO lowly",
            "USAGE on aiodurable_lock_tokens",
        ),
    ],
    ids=["tables", "sequence"],
)
async def test_the_error_of_a_role_without_rights_names_those_it_lacks(
    server: Server, admin: psycopg.Connection[Any], dsn: str, granted: bytes, lacking: str
) -> None:
    admin.execute(b"CREATE ROLE lowly LOGIN PASSWORD 'lowly'")
    try:
        async with await psycopg.AsyncConnection.connect(dsn, autocommit=True) as owner:
            await owner.execute(granted)
            with pytest.raises(ConfigurationError, match=lacking):
                await Durable(
                    make_conninfo(dsn, user="lowly", password="lowly"),
                    settings=Settings(auto_migrate=False),
                ).open()
            await owner.execute(b"DROP OWNED BY lowly")
    finally:
        admin.execute(b"DROP ROLE lowly")


async def test_the_error_of_a_role_without_a_connection_left_says_so(
    admin: psycopg.Connection[Any], dsn: str
) -> None:
    admin.execute(b"CREATE ROLE few LOGIN PASSWORD 'few'")
    few = make_conninfo(dsn, user="few", password="few")
    database = PsycopgPool(parse_dsn(few), min_size=0, max_size=1, connect_timeout_s=1.0)
    direct = DirectPool(parse_dsn(few), role="test", size=1, timeout_s=1.0)
    try:
        await database.open()
        admin.execute(b"ALTER ROLE few CONNECTION LIMIT 0")
        for ask in (
            Durable(few).open,
            partial(database.fetch, "SELECT 1"),
            partial(direct.fetch, "SELECT 1"),
            partial(create_lock_manager_with_retry, few, timeout=1.0),
        ):
            with pytest.raises(PostgresUnavailableError, match="CONNECTION LIMIT"):
                await ask()
    finally:
        await database.aclose()
        direct.close()
        admin.execute(b"DROP ROLE few")


async def _set_read_only(dsn: str, on: bool) -> None:
    async with await psycopg.AsyncConnection.connect(dsn, autocommit=True) as connection:
        await connection.execute(b"SET default_transaction_read_only TO off")
        await connection.execute(
            sql.SQL("ALTER DATABASE {} SET default_transaction_read_only TO {}").format(
                sql.Identifier(connection.info.dbname), sql.Literal("on" if on else "off")
            )
        )


@pytest.mark.parametrize("isolation", ["repeatable read", "serializable"])
async def test_each_statement_has_a_snapshot_of_its_own_whatever_the_default_isolation_is(
    dsn: str, isolation: str
) -> None:
    """Of statements that travel together the second sees what was committed while the first one
    waited.
    """
    async with await psycopg.AsyncConnection.connect(dsn, autocommit=True) as admin:
        name = sql.Identifier(admin.info.dbname)
        await admin.execute(
            sql.SQL("ALTER DATABASE {} SET default_transaction_isolation TO {}").format(
                name, sql.Literal(isolation)
            )
        )
        database = PsycopgPool(parse_dsn(dsn))
        await database.open()
        await admin.execute("SELECT pg_advisory_lock(7)")
        waiting = asyncio.create_task(
            database.fetch_in_turn(
                ("SELECT count(*) AS n FROM aiodurable_fences", ()),
                ("SELECT pg_advisory_xact_lock(7)", ()),
                ("SELECT count(*) AS n FROM aiodurable_fences", ()),
            )
        )
        query = (
            "SELECT 1 FROM pg_stat_activity WHERE wait_event = 'advisory' AND datname ="
            " current_database()"
        )

        async def waits() -> bool:
            return await (await admin.execute(query)).fetchone() is not None

        await wait_until(waits, what="the second statement to wait")
        await admin.execute("INSERT INTO aiodurable_fences (thread_id, token) VALUES ('t', 1)")
        await admin.execute("SELECT pg_advisory_unlock(7)")
        [[before], _, [after]] = await waiting
        assert (before["n"], after["n"]) == (0, 1)
        await database.aclose()
        direct = DirectPool(parse_dsn(dsn), role="test", size=1, timeout_s=10)
        assert (await direct.fetch("SHOW transaction_isolation"))[0][0] == "read committed"
        direct.close()


OF_THEIR_OWN = """SELECT format('ALTER TABLE %s ALTER %I TYPE text COLLATE "POSIX"', attrelid::regclass, attname)
FROM pg_attribute WHERE attrelid = ANY ('{checkpoints,checkpoint_writes,checkpoint_blobs}'::regclass[])
AND attnum > 0 AND atttypid = 'text'::regtype"""


async def test_columns_of_langgraphs_tables_may_have_a_collation_of_their_own(dsn: str) -> None:
    """As they get where a new version of the C library must not change the order of an index."""
    async with await psycopg.AsyncConnection.connect(dsn, autocommit=True) as admin:
        for (statement,) in await (await admin.execute(OF_THEIR_OWN)).fetchall():
            await admin.execute(statement.encode())
    async with Durable(dsn) as durable:
        graph = GRAPHS["subgraph_with_memory_asking_twice"](durable.checkpointer)
        async with durable.run("t", graph) as run:
            await run.ainvoke({"xs": []})
        await durable.threads.fork("t", "copy")
        for thread_id, first in (("t", "yes"), ("copy", "no")):
            for answer in (first, "then"):
                async with durable.run(thread_id, graph) as run:
                    result = await run.answer(answer)
            assert [word for word in result["xs"] if word in ("yes", "no", "then")] == [
                first,
                "then",
            ]
