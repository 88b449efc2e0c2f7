"""What `aiodurable db grants` prints is what each kind of role needs, and no more."""

from __future__ import annotations

import asyncio
import json
import re
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from datetime import timedelta
from typing import Any, TypedDict

import psycopg
import pytest
from click.testing import CliRunner
from langgraph.graph import END, START, StateGraph
from langgraph.types import Command, interrupt
from psycopg import sql
from psycopg.conninfo import make_conninfo

from aiodurable import Durable, effect, wait_for
from aiodurable.cli.commands import cli
from aiodurable.dsn import parse_dsn
from aiodurable.errors import AiodurableError
from aiodurable.integrations.cluster_metrics import ClusterReader
from aiodurable.postgres import schema
from aiodurable.postgres.sql import load
from aiodurable.settings import Settings
from aiodurable.worker.history import Sampler
from tests.support.internals import services_of

ROLE = 'the "app"'
SCHEMA = 'Our "tables"'
REGISTERED = ("w", "host", 7, "1", ["q"], ["g"], 5, 0, 0.0, 0.0, False, 1.0, 5.0)
FILLED = (
    *("checkpoints", "checkpoint_blobs", "checkpoint_writes", "aiodurable_runs"),
    *("aiodurable_fences", "aiodurable_namespace", "aiodurable_queues", "aiodurable_effects"),
    *("aiodurable_schedules", "aiodurable_signals", "aiodurable_workers"),
    *("aiodurable_status_history", "aiodurable_audit"),
)
PATH = "-c search_path=" + re.sub(r"([\\ ])", r"\\\1", '"Our ""tables"""')


class State(TypedDict, total=False):
    n: int


async def nothing() -> None:
    pass


async def ask(state: State) -> State:
    await effect("nothing", nothing)
    return {"n": interrupt("how many?")}


async def waits(state: State) -> State:
    return {"n": await wait_for("number")}


def count(state: State) -> State:
    return {"n": 1}


GRAPHS: dict[str, Any] = {
    "ask": StateGraph(State).add_node("ask", ask).add_edge(START, "ask").add_edge("ask", END),
    "count": StateGraph(State).add_node("count", count).add_edge(START, "count"),
    "waits": StateGraph(State).add_node("waits", waits).add_edge(START, "waits"),
}


@pytest.fixture
async def owner(empty_dsn: str) -> AsyncIterator[str]:
    """The DSN of the owner of the tables, in a schema of their own and a database that not every
    role may use.
    """
    with psycopg.connect(empty_dsn, autocommit=True) as connection:
        name = sql.Identifier(connection.info.dbname)
        connection.execute(sql.SQL("CREATE SCHEMA {}").format(sql.Identifier(SCHEMA)))
        connection.execute(sql.SQL("REVOKE ALL ON DATABASE {} FROM PUBLIC").format(name))
        connection.execute(
            sql.SQL("CREATE ROLE {} LOGIN PASSWORD 'app'").format(sql.Identifier(ROLE))
        )
    yield make_conninfo(empty_dsn, options=PATH)
    with psycopg.connect(empty_dsn, autocommit=True) as connection:
        connection.execute(sql.SQL("DROP OWNED BY {} CASCADE").format(sql.Identifier(ROLE)))
        connection.execute(sql.SQL("DROP ROLE {}").format(sql.Identifier(ROLE)))


def grants(dsn: str, kind: str, role: str = ROLE) -> list[str]:
    result = CliRunner().invoke(cli, ["db", "grants", "--dsn", dsn, "--role", role, "--for", kind])
    assert result.exit_code == 0, result.output
    return result.stdout.splitlines()


def each_privilege(statements: list[str]) -> Iterator[tuple[str, str]]:
    """GRANT and REVOKE of one privilege."""
    for statement in statements:
        found = re.fullmatch(r"GRANT (.+?) ON (.+) TO (.+);", statement)
        assert found, statement
        for privilege in found[1].split(", "):
            yield (
                f"GRANT {privilege} ON {found[2]} TO {found[3]}",
                f"REVOKE {privilege} ON {found[2]} FROM {found[3]}",
            )


async def reads(dsn: str) -> None:
    async with Durable(
        dsn, settings=Settings(auto_migrate=False, lock_connections=0, connect_timeout_s=5)
    ) as durable:
        assert [found.thread_id async for found in durable.threads.search()] == ["before"]
        await durable.threads.status("before")
        await durable.threads.count()
        await durable.threads.estimate_counts()
        assert [step async for step in durable.threads.history("before")]
        await durable.threads.effects("before")
        assert (await durable.threads.why("before")).facts.token
        assert [found async for found in durable.threads.verify(recheck_s=0)] == []
        await durable.queues.list()
        await durable.schedules.list()
        await durable.insights.overview_and_queues()
        await durable.insights.history()
        await durable.insights.throughput()
        await durable.insights.latencies()
        await durable.insights.workers()
        await durable.insights.lock_sessions()
        await durable.insights.schedules()
        await durable.insights.database()
        await durable.insights.audit()
        assert dict(await _metrics(durable))["aiodurable_cluster_up"] == 1


async def _metrics(durable: Durable) -> list[tuple[str, float]]:
    reader = ClusterReader(durable, every_s=0)
    return [(name, value) for name, _, value in await reader.samples()]


async def runs(dsn: str) -> None:
    async with Durable(
        dsn, graphs=GRAPHS, settings=Settings(auto_migrate=False, connect_timeout_s=5)
    ) as durable:
        async with durable.run("thread", "ask") as run:
            await run.ainvoke({})
        async with durable.run("thread", "ask") as run:
            assert (await run.ainvoke(Command(resume=3)))["n"] == 3
        await durable.threads.signal("waiting", "number", 7, signal_id="once")
        async with durable.run("waiting", "waits") as run:
            await run.ainvoke({})
            assert (await run.ainvoke())["n"] == 7
        await durable.threads.fork("thread", "fork")
        await durable.threads.status("thread")
        [found async for found in durable.threads.search()]
        await durable.insights.overview()
        await durable.queues.list()
        await durable.queues.pause("mail")
        await durable.queues.scale("default", max_running=5, rate=100.0)
        await durable.schedules.create("s", "count", {"n": 0}, cron="@yearly")
        await durable.schedules.pause("s")
        await durable.schedules.delete("s")
        accepted = await durable.runs.create("accepted", "count", {"n": 0})
        # A worker would only log that it may not: no run depends on it.
        services = services_of(durable)
        await services.checkpoints.direct.fetch(load("insights")["register"], *REGISTERED)
        assert await Sampler(services).sample()
        async with durable.work():
            assert (await durable.runs.wait(accepted.run_id, timeout=20))["n"] == 1
        await durable.insights.record("somebody", "test")


async def prunes(dsn: str) -> None:
    async with Durable(dsn, settings=Settings(auto_migrate=False, connect_timeout_s=5)) as durable:
        await durable.threads.prune(older_than=timedelta(0), strategy="delete")
        await durable.threads.delete("thread")
        await durable.threads.delete("fork")


async def runs_and_prunes(dsn: str) -> None:
    await runs(dsn)
    await prunes(dsn)


async def migrates(dsn: str) -> None:
    await schema.migrate(parse_dsn(dsn))


DOES: dict[str, Callable[[str], Awaitable[None]]] = {
    "read": reads,
    "run": runs,
    "prune": runs_and_prunes,
    "migrate": migrates,
}


@pytest.mark.parametrize("kind", DOES)
async def test_a_role_may_do_with_the_grants_what_it_is_for_and_without_any_of_them_not(
    owner: str, kind: str
) -> None:
    app = make_conninfo(owner, user=ROLE, password="app")
    if kind != "migrate":
        await schema.migrate(parse_dsn(owner))
    with psycopg.connect(owner, autocommit=True) as connection:
        statements = await asyncio.to_thread(grants, owner, kind)
        for statement in statements:
            connection.execute(statement.encode())

        async def tried(revoked: str) -> None:
            if kind == "migrate":
                connection.execute(sql.SQL("DROP OWNED BY {} CASCADE").format(sql.Identifier(ROLE)))
                for statement in statements:
                    connection.execute(statement.encode())
            else:
                for table in FILLED:  # of a few rows each: TRUNCATE takes thirty times as long
                    connection.execute(f"DELETE FROM {table}".encode())
            if kind == "read":
                await runs_once(owner)
            if revoked:
                connection.execute(revoked.encode())
            await DOES[kind](app)

        await tried("")
        spared: list[str] = []
        for granted, revoked in each_privilege(statements):
            try:
                await tried(revoked)
            except (AiodurableError, psycopg.Error):
                pass
            else:
                spared.append(granted)
            connection.execute(granted.encode())
        assert spared == []
        await tried("")


def test_doctor_knows_what_a_role_is_for(dsn: str, admin: psycopg.Connection[Any]) -> None:
    with psycopg.connect(dsn, autocommit=True) as connection:
        connection.execute("CREATE ROLE reader LOGIN PASSWORD 'reader'")
        try:
            reader = make_conninfo(dsn, user="reader", password="reader")
            assert "this role lacks SELECT on checkpoints" in examined(reader, "read", 1)["rights"]
            for statement in (
                CliRunner()
                .invoke(cli, ["db", "grants", "--dsn", dsn, "--role", "reader", "--for", "read"])
                .output.splitlines()
            ):
                connection.execute(statement.encode())
            assert (
                examined(reader, "read", 0)["rights"]
                == "this role has all rights that it needs to read"
            )
            found = examined(reader, "run", 1)["rights"]
            assert found.startswith("this role may read, not run: it lacks INSERT on checkpoints")
        finally:
            connection.execute("DROP OWNED BY reader CASCADE; DROP ROLE reader")


def test_doctor_warns_of_what_everybody_may(dsn: str) -> None:
    with psycopg.connect(dsn, autocommit=True) as connection:
        name = sql.Identifier(connection.info.dbname)
        connection.execute("GRANT CREATE ON SCHEMA public TO PUBLIC")
        assert "may create objects in schema public" in examined(dsn, "run", 0)["everybody"]
        connection.execute("REVOKE CREATE ON SCHEMA public FROM PUBLIC")
        assert "may connect" in examined(dsn, "run", 0)["everybody"]
        connection.execute(sql.SQL("REVOKE CONNECT ON DATABASE {} FROM PUBLIC").format(name))
        assert examined(dsn, "run", 0)["everybody"].startswith("no unrelated role may connect")


def examined(dsn: str, kind: str, exit_code: int) -> dict[str, str]:
    result = CliRunner().invoke(cli, ["doctor", "--dsn", dsn, "--for", kind, "--json"])
    assert result.exit_code == exit_code, result.output
    return {found["check"]: found["found"] for found in map(json.loads, result.stdout.splitlines())}


async def runs_once(dsn: str) -> None:
    async with (
        Durable(dsn, graphs=GRAPHS, settings=Settings(auto_migrate=False)) as durable,
        durable.run("before", "ask") as run,
    ):
        await run.ainvoke({})
