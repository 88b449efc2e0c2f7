"""A cancellation that arrives in the moment in which the pool gives a connection is not lost."""

from __future__ import annotations

import asyncio
import itertools
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import suppress
from datetime import timedelta
from typing import Any

import anyio
import asyncpg
import psycopg.waiting
import pytest

from aiodurable import Durable, Settings
from aiodurable.dsn import parse_dsn
from aiodurable.postgres.pool import PsycopgPool
from tests.support.graphs import INPUT, four_nodes
from tests.support.internals import services_of
from tests.support.suspensions import cancelled_at
from tests.support.waiting import wait_until, within

Call = Callable[[Durable], Awaitable[Any]]


async def consumed(items: AsyncIterator[Any]) -> None:
    async for _ in items:
        pass


CALLS: dict[str, Call] = {
    "page": lambda durable: durable.threads.search_page(),
    "counts": lambda durable: durable.threads.count(),
    "history": lambda durable: consumed(durable.threads.history("t")),
    "find": lambda durable: consumed(durable.threads.search()),
    "prune": lambda durable: durable.threads.prune(older_than=timedelta(days=1)),
    "token": lambda durable: services_of(durable).checkpoints.token("t"),
    "a checkpoint by its id": lambda durable: durable.checkpointer.aget_tuple(
        {"configurable": {"thread_id": "t", "checkpoint_id": "1"}}
    ),
    "run": lambda durable: services_of(durable).ledger.newest("t"),
}


async def cancelled_as_it_is_served(
    database: PsycopgPool, call: Awaitable[Any], steps: int
) -> asyncio.Task[Any]:
    """`call` waits for the pool's only connection, gets it, and is cancelled `steps` turns of the
    event loop later.
    """

    async def work() -> None:
        await call
        await asyncio.Event().wait()  # where a body would go on

    held = database.pool.connection()
    await held.__aenter__()
    task = asyncio.create_task(work())
    await wait_until(
        lambda: database.stats()["requests_waiting"], what="the call to wait for the pool"
    )
    await held.__aexit__(None, None, None)
    for _ in range(steps):
        await asyncio.sleep(0)
    task.cancel()
    await asyncio.wait({task}, timeout=30)
    return task


@pytest.fixture
async def durable(dsn: str) -> AsyncIterator[Durable]:
    async with Durable(dsn, settings=Settings(pool_max_size=1)) as opened:
        async with opened.run("t", four_nodes()) as run:
            await run.ainvoke(INPUT)
        yield opened


@pytest.mark.parametrize("steps", [0, 1, 2])
@pytest.mark.parametrize("name", CALLS)
async def test_a_call_that_is_cancelled_as_the_pool_serves_it_ends_cancelled(
    durable: Durable, name: str, steps: int
) -> None:
    task = await cancelled_as_it_is_served(
        services_of(durable).checkpoints.database, CALLS[name](durable), steps
    )
    lost = not task.done()
    task.cancel()
    with suppress(asyncio.CancelledError):
        await task
    assert not lost, "the cancellation was dropped"
    assert task.cancelled()


@pytest.fixture
async def database(dsn: str) -> AsyncIterator[PsycopgPool]:
    database = PsycopgPool(parse_dsn(dsn), max_size=1)
    await database.open()
    yield database
    await database.aclose()


async def test_an_anyio_scope_that_is_cancelled_as_the_pool_serves_it_ends_as_its_own(
    database: PsycopgPool,
) -> None:
    scope = anyio.CancelScope()
    ended = asyncio.Event()

    async def work() -> None:
        with scope:
            await database.fetch("SELECT 1")
            await asyncio.Event().wait()
        ended.set()

    held = database.pool.connection()
    await held.__aenter__()
    task = asyncio.create_task(work())
    await wait_until(
        lambda: database.stats()["requests_waiting"], what="the call to wait for the pool"
    )
    await held.__aexit__(None, None, None)
    scope.cancel()
    await within(30, task)
    assert ended.is_set()
    assert scope.cancelled_caught
    assert not task.cancelling()


async def test_a_timeout_around_a_loop_of_calls_ends_it(database: PsycopgPool) -> None:
    """Each call waits for the pool's only connection, which is given back as the time is over."""
    held = database.pool.connection()
    await held.__aenter__()
    timeout = asyncio.timeout(None)

    async def work() -> None:
        async with timeout:
            while True:
                await database.fetch("SELECT 1")

    task = asyncio.create_task(work())
    await wait_until(
        lambda: database.stats()["requests_waiting"], what="the call to wait for the pool"
    )
    await held.__aexit__(None, None, None)
    timeout.reschedule(asyncio.get_running_loop().time())
    done, _ = await asyncio.wait({task}, timeout=30)
    task.cancel()
    await asyncio.wait({task})
    assert done, "the timeout was dropped"
    assert isinstance(task.exception(), TimeoutError)
    assert await database.fetch("SELECT 1 AS n") == [{"n": 1}]


async def test_closing_that_is_cancelled_at_any_turn_of_the_loop_ends_cancelled(dsn: str) -> None:
    for turns in range(12):
        database = PsycopgPool(parse_dsn(dsn), max_size=1)
        await database.open()
        await database.fetch("SELECT 1")
        closing = asyncio.create_task(database.aclose())
        for _ in range(turns):
            await asyncio.sleep(0)
        wanted = closing.cancel()
        await asyncio.wait({closing})
        assert closing.cancelled() is wanted, f"after {turns} turns"
        await database.aclose()


async def test_a_call_that_is_cancelled_as_the_pool_closes_ends_cancelled(dsn: str) -> None:
    """What goes on after a `ClosedError` is cancelled once, and waited for."""
    for turns in range(20):
        database = PsycopgPool(parse_dsn(dsn), max_size=1)
        await database.open()
        async with database.connection():
            waiting = asyncio.create_task(database.fetch("SELECT 1"))
            await wait_until(
                lambda: database.stats()["requests_waiting"],  # noqa: B023
                what="the call to wait for the pool",
            )
            closing = asyncio.create_task(database.aclose())
            for _ in range(turns):
                await asyncio.sleep(0)
            wanted = waiting.cancel()
            await asyncio.wait({waiting})
        await closing
        assert waiting.cancelled() is wanted, f"after {turns} turns"


async def test_statements_in_one_round_trip_that_are_cancelled_leave_a_connection_that_commits(
    database: PsycopgPool, db: asyncpg.Connection, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A pipeline that is left half-way stays one: the statements of later callers would run in it,
    and not be committed.
    """
    # psycopg yields to a busy loop also where it need not wait, such as on entering a pipeline
    monkeypatch.setattr(psycopg.waiting, "MAX_BUSY_TIME", 0.0, raising=False)
    await db.execute("CREATE TABLE written (n int)")
    for turn in itertools.count(1):
        statements = (("SELECT 1", ()), ("SELECT 2", ()), ("SELECT 3", ()))
        cut = await cancelled_at(database.fetch_in_turn(*statements), turn)
        await within(30, database.fetch("INSERT INTO written VALUES ($1) RETURNING n", turn))
        assert await db.fetchval("SELECT count(*) FROM written") == turn, f"cancelled at {turn}"
        if not cut:
            break


async def test_a_return_that_is_cancelled_serves_the_caller_who_begins_to_wait(
    database: PsycopgPool,
) -> None:
    for before, after in itertools.product(range(4), range(4)):
        end = asyncio.Event()

        async def use(end: asyncio.Event = end) -> None:
            async with database.connection():
                await end.wait()

        using = asyncio.create_task(use())
        await wait_until(lambda: not database.stats()["pool_available"], what="it to be lent")
        end.set()
        for _ in range(before):
            await asyncio.sleep(0)
        waiting = asyncio.create_task(database.fetch("SELECT 1 AS n"))
        for _ in range(after):
            await asyncio.sleep(0)
        using.cancel()
        await asyncio.wait({using})
        assert await within(5, waiting, what=f"a connection ({before}, {after})") == [{"n": 1}]
