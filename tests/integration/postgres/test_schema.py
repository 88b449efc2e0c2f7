"""Concurrent migrations create the schema once, from any earlier version."""

from __future__ import annotations

import asyncio
from asyncio.subprocess import PIPE
from pathlib import Path

import psycopg
import pytest
from psycopg.conninfo import make_conninfo
from psycopg.rows import DictRow, dict_row

from aiodurable.dsn import parse_dsn
from aiodurable.durable import Durable
from aiodurable.errors import ConfigurationError, PostgresUnavailableError, SchemaMismatchError
from aiodurable.lock_keys import MIGRATION_KEY
from aiodurable.postgres import schema
from tests.support.forked import python
from tests.support.graphs import INPUT, STEPS, four_nodes

MANY = """
import asyncio, sys
from aiodurable.dsn import parse_dsn
from aiodurable.postgres.schema import migrate
async def main():
    await asyncio.gather(*(migrate(parse_dsn(sys.argv[1])) for _ in range(6)))
asyncio.run(main())
"""


async def rows(dsn: str, query: str) -> list[dict[str, object]]:
    async with await psycopg.AsyncConnection[DictRow].connect(
        dsn, autocommit=True, row_factory=dict_row
    ) as connection:
        return await (await connection.execute(query.encode())).fetchall()


async def run(dsn: str, query: str) -> None:
    async with await psycopg.AsyncConnection.connect(dsn, autocommit=True) as connection:
        await connection.execute(query.encode())


async def start_six_processes(dsn: str) -> None:
    children = [await python("-c", MANY, dsn, stderr=PIPE) for _ in range(6)]
    for _, stderr in await asyncio.gather(*(child.communicate() for child in children)):
        assert not stderr, stderr.decode()
    assert [child.returncode for child in children] == [0] * 6


async def assert_whole(dsn: str) -> None:
    await schema.check(parse_dsn(dsn))
    assert await rows(dsn, "SELECT indexrelid::regclass FROM pg_index WHERE NOT indisvalid") == []
    tables = {
        str(row["relname"])
        for row in await rows(dsn, "SELECT relname FROM pg_class WHERE relkind = 'r'")
    }
    assert {
        "checkpoints",
        "checkpoint_blobs",
        "checkpoint_writes",
        "aiodurable_runs",
        "aiodurable_fences",
        "aiodurable_effects",
        "aiodurable_signals",
        "aiodurable_workers",
        "aiodurable_status_history",
        "aiodurable_audit",
    } <= tables


async def test_36_callers_in_6_processes_make_one_schema_on_an_empty_database(
    empty_dsn: str,
) -> None:
    await start_six_processes(empty_dsn)
    await assert_whole(empty_dsn)


async def test_36_callers_in_6_processes_finish_a_half_migrated_database(empty_dsn: str) -> None:
    await schema.migrate(parse_dsn(empty_dsn))
    await run(
        empty_dsn,
        "DROP TABLE aiodurable_runs; DELETE FROM aiodurable_migrations; "
        "DROP INDEX checkpoint_writes_thread_id_idx; DELETE FROM checkpoint_migrations WHERE v > 5",
    )
    await start_six_processes(empty_dsn)
    await assert_whole(empty_dsn)


async def test_the_printed_sql_makes_what_a_migration_makes_and_may_run_again(
    empty_dsn: str, dsn: str
) -> None:
    for _ in range(2):
        for statement in schema.script().split(";\n"):
            if statement.strip() in ("BEGIN", "COMMIT", ""):
                continue
            await run(empty_dsn, statement)
    assert await schema.migrate(parse_dsn(empty_dsn)) == 0
    await assert_whole(empty_dsn)
    query = """
        SELECT c.relname, c.relkind, a.attnum, a.attname, format_type(a.atttypid, a.atttypmod) AS type, a.attnotnull,
               pg_get_indexdef(i.indexrelid) AS index
        FROM pg_class c
        JOIN pg_attribute a ON a.attrelid = c.oid AND a.attnum > 0
        LEFT JOIN pg_index i ON i.indexrelid = c.oid
        WHERE c.relnamespace = 'public'::regnamespace
        ORDER BY c.relname, a.attnum"""
    assert await rows(empty_dsn, query) == await rows(dsn, query)


async def test_a_ready_database_is_left_alone(dsn: str) -> None:
    assert await schema.migrate(parse_dsn(dsn)) == 0


@pytest.mark.parametrize(
    "index", ["aiodurable_writes_errors_interrupts_idx", "aiodurable_checkpoints_id_brin"]
)
async def test_an_index_whose_building_was_killed_is_built_again(
    empty_dsn: str, index: str
) -> None:
    await schema.migrate(parse_dsn(empty_dsn))
    await run(
        empty_dsn, f"UPDATE pg_index SET indisvalid = false WHERE indexrelid = '{index}'::regclass"
    )
    await run(empty_dsn, "DELETE FROM aiodurable_migrations WHERE version >= 2")
    await schema.migrate(parse_dsn(empty_dsn))
    await assert_whole(empty_dsn)


async def test_a_newer_schema_is_refused_and_left_alone(dsn: str) -> None:
    await run(dsn, "INSERT INTO aiodurable_migrations (version, name) VALUES (999, 'later')")
    for call in (schema.migrate, schema.check):
        with pytest.raises(SchemaMismatchError, match="999") as refused:
            await call(parse_dsn(dsn))
        assert (refused.value.found, refused.value.wanted) == (999, schema.VERSION)


async def test_an_open_process_goes_on_when_a_newer_one_has_migrated(dsn: str) -> None:
    async with Durable(dsn, graphs={"steps": four_nodes()}) as durable:
        await run(dsn, "INSERT INTO aiodurable_migrations (version, name) VALUES (999, 'later')")
        async with durable.run("t", "steps") as opened:
            assert (await opened.ainvoke(INPUT))["words"] == list(STEPS)
    with pytest.raises(SchemaMismatchError, match="upgrade aiodurable"):
        async with Durable(dsn):
            pass


async def test_tables_of_before_the_first_release_are_refused_and_left_alone(dsn: str) -> None:
    await run(dsn, "UPDATE aiodurable_migrations SET name = 'core' WHERE version = 1")
    for call in (schema.migrate, schema.check):
        with pytest.raises(SchemaMismatchError, match="before the first release.*remove them"):
            await call(parse_dsn(dsn))


async def test_check_refuses_an_empty_database_without_changing_it(empty_dsn: str) -> None:
    with pytest.raises(SchemaMismatchError, match="aiodurable db migrate"):
        await schema.check(parse_dsn(empty_dsn))
    assert await rows(empty_dsn, "SELECT 1 FROM pg_class WHERE relname LIKE 'aiodurable%'") == []


async def test_a_migration_that_somebody_else_holds_up_ends_in_time_and_blocks_nobody(
    empty_dsn: str,
) -> None:
    async with await psycopg.AsyncConnection.connect(empty_dsn, autocommit=True) as other:
        await other.execute("SELECT pg_advisory_lock(%s)", (MIGRATION_KEY,))
        with pytest.raises(PostgresUnavailableError, match="within 0.3 s"):
            await schema.migrate(parse_dsn(empty_dsn), timeout_s=0.3)


async def test_the_error_of_a_role_that_may_not_create_says_what_to_do(empty_dsn: str) -> None:
    await run(
        empty_dsn,
        "DO $$ BEGIN CREATE ROLE no_creator LOGIN PASSWORD 'no_creator'; EXCEPTION WHEN duplicate_object"
        " THEN NULL; END $$; REVOKE CREATE ON SCHEMA public FROM PUBLIC",
    )
    with pytest.raises(ConfigurationError, match="aiodurable db migrate"):
        await schema.migrate(
            parse_dsn(make_conninfo(empty_dsn, user="no_creator", password="no_creator"))
        )


def test_every_migration_is_numbered_once() -> None:
    versions = [step.version for step in schema.migrations()]
    assert versions == sorted(set(versions))
    assert all(Path(step.name).name == step.name for step in schema.migrations())
