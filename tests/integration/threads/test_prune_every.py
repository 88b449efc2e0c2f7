"""Pruning as a habit: one process of many does it, another takes over, and Postgres may go away
meanwhile.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import timedelta
from types import SimpleNamespace
from typing import Any

import psycopg
import pytest
from langgraph.checkpoint.postgres.aio import AsyncPostgresSaver
from psycopg.conninfo import conninfo_to_dict, make_conninfo

from aiodurable import (
    ClosedError,
    ConfigurationError,
    Durable,
    InvalidArgumentError,
    PostgresUnavailableError,
    PruneReport,
    Settings,
)
from aiodurable.runs.leader import duty_lock
from tests.support.internals import services_of, set_clock
from tests.support.scenarios import Thread
from tests.support.waiting import wait_until, within

NOW = timedelta(0)
SOON = timedelta(milliseconds=20)


@asynccontextmanager
async def pruning(durable: Durable, **options: Any) -> AsyncIterator[list[PruneReport]]:
    """Prunes in the background; gives what each round removed."""
    rounds: list[PruneReport] = []
    task = asyncio.create_task(
        durable.threads.prune_every(SOON, older_than=NOW, progress=rounds.append, **options)
    )
    try:
        yield rounds
    finally:
        assert not task.done()
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task


async def checkpoints(dsn: str) -> int:
    async with await psycopg.AsyncConnection.connect(dsn) as connection:
        row = await (await connection.execute("SELECT count(*) FROM checkpoints")).fetchone()
    assert row is not None
    return row[0]


async def left(dsn: str, count: int, *, what: str) -> None:
    """Return when so many checkpoints are left."""

    async def are_left() -> bool:
        return await checkpoints(dsn) == count

    await wait_until(are_left, what=what)


async def test_what_becomes_old_is_pruned_round_after_round(
    dsn: str, saver: AsyncPostgresSaver
) -> None:
    async with Durable(dsn) as durable, pruning(durable):
        for number in (1, 2):
            await Thread(dsn, saver, f"thread {number}", "linear").start()
            await left(dsn, number, what=f"round after thread {number}")


async def test_one_prunes_and_another_takes_over_when_it_is_gone(
    dsn: str, saver: AsyncPostgresSaver
) -> None:
    async with Durable(dsn) as second, Durable(dsn) as first:
        await Thread(dsn, saver, "thread", "linear").start()
        async with pruning(first) as by_first:
            await wait_until(lambda: by_first, what="the first to begin")
            async with pruning(second) as by_second:
                await Thread(dsn, saver, "another", "linear").start()
                rounds = len(by_first)
                await wait_until(
                    lambda: len(by_first) > rounds + 2, what="some rounds of the first"
                )
                assert by_second == []
                assert await second.locks.is_locked(duty_lock("prune"))
        await Thread(dsn, saver, "a third", "linear").start()
        async with pruning(second) as by_second:
            await wait_until(lambda: by_second, what="the second to take over")
            await left(dsn, 3, what="a round of the second")
        assert not await second.locks.is_locked(duty_lock("prune"))


async def test_it_goes_on_when_its_connections_were_killed(
    dsn: str,
    saver: AsyncPostgresSaver,
    admin: psycopg.Connection[Any],
    caplog: pytest.LogCaptureFixture,
) -> None:
    caplog.set_level(logging.WARNING, "aiodurable.runs.threads")
    await Thread(dsn, saver, "first", "linear").start()
    async with Durable(dsn) as durable, pruning(durable) as rounds:
        await wait_until(lambda: rounds, what="the first round")
        admin.execute(
            "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = %s"
            " AND application_name LIKE 'aiodurable:%%'",
            (conninfo_to_dict(dsn)["dbname"],),
        )
        await wait_until(lambda: "tried again" in caplog.text, what="the loss to be told")
        await Thread(dsn, saver, "second", "linear").start()
        await left(dsn, 2, what="another round")


TROUBLE = """
CREATE TABLE trouble (code text);
CREATE FUNCTION fail() RETURNS trigger LANGUAGE plpgsql AS $$
DECLARE found text := (SELECT code FROM trouble);
BEGIN
    IF found IS NOT NULL THEN
        RAISE EXCEPTION 'the secret of the row' USING ERRCODE = found;
    END IF;
    RETURN OLD;
END $$;
CREATE TRIGGER fail BEFORE DELETE ON checkpoints FOR EACH ROW EXECUTE FUNCTION fail();
"""
"""While a code stands in the table `trouble`, no checkpoint can be deleted: Postgres raises that
SQLSTATE.
"""


@pytest.mark.parametrize("code", ["40P01", "40001", "57014", "53100", "53200", "55P03", "58030"])
async def test_an_error_of_postgres_that_passes_ends_no_task_group(
    dsn: str, saver: AsyncPostgresSaver, caplog: pytest.LogCaptureFixture, code: str
) -> None:
    """Deadlock, serialisation failure, cancelled statement, disk full, out of memory, lock timeout,
    I/O error.
    """
    await Thread(dsn, saver, "thread", "linear").start()
    async with await psycopg.AsyncConnection.connect(dsn, autocommit=True) as connection:
        await connection.execute(TROUBLE.encode())
        await connection.execute("INSERT INTO trouble VALUES (%s)", (code,))
        async with Durable(dsn) as durable, asyncio.TaskGroup() as tasks:
            pruner = tasks.create_task(durable.threads.prune_every(SOON, older_than=NOW))
            await wait_until(
                lambda: caplog.text.count("tried again") > 1, what="two failed rounds in the log"
            )
            await connection.execute("DELETE FROM trouble")
            await left(dsn, 1, what="a round that succeeds")
            pruner.cancel()
    assert "secret" not in caplog.text


async def test_a_circuit_that_is_open_ends_no_task_group(
    dsn: str, saver: AsyncPostgresSaver, caplog: pytest.LogCaptureFixture
) -> None:
    await Thread(dsn, saver, "thread", "linear").start()
    settings = Settings(circuit_open_after_s=1.0, circuit_probe_interval_s=2.0)
    async with Durable(dsn, settings=settings) as durable, asyncio.TaskGroup() as tasks:
        breaker = services_of(durable).checkpoints.database.breaker
        assert breaker is not None
        clock = SimpleNamespace(now=0.0)  # the circuit stays open until the log has it
        set_clock(breaker, lambda: clock.now)
        while breaker.state == "closed":
            clock.now += 0.5
            with contextlib.suppress(PostgresUnavailableError):
                async with breaker.call():
                    raise PostgresUnavailableError("away")
        pruner = tasks.create_task(durable.threads.prune_every(SOON, older_than=NOW))
        await wait_until(lambda: "tried again" in caplog.text, what="the open circuit in the log")
        clock.now += 2.0
        await left(dsn, 1, what="a round after the circuit has closed")
        pruner.cancel()


FEW_RIGHTS = """
DO $$ BEGIN CREATE ROLE prunes_nothing LOGIN; EXCEPTION WHEN duplicate_object THEN NULL; END $$;
GRANT SELECT, INSERT, UPDATE ON ALL TABLES IN SCHEMA public TO prunes_nothing;
GRANT USAGE, UPDATE ON ALL SEQUENCES IN SCHEMA public TO prunes_nothing;
"""
"""A role that may do all but delete."""


async def test_it_ends_when_its_durable_is_closed_or_its_role_lacks_a_right(
    dsn: str, saver: AsyncPostgresSaver
) -> None:
    async with Durable(dsn) as durable:
        closed = asyncio.create_task(durable.threads.prune_every(SOON, older_than=NOW))
        await wait_until(
            lambda: durable.locks.is_locked(duty_lock("prune")), what="the first round"
        )
    with pytest.raises(ClosedError):
        await within(30, closed, what="the pruner to end with its Durable")
    await Thread(dsn, saver, "thread", "linear").start()
    async with await psycopg.AsyncConnection.connect(dsn, autocommit=True) as connection:
        await connection.execute(FEW_RIGHTS.encode())
    few = make_conninfo(dsn, user="prunes_nothing")
    async with Durable(few, settings=Settings(auto_migrate=False)) as durable:
        with pytest.raises(ConfigurationError, match="right"):
            await within(
                30,
                durable.threads.prune_every(SOON, older_than=NOW),
                what="the pruner to end for want of a right",
            )


async def test_its_lock_is_not_taken_for_a_thread_that_runs(
    dsn: str, saver: AsyncPostgresSaver
) -> None:
    await Thread(dsn, saver, "thread", "linear").start()
    async with Durable(dsn) as durable, pruning(durable) as rounds:
        await wait_until(lambda: rounds, what="the first round")
        assert await services_of(durable).threads.search.all_held_are_in_the_ledger()


@pytest.mark.parametrize(
    "wrong",
    [
        {"interval": NOW},
        {"interval": SOON, "status": ["running"]},
        {"interval": SOON, "older_than": -SOON},
    ],
    ids=str,
)
async def test_what_cannot_be_meant_is_refused_at_once(dsn: str, wrong: dict[str, Any]) -> None:
    async with Durable(dsn) as durable:
        with pytest.raises(InvalidArgumentError):
            await durable.threads.prune_every(**{"older_than": NOW, **wrong})
