"""What a role with CONNECT alone says of its sessions is not believed."""

from __future__ import annotations

import asyncio
import json
import uuid
from collections.abc import AsyncIterator, Iterator
from contextlib import AsyncExitStack, asynccontextmanager
from typing import Any, TypedDict

import psycopg
import pytest
from click.testing import CliRunner
from langgraph.graph import END, START, StateGraph
from psycopg import sql
from psycopg.conninfo import conninfo_to_dict, make_conninfo

from aiodurable import Durable, PostgresLockManager
from aiodurable.cli.commands import cli
from aiodurable.errors import WorkflowAlreadyRunningError
from aiodurable.lock_keys import lock_key, own_lock_key
from aiodurable.settings import Settings
from tests.support.postgres import left_alone, small_server

CLAIM = "aiodurable:lock@worker-3:71"
SLOTS = 10 * 40


class State(TypedDict, total=False):
    n: int


def graph() -> Any:
    return (
        StateGraph(State)
        .add_node("node", lambda _: {"n": 1})
        .add_edge(START, "node")
        .add_edge("node", END)
    )


@pytest.fixture(scope="module")
def small_of_all() -> Iterator[str]:
    """A server whose lock table has few slots."""
    with small_server(max_connections=40) as url:
        yield url


@pytest.fixture
def small(small_of_all: str) -> str:
    """The same, without what the test before had open."""
    return left_alone(small_of_all)


@asynccontextmanager
async def role(dsn: str, *, may_lease: bool = False) -> AsyncIterator[str]:
    """The DSN of another role."""
    name = f"stranger_{uuid.uuid4().hex[:8]}"
    with psycopg.connect(dsn, autocommit=True) as connection:
        connection.execute(
            sql.SQL("CREATE ROLE {} LOGIN PASSWORD 's'").format(sql.Identifier(name))
        )
        if may_lease:
            connection.execute(
                sql.SQL("GRANT USAGE ON SEQUENCE aiodurable_lock_tokens TO {}").format(
                    sql.Identifier(name)
                )
            )
    try:
        yield make_conninfo(dsn, user=name, password="s")
    finally:
        with psycopg.connect(dsn, autocommit=True) as connection:
            connection.execute(sql.SQL("DROP OWNED BY {}").format(sql.Identifier(name)))
            connection.execute(sql.SQL("DROP ROLE {}").format(sql.Identifier(name)))


@asynccontextmanager
async def sessions(dsn: str, count: int) -> AsyncIterator[list[psycopg.AsyncConnection[Any]]]:
    """Connections under the name of a lock session."""
    async with AsyncExitStack() as stack:
        yield [
            await stack.enter_async_context(
                await psycopg.AsyncConnection.connect(dsn, autocommit=True, application_name=CLAIM)
            )
            for _ in range(count)
        ]


def shares(locks: PostgresLockManager) -> list[int]:
    return [session.share for session in locks.health().sessions]


async def test_a_role_that_opens_many_sessions_takes_at_most_half_of_our_share(small: str) -> None:
    async with (
        role(small) as stranger,
        sessions(stranger, 15),
        PostgresLockManager(small, sessions=1) as locks,
    ):
        assert shares(locks) == [SLOTS // 2 // 2]


async def test_other_roles_are_counted_up_to_as_many_sessions_as_ours(small: str) -> None:
    async with PostgresLockManager(small, sessions=2), AsyncExitStack() as stack:
        for count in (1, 2, 9):
            stranger = await stack.enter_async_context(role(small))
            await stack.enter_async_context(sessions(stranger, count))
        async with PostgresLockManager(small, sessions=1) as third:
            assert shares(third) == [SLOTS // 2 // (3 + 1 + 2 + 3)]


async def test_doctor_counts_sessions_as_a_lock_session_does(small: str) -> None:
    """Doctor has a lock session of its own while it counts."""
    async with (
        role(small) as stranger,
        sessions(stranger, 15),
        PostgresLockManager(small, sessions=2),
    ):
        told = await asyncio.to_thread(
            CliRunner().invoke, cli, ["doctor", "--dsn", small, "--json"]
        )
        [found] = [
            line
            for line in map(json.loads, told.output.splitlines())
            if line["check"] == "lock table"
        ]
        assert f"could use {SLOTS // 2 // (3 + 3)}" in found["found"]


async def test_a_holder_of_a_role_that_may_take_no_leases_is_named_by_its_role(dsn: str) -> None:
    async with (
        Durable(dsn, graphs={"graph": graph()}) as durable,
        role(dsn) as stranger,
        sessions(stranger, 1) as [session],
    ):
        name = session.info.user
        await session.execute(
            "SELECT pg_advisory_lock(%s)", (lock_key("thread", Settings().namespace),)
        )
        await session.execute(
            "SELECT pg_advisory_lock(%s)", (own_lock_key("mine", Settings().namespace),)
        )
        with pytest.raises(WorkflowAlreadyRunningError) as refused:
            async with durable.run("thread", "graph"):
                pass
        assert f"by role '{name}', which may take no leases" in str(refused.value)
        for holder in [
            refused.value.holder,
            await durable.locks.holder_of("mine"),
            *await durable.locks.holders(),
            (await durable.threads.status("thread")).holder,
        ]:
            assert holder is not None
            assert (holder.role, holder.authorized, holder.process) == (name, False, None)
            assert not str(holder).startswith(CLAIM)
            assert name in str(holder)


@pytest.mark.parametrize("names", [[], ["thread", "waited"]])
async def test_the_command_shows_the_role_and_not_the_claim(dsn: str, names: list[str]) -> None:
    async with (
        Durable(dsn) as durable,
        role(dsn) as stranger,
        sessions(stranger, 1) as [session],
        durable.hold("waited"),
    ):
        name = session.info.user
        key = lock_key("waited", Settings().namespace)
        await session.execute(
            "SELECT pg_advisory_lock(%s)", (lock_key("thread", Settings().namespace),)
        )
        await session.execute("SELECT pg_advisory_lock_shared(%s, %s)", halves(key))
        shown = await asyncio.to_thread(
            CliRunner().invoke, cli, ["locks", "list", "--dsn", dsn, *names], terminal_width=200
        )
        assert "worker-3" not in shown.output
        assert "".join(shown.output.split()).count(name) == 2
        told = await asyncio.to_thread(
            CliRunner().invoke, cli, ["locks", "list", "--dsn", dsn, "--json", *names]
        )
        [held] = [
            line
            for line in map(json.loads, told.output.splitlines())
            if line["key"] == str(lock_key("thread", Settings().namespace))
        ]
        assert held["holder"]["process"] == f"role {name}"
        assert (held["holder"]["role"], held["holder"]["authorized"]) == (name, False)


async def test_a_thread_is_not_found_by_what_a_stranger_calls_itself(dsn: str) -> None:
    async with (
        Durable(dsn, graphs={"graph": graph()}) as durable,
        role(dsn) as stranger,
        sessions(stranger, 1) as [session],
    ):
        async with durable.run("thread", "graph") as run:
            await run.ainvoke({})
        await session.execute(
            "SELECT pg_advisory_lock(%s)", (lock_key("thread", Settings().namespace),)
        )
        assert (await durable.threads.status("thread")).status == "running"
        assert [found async for found in durable.threads.search(holder="worker-3")] == []


async def test_a_process_of_another_role_that_may_take_leases_is_named_with_its_role(
    dsn: str,
) -> None:
    async with (
        role(dsn, may_lease=True) as other,
        PostgresLockManager(other, settings=Settings(auto_migrate=False)) as theirs,
        PostgresLockManager(dsn) as ours,
        theirs.hold("lock"),
    ):
        holder = await ours.holder_of("lock")
        assert holder is not None
        assert (holder.role, holder.authorized) == (role_of(other), True)
        assert holder.process is not None
        assert str(holder).startswith("aiodurable:lock@")
        own = await theirs.holder_of("lock")
        assert own is not None
        assert (own.role, own.authorized) == (None, True)


def role_of(dsn: str) -> str:
    return str(conninfo_to_dict(dsn)["user"])


def halves(key: int) -> tuple[int, int]:
    """The two signed integers of a key."""
    raw = key.to_bytes(8, "big", signed=True)
    return int.from_bytes(raw[:4], "big", signed=True), int.from_bytes(raw[4:], "big", signed=True)
