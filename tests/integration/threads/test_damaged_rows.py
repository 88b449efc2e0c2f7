"""One damaged thread among others: every read shows the others unchanged, and of the damaged one
what is readable.
"""

from __future__ import annotations

import asyncio
import json
import os
import time
from collections.abc import Awaitable, Iterator, Sequence
from contextlib import suppress
from datetime import timedelta
from typing import Any

import psycopg
import pytest
from click.testing import CliRunner
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from langgraph.checkpoint.serde.jsonplus import JsonPlusSerializer

from aiodurable.cli.commands import cli
from aiodurable.durable import Durable
from aiodurable.errors import AiodurableError
from aiodurable.jsonable import json_text
from aiodurable.models import ThreadStatus, WorkflowCheckpoint
from aiodurable.postgres.pool import PsycopgPool
from aiodurable.threads import PruneReport, ThreadReader
from tests.support.damaged_rows import (
    DAMAGES,
    GRAPHS,
    KINDS,
    PLAIN,
    TABLES,
    Damage,
    damaged,
    keep,
    make,
)
from tests.support.hostile_values import called

LONGEST_S = 10.0
PRUNABLE = tuple(status for status in ThreadStatus if status not in ("new", "running", "queued"))


class Looks:
    """Every way to look at the threads of a database."""

    def __init__(self, dsn: str) -> None:
        self.dsn = dsn
        self._runner = asyncio.Runner()

    def open(self) -> None:
        self._durable = Durable(self.dsn, graphs=GRAPHS)
        self._runner.run(self._durable.open())
        self._database = self._runner.run(self._opened())
        self._threads = ThreadReader(
            self._database, namespace="aiodurable", serde=JsonPlusSerializer()
        )

    def close(self) -> None:
        self._runner.run(self._database.aclose())
        self._runner.run(self._durable.aclose())
        self._runner.close()

    async def _opened(self) -> PsycopgPool:
        from aiodurable.dsn import parse_dsn

        database = PsycopgPool(parse_dsn(self.dsn))
        await database.open()
        return database

    def status(self, thread_id: str) -> WorkflowCheckpoint:
        return self._runner.run(self._threads.status(thread_id))

    def would_prune(self) -> PruneReport:
        return self._runner.run(
            self._durable.threads.prune(older_than=timedelta(0), status=PRUNABLE, dry_run=True)
        )

    def all(self, bad: str | None) -> dict[str, Any]:
        return self._runner.run(self._all(bad))

    async def _all(self, bad: str | None) -> dict[str, Any]:
        """The results for all threads but the bad one, which is read with the others and alone."""
        durable, threads = self._durable, self._threads
        found: dict[str, Any] = {
            "search": [thread async for thread in durable.threads.search()],
            "page": (await durable.threads.search_page(limit=100)).threads,
            "old": [thread async for thread in durable.threads.search(older_than=timedelta(0))],
            "recent": [
                thread async for thread in durable.threads.search(newer_than=timedelta(hours=20))
            ],
            "failed": [thread async for thread in durable.threads.search(status="failed")],
            "of a graph": [thread async for thread in durable.threads.search(graph="calls")],
            "resumable": [thread async for thread in durable.threads.search(resumable=True)],
            "checked": [thread async for thread in durable.threads.check()],
            "together": await asyncio.gather(
                *(threads.status(kind) for kind in KINDS if kind != bad), self._alone(bad)
            ),
        }
        for name, some in found.items():
            for thread in some:
                json_text(thread)
            found[name] = {t.thread_id: t for t in some if t is not None and t.thread_id != bad}
        await durable.threads.count()
        pruned = await durable.threads.prune(older_than=timedelta(0), status=PRUNABLE, dry_run=True)
        assert pruned.threads >= len(KINDS) - 1 - len(pruned.unprunable)
        await durable.threads.prune(
            older_than=timedelta(0), status=PRUNABLE, dry_run=True, strategy="delete"
        )
        if bad is not None:
            await self._one(bad)
        return found

    async def _alone(self, bad: str | None) -> Any:
        return None if bad is None else await self._threads.status(bad)

    async def _one(self, bad: str) -> None:
        durable, threads = self._durable, self._threads
        await told(durable.threads.get(bad))
        await told(threads.status(bad, ignore_lock=True))
        await told(_listed(durable.threads.history(bad)))
        await told(threads.questions(bad, serde=JsonPlusSerializer()))
        await told(durable.checkpointer.inert().aget_tuple({"configurable": {"thread_id": bad}}))
        await told(durable.threads.fork(bad, "copy"))
        for kind in KINDS:
            if kind != bad:
                await threads.questions(kind, serde=JsonPlusSerializer())


async def _listed(found: Any) -> list[Any]:
    return [one async for one in found]


async def told(look: Awaitable[Any]) -> None:
    """An error of ours is an answer."""
    with suppress(AiodurableError):
        json_text(await look)


@pytest.fixture(scope="module")
def looks(server: Any, template: str) -> Iterator[Looks]:
    name = server.create(template)
    dsn = server.database(name)
    asyncio.run(make(dsn))
    looks = Looks(dsn)
    looks.open()
    yield looks
    looks.close()
    server.drop(name)


@pytest.fixture(scope="module")
def connection(looks: Looks) -> Iterator[psycopg.Connection[Any]]:
    with psycopg.connect(looks.dsn, autocommit=True) as connection:
        keep(connection)
        yield connection


@pytest.fixture(scope="module")
def before(looks: Looks, connection: psycopg.Connection[Any]) -> dict[str, Any]:
    return looks.all(None)


def look(
    looks: Looks,
    connection: psycopg.Connection[Any],
    before: dict[str, Any],
    bad: str,
    *damages: Damage,
) -> None:
    """At all threads, one of which is damaged."""
    began = time.perf_counter()
    with damaged(connection, bad, damages):
        found = looks.all(bad)
    for table in (*TABLES, "aiodurable_fences"):
        connection.execute(f"DELETE FROM {table} WHERE thread_id = 'copy'".encode())
    for name, threads in found.items():
        assert threads == {one: thread for one, thread in before[name].items() if one != bad}, name
    assert time.perf_counter() - began < LONGEST_S
    assert called == []


def by_command(looks: Looks, bad: str) -> None:
    """The same on the command line."""
    for arguments in (
        ["threads", "list", "--all", "--json"],
        ["threads", "show", bad, "--values", "--json"],
        ["threads", "show", bad, "--values"],
    ):
        done = CliRunner().invoke(
            cli, arguments, env={**os.environ, "AIODURABLE_DSN": looks.dsn, "COLUMNS": "200"}
        )
        assert isinstance(done.exception, SystemExit | None), done.exception
        if arguments[1] == "list":
            assert {json.loads(line)["thread_id"] for line in done.stdout.splitlines()} >= {
                *KINDS
            } - {bad}


def within(column: str, key: str, value: str) -> Damage:
    """A key of the newest checkpoint; its value as JSON."""
    return Damage(
        "checkpoints", 0, f"{column} = jsonb_set({column}, %s, %s::text::jsonb)", (key, value)
    )


def whole(column: str, value: str) -> Damage:
    return Damage("checkpoints", 0, f"{column} = %s::text::jsonb", (value,))


def without(column: str, key: str) -> Damage:
    return Damage("checkpoints", 0, f"{column} = {column} - %s", (key,))


def of_its_run(change: str, *value: Any) -> Damage:
    return Damage("aiodurable_runs", 0, change, value)


def sends_to(node: str) -> Damage:
    """The Sends of the newest step, as old LangGraphs stored objects."""
    send = {
        "lc": 2,
        "type": "constructor",
        "id": ["langgraph", "types", "Send"],
        "args": [node, None],
    }
    return Damage(
        "checkpoint_blobs", 0, "type = 'json', blob = %s", (json.dumps([send] * 3).encode(),)
    )


DEEP = "[" * 2000 + "]" * 2000
FOUND = {
    "a time in words": ("finishes", within("checkpoint", "{ts}", '"some time"')),
    "a day that is none": ("finishes", within("checkpoint", "{ts}", '"2026-02-30T00:00:00+00:00"')),
    "the end of time": ("finishes", within("checkpoint", "{ts}", '"infinity"')),
    "a year of five digits": (
        "finishes",
        within("checkpoint", "{ts}", '"20000-01-01T00:00:00+00:00"'),
    ),
    "a superstep in words": ("finishes", within("metadata", "{step}", '"two"')),
    "a superstep of twenty digits": ("finishes", within("metadata", "{step}", "1" * 20)),
    "a format in words": ("finishes", within("checkpoint", "{v}", '"four"')),
    "a format of twenty digits": ("finishes", within("checkpoint", "{v}", "4" * 20)),
    "no format": ("finishes", without("checkpoint", "v")),
    "versions in a list": ("finishes", within("checkpoint", "{channel_versions}", "[1]")),
    "no versions": (PLAIN, within("checkpoint", "{channel_versions}", "null")),
    "versions in a list, in plain LangGraph": (
        PLAIN,
        within("checkpoint", "{channel_versions}", '["x"]'),
    ),
    "a checkpoint that is a list": ("finishes", whole("checkpoint", "[1]")),
    "a checkpoint that is a number": ("fails", whole("checkpoint", "5")),
    "metadata that are a number": ("finishes", whole("metadata", "5")),
    "a number of five thousand digits": ("finishes", within("checkpoint", "{v}", "1" * 5000)),
    "lists in lists": ("finishes", within("checkpoint", "{channel_values}", DEEP)),
    "an error of no type": ("fails", Damage("checkpoint_writes", 0, "type = NULL", ())),
    "a question of no type": ("asks", Damage("checkpoint_writes", 0, "type = NULL", ())),
    "the place of a task in five thousand digits": (
        "fails",
        Damage("checkpoint_writes", 0, "task_path = %s", (f"~__pregel_push, {'9' * 5000}, 0",)),
    ),
    "a node whose name Postgres cannot store": ("sends", sends_to("no\0de")),
    "a node whose name is no Unicode": ("sends", sends_to("\ud800")),
    "a run that began at the end of time": ("finishes", of_its_run("started_at = 'infinity'")),
    "a run that ended in another age": (
        "fails",
        of_its_run("failed_at = '294276-12-31', finished_at = '0050-01-01 BC'"),
    ),
    "answers in a list": ("asks", of_its_run("answered = '[1]', answers_type = 'msgpack'")),
}


@pytest.mark.parametrize("found", FOUND)
def test_a_damaged_row_hides_no_other_thread(
    found: str, looks: Looks, connection: psycopg.Connection[Any], before: dict[str, Any]
) -> None:
    """Each of these did."""
    bad, damage = FOUND[found]
    with damaged(connection, bad, []):
        assert damage.on(connection, bad), "there is such a row"
    look(looks, connection, before, bad, damage)
    with damaged(connection, bad, [damage]):
        if found in ("a time in words", "no format", "lists in lists", "an error of no type"):
            by_command(looks, bad)


@pytest.mark.parametrize("found", ["a format in words", "no format", "versions in a list"])
def test_of_what_cannot_be_read_nothing_is_pruned(
    found: str, looks: Looks, connection: psycopg.Connection[Any]
) -> None:
    """A format that is not known may need the checkpoints before it; values are found by the
    versions.
    """
    bad, damage = FOUND[found]
    assert bad not in looks.would_prune().unprunable
    with damaged(connection, bad, [damage]):
        assert bad in looks.would_prune().unprunable


@pytest.mark.parametrize("found", ["a time in words", "a superstep in words", "no format"])
def test_a_damaged_checkpoint_is_in_doubt(
    found: str, looks: Looks, connection: psycopg.Connection[Any]
) -> None:
    bad, damage = FOUND[found]
    assert looks.status(bad).doubt is None
    with damaged(connection, bad, [damage]):
        thread = looks.status(bad)
    assert thread.status is ThreadStatus.COMPLETE
    assert "newest checkpoint" in (thread.doubt or "")


@pytest.mark.timeout(3600)
def test_no_row_hides_another_thread(
    long: bool, looks: Looks, connection: psycopg.Connection[Any], before: dict[str, Any]
) -> None:
    """A few in the short form; ten minutes of them with `--long`."""
    done = 0

    @settings(
        max_examples=100 if long else 15,
        deadline=None,
        database=None,
        suppress_health_check=[*HealthCheck],
    )
    @given(st.sampled_from(KINDS), DAMAGES)
    def each(bad: str, damages: Sequence[Damage]) -> None:
        nonlocal done
        done += 1
        look(looks, connection, before, bad, *damages)
        if done % 10 == 0:
            with damaged(connection, bad, damages):
                by_command(looks, bad)

    called.clear()
    until = time.monotonic() + (600 if long else 0)
    each()
    while time.monotonic() < until:
        each()
    print(f"{done} threads were damaged")
