"""A constraint or a trigger of the operator's own refuses a statement: the error names it, and shows
no value of the row.
"""

from __future__ import annotations

import traceback
from collections.abc import Awaitable, Callable
from typing import Any

import asyncpg
import psycopg
import pytest
from langgraph.checkpoint.base import empty_checkpoint

from aiodurable import (
    AiodurableError,
    AsyncCheckpointerPool,
    ConfigurationError,
    Durable,
    StatementRefusedError,
)
from aiodurable.dsn import parse_dsn
from aiodurable.postgres import schema
from aiodurable.postgres.direct import DirectPool
from tests.support.graphs import four_nodes
from tests.support.internals import committer_of, services_of

SECRET = "hunter2-very-secret"
SECRET_INPUT: dict[str, Any] = {"words": [SECRET]}

Act = Callable[[str], Awaitable[Any]]


async def run(dsn: str) -> None:
    async with Durable(dsn) as durable, durable.run("t", four_nodes()) as run:
        await run.ainvoke(SECRET_INPUT)


async def accept(dsn: str) -> None:
    async with Durable(dsn, graphs={"four": four_nodes()}) as durable:
        await durable.runs.create("t", "four", SECRET_INPUT)


async def accept_on_asyncpg(dsn: str) -> None:
    async with Durable(dsn, graphs={"four": four_nodes()}) as durable:
        connection = await asyncpg.connect(dsn)
        try:
            await durable.runs.create("t", "four", SECRET_INPUT, conn=connection)
        finally:
            await connection.close()


async def accept_on_psycopg(dsn: str) -> None:
    async with (
        Durable(dsn, graphs={"four": four_nodes()}) as durable,
        await psycopg.AsyncConnection.connect(dsn) as connection,
    ):
        await durable.runs.create("t", "four", SECRET_INPUT, conn=connection)


async def save_without_a_lease(dsn: str) -> None:
    async with AsyncCheckpointerPool(dsn) as pool:
        checkpoint = empty_checkpoint()
        checkpoint["channel_values"]["words"] = [SECRET]
        checkpoint["channel_versions"]["words"] = "1"
        config: Any = {"configurable": {"thread_id": "t", "checkpoint_ns": ""}}
        await pool.get_checkpointer().aput(config, checkpoint, {}, {"words": "1"})


async def delete(dsn: str) -> None:
    async with Durable(dsn) as durable:
        await durable.threads.delete("t")


async def failed(act: Act, dsn: str) -> AiodurableError:
    """The error of an act, which must show neither a value nor the driver's text."""
    with pytest.raises(AiodurableError) as caught:
        await act(dsn)
    shown = "".join(traceback.format_exception(caught.value))
    assert SECRET not in shown.replace(dsn, "")
    assert "DETAIL" not in shown
    return caught.value


async def refused(act: Act, dsn: str) -> StatementRefusedError:
    error = await failed(act, dsn)
    assert isinstance(error, StatementRefusedError), repr(error)
    return error


async def let_a_trigger_raise(dsn: str, table: str, state: str) -> None:
    """Let inserts fail with this SQLSTATE and a text that quotes the row."""
    value = "input" if table == "aiodurable_runs" else "blob"
    await execute(
        dsn,
        "CREATE FUNCTION forbid() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN"
        f" RAISE EXCEPTION 'too many credits: %', encode(NEW.{value}, 'escape')"
        f" USING ERRCODE = '{state}', DETAIL = 'DETAIL'; END $$",
        f"CREATE TRIGGER forbidding BEFORE INSERT ON {table} FOR EACH ROW"
        " EXECUTE FUNCTION forbid()",
    )


async def execute(dsn: str, *statements: str) -> None:
    async with await psycopg.AsyncConnection.connect(dsn, autocommit=True) as connection:
        for statement in statements:
            await connection.execute(statement.encode())


@pytest.mark.parametrize(
    ("act", "table"),
    [
        (run, "aiodurable_runs"),
        (run, "aiodurable_fences"),
        (run, "checkpoints"),
        (run, "checkpoint_writes"),
        (run, "checkpoint_blobs"),
        (accept, "aiodurable_runs"),
        (accept_on_asyncpg, "aiodurable_runs"),
        (accept_on_psycopg, "aiodurable_runs"),
        (save_without_a_lease, "checkpoints"),
    ],
    ids=lambda value: getattr(value, "__name__", value),
)
async def test_a_constraint_of_the_operators_own_is_named(act: Act, table: str, dsn: str) -> None:
    await execute(dsn, f"ALTER TABLE {table} ADD CONSTRAINT nobody_else CHECK (thread_id <> 't')")
    error = await refused(act, dsn)
    assert (error.sqlstate, error.constraint, error.table) == ("23514", "nobody_else", table)
    assert "nobody_else" in str(error)
    assert "23514" in str(error)


@pytest.mark.parametrize(
    ("act", "table", "when"),
    [
        (run, "aiodurable_runs", "INSERT"),
        (run, "checkpoints", "INSERT"),
        (accept, "aiodurable_runs", "INSERT"),
        (accept_on_asyncpg, "aiodurable_runs", "INSERT"),
        (accept_on_psycopg, "aiodurable_runs", "INSERT"),
        (save_without_a_lease, "checkpoints", "INSERT"),
        (delete, "checkpoints", "DELETE"),
    ],
    ids=lambda value: getattr(value, "__name__", value),
)
async def test_the_function_of_a_trigger_that_refuses_is_named(
    act: Act, table: str, when: str, dsn: str
) -> None:
    if act is delete:
        await run(dsn)
    row = "OLD" if when == "DELETE" else "NEW"
    await execute(
        dsn,
        "CREATE FUNCTION forbid() RETURNS trigger LANGUAGE plpgsql AS"
        f" $$ BEGIN RAISE EXCEPTION 'not %', {row}; END $$",
        f"CREATE TRIGGER forbidding BEFORE {when} ON {table} FOR EACH ROW"
        " EXECUTE FUNCTION forbid()",
    )
    error = await refused(act, dsn)
    assert (error.sqlstate, error.function) == ("P0001", "forbid()")
    assert "forbid()" in str(error)


@pytest.mark.parametrize("state", ["P0001", "42501", "22P02", "22P05", "54000", "0A000"])
@pytest.mark.parametrize(
    ("act", "table"),
    [
        (run, "aiodurable_runs"),
        (run, "checkpoint_writes"),
        (accept_on_asyncpg, "aiodurable_runs"),
        (accept_on_psycopg, "aiodurable_runs"),
    ],
    ids=lambda value: getattr(value, "__name__", value),
)
async def test_a_trigger_is_named_whatever_state_it_raises(
    act: Act, table: str, state: str, dsn: str
) -> None:
    await let_a_trigger_raise(dsn, table, state)
    error = await refused(act, dsn)
    assert (error.sqlstate, error.function) == (state, "forbid()")


@pytest.mark.parametrize("state", ["53100", "57014", "40001"])
@pytest.mark.parametrize("act", [run, accept_on_asyncpg, accept_on_psycopg])
async def test_what_a_trigger_says_of_what_may_pass_is_not_shown(
    act: Act, state: str, dsn: str
) -> None:
    await let_a_trigger_raise(dsn, "aiodurable_runs", state)
    await failed(act, dsn)


@pytest.mark.parametrize("table", ["checkpoint_writes", "checkpoint_blobs"])
async def test_a_commit_that_is_given_up_does_not_show_what_a_trigger_said(
    table: str, dsn: str
) -> None:
    await let_a_trigger_raise(dsn, table, "57014")
    async with Durable(dsn) as durable:
        committer_of(services_of(durable).checkpoints.get_checkpointer()).retry_for_s = 0.1

        async def write(_: str) -> None:
            async with durable.run("t", four_nodes()) as run:
                await run.ainvoke(SECRET_INPUT)

        await failed(write, dsn)


async def test_the_parameters_that_a_server_adds_to_its_errors_are_not_shown(dsn: str) -> None:
    await execute(
        dsn,
        "ALTER ROLE CURRENT_USER SET log_parameter_max_length_on_error = -1",
        "CREATE TABLE of_others ()",
    )
    async with AsyncCheckpointerPool(dsn) as pool:
        with pytest.raises(ConfigurationError) as caught:
            async with pool.database.connection() as connection:
                await connection.execute("CREATE ROLE nobody_at_all")
                await connection.execute("SET ROLE nobody_at_all")
                await connection.execute("SELECT %s::text FROM of_others", [SECRET])
    assert SECRET not in "".join(traceback.format_exception(caught.value))


async def test_a_unique_index_of_the_operators_own_is_named(dsn: str) -> None:
    await execute(dsn, "CREATE UNIQUE INDEX one_thread ON checkpoints ((1))")
    error = await refused(run, dsn)
    assert (error.sqlstate, error.constraint) == ("23505", "one_thread")


async def test_an_event_trigger_that_refuses_a_migration_is_named(empty_dsn: str) -> None:
    await execute(
        empty_dsn,
        "CREATE FUNCTION frozen() RETURNS event_trigger LANGUAGE plpgsql AS"
        f" $$ BEGIN RAISE EXCEPTION 'no: {SECRET}'; END $$",
        "CREATE EVENT TRIGGER frozen ON ddl_command_start EXECUTE FUNCTION frozen()",
    )
    error = await refused(lambda dsn: schema.migrate(parse_dsn(dsn)), empty_dsn)
    assert error.function == "frozen()"


async def test_a_statement_that_the_operators_timeout_cancels_says_so(dsn: str) -> None:
    async with AsyncCheckpointerPool(dsn) as pool:
        with pytest.raises(StatementRefusedError, match="57014") as caught:
            async with pool.database.connection() as connection:
                await connection.execute("SET statement_timeout = '10ms'")
                await connection.execute("SELECT pg_sleep(60)")
        assert caught.value.sqlstate == "57014"


async def test_a_value_that_the_driver_cannot_send_is_refused_at_once_and_not_shown(
    dsn: str,
) -> None:
    direct = DirectPool(parse_dsn(dsn), role="test", size=1, timeout_s=600)
    try:
        error = await refused(lambda _: direct.fetch("SELECT $1::int", SECRET), dsn)
        assert "the driver refused it (DataError)" in str(error)
        assert error.sqlstate is None
    finally:
        direct.close()
