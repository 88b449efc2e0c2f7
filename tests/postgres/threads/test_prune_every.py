"""Pruning as a habit: one process of many does it, another takes over, and Postgres may go away meanwhile."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import timedelta
from typing import Any

import psycopg
import pytest
from langgraph.checkpoint.postgres.aio import AsyncPostgresSaver

from aiodurable import ConfigurationError, Durable, Pruned
from aiodurable.threads import PRUNING
from scenarios import Thread
from waiting import wait_until

NOW = timedelta(0)
SOON = timedelta(milliseconds=20)


@asynccontextmanager
async def pruning(durable: Durable, **options: Any) -> AsyncIterator[list[Pruned]]:
    """Prunes in the background; gives what each round removed."""
    rounds: list[Pruned] = []
    task = asyncio.create_task(durable.prune_every(SOON, older_than=NOW, progress=rounds.append, **options))
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


async def test_what_becomes_old_is_pruned_round_after_round(dsn: str, saver: AsyncPostgresSaver) -> None:
    async with Durable(dsn) as durable, pruning(durable):
        for number in (1, 2):
            await Thread(dsn, saver, f"thread {number}", "linear").start()

            async def pruned(number: int = number) -> bool:
                return await checkpoints(dsn) == number

            await wait_until(pruned, what=f"round after thread {number}")


async def test_one_prunes_and_another_takes_over_when_it_is_gone(dsn: str, saver: AsyncPostgresSaver) -> None:
    async with Durable(dsn) as second, Durable(dsn) as first:
        await Thread(dsn, saver, "thread", "linear").start()
        async with pruning(first) as by_first:
            await wait_until(lambda: by_first, what="the first to begin")
            async with pruning(second) as by_second:
                rounds = len(by_first)
                await Thread(dsn, saver, "another", "linear").start()
                await wait_until(lambda: len(by_first) > rounds + 2, what="some rounds of the first")
                assert by_second == []
                assert await second.locks.is_locked(PRUNING)
        await Thread(dsn, saver, "a third", "linear").start()
        async with pruning(second) as by_second:
            await wait_until(lambda: by_second, what="the second to take over")
        assert not await second.locks.is_locked(PRUNING)
    assert await checkpoints(dsn) == 3


async def test_it_goes_on_when_its_connections_were_killed(
    dsn: str, saver: AsyncPostgresSaver, admin: psycopg.Connection[Any], caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.WARNING, "aiodurable.verbs")
    await Thread(dsn, saver, "first", "linear").start()
    async with Durable(dsn) as durable, pruning(durable) as rounds:
        await wait_until(lambda: rounds, what="the first round")
        admin.execute(
            "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE application_name LIKE 'aiodurable:%'"
        )
        await wait_until(lambda: "tried again" in caplog.text, what="the loss to be told")
        seen = len(rounds)
        await Thread(dsn, saver, "second", "linear").start()
        await wait_until(lambda: len(rounds) > seen + 1, what="another round")
    assert await checkpoints(dsn) == 2


async def test_its_lock_is_not_taken_for_a_thread_that_runs(dsn: str, saver: AsyncPostgresSaver) -> None:
    await Thread(dsn, saver, "thread", "linear").start()
    async with Durable(dsn) as durable, pruning(durable) as rounds:
        await wait_until(lambda: rounds, what="the first round")
        assert await durable._opened().threads._search.all_held_are_in_the_ledger()


@pytest.mark.parametrize(
    "wrong",
    [{"interval": NOW}, {"interval": SOON, "statuses": ["running"]}, {"interval": SOON, "older_than": -SOON}],
    ids=str,
)
async def test_what_cannot_be_meant_is_refused_at_once(dsn: str, wrong: dict[str, Any]) -> None:
    async with Durable(dsn) as durable:
        with pytest.raises(ConfigurationError):
            await durable.prune_every(**{"older_than": NOW, **wrong})
