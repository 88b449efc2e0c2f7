"""Two schemas of one database hold tables of their own, whose threads never meet."""

from __future__ import annotations

import asyncio
import gc
import warnings

import psycopg
import pytest

from aiodurable import AsyncCheckpointerPool, Durable, PostgresLockManager, Settings
from aiodurable.dsn import parse_dsn
from aiodurable.errors import ConfigurationError, RunNotFoundError
from aiodurable.models import ThreadStatus
from aiodurable.postgres.ownership import refuse_other_path
from tests.support.pgbouncer import through
from tests.support.scenario_graphs import chain, ok

ONE, OTHER = Settings(schema="one"), Settings(schema="Other")


def relations(dsn: str) -> set[tuple[str, str]]:
    """Every relation outside the catalogues, as schema and name."""
    with psycopg.connect(dsn) as connection:
        return set(
            connection.execute(
                "SELECT n.nspname, c.relname FROM pg_class c JOIN pg_namespace n"
                " ON n.oid = c.relnamespace WHERE n.nspname !~ '^pg_|^information_schema'"
            ).fetchall()
        )


async def test_threads_of_two_schemas_never_meet(empty_dsn: str) -> None:
    async with Durable(empty_dsn, settings=ONE) as one, Durable(empty_dsn, settings=OTHER) as other:
        async with one.run("t", chain(a=ok("a"))) as run:
            assert (await other.threads.status("t")).status is ThreadStatus.NEW
            async with asyncio.timeout(20), other.run("t", chain(a=ok("b"))) as beside:
                await beside.ainvoke({"xs": []})
            await run.ainvoke({"xs": []})
            assert run.run_id != beside.run_id
        with pytest.raises(RunNotFoundError):
            await other.runs.get(run.run_id)
    found = {schema for schema, _ in relations(empty_dsn)}
    assert found == {"one", "Other"}
    names = [{name for place, name in relations(empty_dsn) if place == schema} for schema in found]
    assert names[0] == names[1]


async def test_a_lock_manager_alone_creates_its_tokens_in_the_schema(empty_dsn: str) -> None:
    async with PostgresLockManager(empty_dsn, settings=ONE) as one:
        async with PostgresLockManager(empty_dsn, settings=OTHER) as other:
            async with one.hold("t"), asyncio.timeout(20), other.hold("t"):
                pass
    assert relations(empty_dsn) == {
        (schema, "aiodurable_lock_tokens") for schema in ("one", "Other")
    }


async def test_a_lock_manager_without_a_schema_creates_its_tokens_in_the_search_path(
    empty_dsn: str,
) -> None:
    async with PostgresLockManager(empty_dsn) as manager, manager.hold("t"):
        pass
    assert relations(empty_dsn) == {("public", "aiodurable_lock_tokens")}


def test_the_namespace_follows_the_schema_unless_it_is_given() -> None:
    assert ONE.namespace == "aiodurable:one"
    assert Settings(schema="one", namespace="mine").namespace == "mine"
    assert Settings.from_env({"AIODURABLE_SCHEMA": "one"}) == ONE


@pytest.mark.parametrize("name", ["", "pg_temp", "a-b", 'a"b', "a b", "1a", "x" * 53])
def test_a_name_that_needs_quotes_is_refused(name: str) -> None:
    with pytest.raises(ConfigurationError, match="schema must have"):
        Settings(schema=name)


def test_a_session_whose_pooler_drops_the_schema_is_refused() -> None:
    dsn = parse_dsn("postgresql://ann@host/db", schema="one", environ={})
    refuse_other_path('"one"', dsn)
    refuse_other_path("one", dsn)
    with pytest.raises(ConfigurationError, match="drops the option search_path"):
        refuse_other_path('"$user", public', dsn)


async def test_a_pool_alone_whose_pooler_drops_the_schema_is_refused_and_closed(
    empty_dsn: str,
) -> None:
    settings = Settings(schema="one", lock_dsn=empty_dsn)
    dropped = "options,extra_float_digits"
    with through("session", empty_dsn, ignore_startup_parameters=dropped) as pooler:
        pool = AsyncCheckpointerPool(pooler, settings=settings)
        gc.collect()  # what other tests left
        with warnings.catch_warnings(record=True) as warned:
            warnings.simplefilter("always", ResourceWarning)
            with pytest.raises(ConfigurationError, match="drops the option search_path"):
                await pool.open()
            gc.collect()
        assert [str(each.message) for each in warned if "still open" in str(each.message)] == []
