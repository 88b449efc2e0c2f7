"""`conn=`: a run is accepted with the caller's own transaction, or not at all."""

from __future__ import annotations

import asyncio
import traceback
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from typing import Any

import asyncpg
import psycopg
import pytest
from asyncpg.pool import PoolConnectionProxy
from psycopg.conninfo import conninfo_to_dict

from aiodurable.durable import Durable
from aiodurable.errors import (
    InvalidArgumentError,
    PostgresUnavailableError,
    RunInProgressError,
    RunNotFoundError,
    StatementRefusedError,
    WorkflowExecutionError,
)
from aiodurable.queue import NewRun
from aiodurable.settings import Settings
from tests.support.lock_view import WAITING
from tests.support.scenario_graphs import chain, ok
from tests.support.waiting import wait_until

INPUT: dict[str, Any] = {"xs": []}


def url_of(dsn: str, driver: str) -> str:
    found = conninfo_to_dict(dsn)
    return (
        f"postgresql+{driver}://{found['user']}@/{found['dbname']}"
        f"?host={found['host']}&port={found['port']}"
    )


@asynccontextmanager
async def asyncpg_in_a_transaction(dsn: str) -> AsyncIterator[Any]:
    connection = await asyncpg.connect(dsn)
    try:
        async with connection.transaction():
            yield connection
    finally:
        await connection.close()


@asynccontextmanager
async def asyncpg_of_a_pool(dsn: str) -> AsyncIterator[Any]:
    async with asyncpg.create_pool(dsn, min_size=1, max_size=1) as pool:
        async with pool.acquire() as connection, connection.transaction():
            yield connection


@asynccontextmanager
async def psycopg_in_a_transaction(dsn: str) -> AsyncIterator[Any]:
    async with await psycopg.AsyncConnection.connect(dsn) as connection:
        yield connection


@asynccontextmanager
async def sqlalchemy_connection(dsn: str, driver: str = "asyncpg") -> AsyncIterator[Any]:
    sqlalchemy = pytest.importorskip("sqlalchemy.ext.asyncio")
    engine = sqlalchemy.create_async_engine(url_of(dsn, driver))
    try:
        async with engine.begin() as connection:
            yield connection
    finally:
        await engine.dispose()


@asynccontextmanager
async def sqlalchemy_on_psycopg(dsn: str) -> AsyncIterator[Any]:
    async with sqlalchemy_connection(dsn, "psycopg") as connection:
        yield connection


@asynccontextmanager
async def sqlalchemy_session(dsn: str) -> AsyncIterator[Any]:
    sqlalchemy = pytest.importorskip("sqlalchemy.ext.asyncio")
    engine = sqlalchemy.create_async_engine(url_of(dsn, "asyncpg"))
    try:
        async with sqlalchemy.AsyncSession(engine) as session, session.begin():
            yield session
    finally:
        await engine.dispose()


KINDS = [
    asyncpg_in_a_transaction,
    asyncpg_of_a_pool,
    psycopg_in_a_transaction,
    sqlalchemy_connection,
    sqlalchemy_on_psycopg,
    sqlalchemy_session,
]


@pytest.mark.parametrize("connected", KINDS)
async def test_a_run_is_accepted_when_the_callers_transaction_commits(
    dsn: str, durable: Durable, connected: Any
) -> None:
    async with connected(dsn) as conn:
        run = await durable.runs.create(
            "t", "chain", INPUT, conn=conn, metadata={"a": 1}, retry_policy=None, after=0.0
        )
        again = await durable.runs.create("t", "chain", INPUT, conn=conn, run_id=run.run_id)
        assert again.run_id == run.run_id
        with pytest.raises(RunNotFoundError):
            await durable.runs.get(run.run_id)
    assert (await durable.runs.get(run.run_id)).metadata == {"a": 1}


@pytest.mark.parametrize("connected", KINDS)
async def test_a_run_of_a_transaction_that_rolls_back_was_never_accepted(
    dsn: str, durable: Durable, connected: Any
) -> None:
    run = None
    with pytest.raises(RuntimeError, match="no"):
        async with connected(dsn) as conn:
            (run,) = await durable.runs.create_many(
                [NewRun(thread_id="t", graph="chain", input=INPUT)], conn=conn
            )
            raise RuntimeError("no")
    assert run is not None
    with pytest.raises(RunNotFoundError):
        await durable.runs.get(run.run_id)
    assert (await durable.threads.status("t")).status == "new"


@pytest.mark.parametrize("connected", KINDS)
async def test_a_refused_run_leaves_the_callers_transaction_usable(
    dsn: str, durable: Durable, connected: Any
) -> None:
    await durable.runs.create("t", "chain", INPUT)
    async with connected(dsn) as conn:
        with pytest.raises(RunInProgressError):
            await durable.runs.create("t", "chain", INPUT, on_busy="reject", conn=conn)
        kept = await durable.runs.create("u", "chain", INPUT, conn=conn)
    assert (await durable.runs.get(kept.run_id)).thread_id == "u"


async def path_of(connection: Any) -> Any:
    """The search path of any of these connections."""
    show = "SHOW search_path"
    if isinstance(connection, asyncpg.Connection | PoolConnectionProxy):
        return await connection.fetchval(show)
    if isinstance(connection, psycopg.AsyncConnection):
        row = await (await connection.execute(show)).fetchone()
        return row and row[0]
    if hasattr(connection, "get_bind"):  # a session of SQLAlchemy
        connection = await connection.connection()
    return (await connection.exec_driver_sql(show)).scalar()


@pytest.mark.parametrize("connected", KINDS)
async def test_a_run_is_accepted_in_the_schema_of_the_durable_whatever_the_callers_path_is(
    dsn: str, durable: Durable, connected: Any
) -> None:
    graphs = {"chain": chain(a=ok("a"))}
    async with Durable(dsn, graphs=graphs, settings=Settings(schema="tenant")) as tenant:
        await tenant.runs.create("t", "chain", INPUT)
        async with connected(dsn) as conn:
            before = await path_of(conn)
            run = await tenant.runs.create("t", "chain", INPUT, conn=conn)
            assert await path_of(conn) == before
            with pytest.raises(RunInProgressError):
                await tenant.runs.create("t", "chain", INPUT, on_busy="reject", conn=conn)
            assert await path_of(conn) == before
        assert (await tenant.runs.get(run.run_id)).thread_id == "t"
    with pytest.raises(RunNotFoundError):
        await durable.runs.get(run.run_id)


async def test_another_thing_than_a_connection_is_refused(dsn: str, durable: Durable) -> None:
    with psycopg.connect(dsn) as connection:
        with pytest.raises(InvalidArgumentError, match=r"psycopg\.Connection.*as conn"):
            await durable.runs.create("t", "chain", INPUT, conn=connection)


async def run_on(connection: Any, statement: str) -> Any:
    """Run a statement on any of these connections."""
    if hasattr(connection, "get_bind"):  # a session of SQLAlchemy
        connection = await connection.connection()
    if hasattr(connection, "exec_driver_sql"):
        return await connection.exec_driver_sql(statement)
    return await connection.execute(statement)


@pytest.mark.parametrize("connected", KINDS)
@pytest.mark.parametrize(
    ("state", "error", "says"),
    [
        ("40001", WorkflowExecutionError, "repeat the whole of it"),
        ("55P03", WorkflowExecutionError, "repeat the whole of it"),
        ("23505", StatementRefusedError, r"function refuse\(\) refused it"),
    ],
)
async def test_what_postgres_refuses_in_the_callers_transaction_is_an_error_of_ours(
    dsn: str, durable: Durable, connected: Any, state: str, error: type[Exception], says: str
) -> None:
    raising = f"""
    CREATE FUNCTION refuse() RETURNS trigger LANGUAGE plpgsql AS
    $$ BEGIN RAISE 'the secret' USING ERRCODE = '{state}'; END $$;
    CREATE TRIGGER refuse BEFORE INSERT ON aiodurable_runs EXECUTE FUNCTION refuse();
    """
    with psycopg.connect(dsn) as connection:
        connection.execute(raising.encode())
    async with connected(dsn) as conn:
        with pytest.raises(error, match=says) as refused:
            await durable.runs.create("t", "chain", INPUT, conn=conn)
        await run_on(conn, "SELECT 1")
    assert state in str(refused.value)
    assert "secret" not in str(refused.value)
    # the driver's error has the function's text, so it is no cause
    assert "secret" not in "".join(traceback.format_exception(refused.value))


@pytest.mark.parametrize("connected", KINDS)
async def test_a_transaction_that_has_failed_before_is_refused(
    dsn: str, durable: Durable, connected: Any
) -> None:
    async with connected(dsn) as conn:
        with pytest.raises(Exception, match="division by zero"):
            await run_on(conn, "SELECT 1 / 0")
        with pytest.raises(InvalidArgumentError, match="roll that back"):
            await durable.runs.create("t", "chain", INPUT, conn=conn)
        await run_on(conn, "ROLLBACK")


@pytest.mark.parametrize("connected", KINDS)
async def test_a_connection_whose_backend_is_gone_is_unavailable(
    dsn: str, durable: Durable, connected: Any, admin: psycopg.Connection[Any]
) -> None:
    found: BaseException | None = None
    with suppress(Exception):  # some raise when they are left, too
        async with connected(dsn) as conn:
            await run_on(conn, "SET application_name = 'the caller'")
            admin.execute(
                "SELECT pg_terminate_backend(pid, 5000) FROM pg_stat_activity"
                " WHERE application_name = 'the caller'"
            )
            try:
                await durable.runs.create("t", "chain", INPUT, conn=conn)
            except Exception as error:
                found = error
    assert isinstance(found, PostgresUnavailableError)


async def test_a_connection_that_another_task_uses_is_refused(dsn: str, durable: Durable) -> None:
    async with asyncpg_in_a_transaction(dsn) as conn, asyncpg_in_a_transaction(dsn) as other:
        await other.execute("SELECT pg_advisory_xact_lock(7)")
        using = asyncio.create_task(conn.execute("SELECT pg_advisory_xact_lock(7)"))
        await wait_until(lambda: other.fetchval(WAITING), what="the other task's statement")
        with pytest.raises(InvalidArgumentError, match="Let no other task use it"):
            await durable.runs.create("t", "chain", INPUT, conn=conn)
        await other.execute("ROLLBACK")
        await using


@pytest.mark.parametrize("connected", [asyncpg_in_a_transaction, psycopg_in_a_transaction])
async def test_a_connection_that_finds_no_tables_is_refused(
    empty_dsn: str, durable: Durable, connected: Any
) -> None:
    async with connected(empty_dsn) as conn:
        with pytest.raises(InvalidArgumentError, match="finds no tables") as refused:
            await durable.runs.create("t", "chain", INPUT, conn=conn)
    assert refused.value.argument == "conn"
