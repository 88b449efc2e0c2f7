"""What belongs to one event loop says so in another, and stays as it is."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any

import pytest

from aiodurable import ClosedError, Durable
from aiodurable.dsn import parse_dsn
from aiodurable.postgres.pool import PsycopgPool
from aiodurable.postgres.pool_connection import PoolConnection
from tests.support.graphs import INPUT, STEPS, Gate, four_nodes, run_up_to
from tests.support.internals import services_of
from tests.support.other_loop import in_another_loop
from tests.support.waiting import wait_until


@pytest.fixture
async def durable(dsn: str) -> AsyncIterator[Durable]:
    async with Durable(dsn, graphs={"four": four_nodes()}) as opened:
        yield opened


CALLS: dict[str, Callable[[Durable], Awaitable[Any]]] = {
    "status": lambda durable: durable.threads.status("t"),
    "page": lambda durable: durable.threads.search_page(),
    "counts": lambda durable: durable.threads.count(),
    "a checkpoint": lambda durable: durable.checkpointer.aget_tuple(
        {"configurable": {"thread_id": "t"}}
    ),
    "a signal": lambda durable: durable.threads.signal("t", "coin", 1),
    "a run": lambda durable: durable.runs.create("t", "four", INPUT),
    "a statement": lambda durable: services_of(durable).checkpoints.direct.fetch("SELECT 1"),
    "a token": lambda durable: services_of(durable).checkpoints.new_fence("t"),
    "closing": lambda durable: durable.aclose(),
}


@pytest.mark.parametrize("name", CALLS)
async def test_a_call_from_another_loop_is_refused_and_does_no_harm(
    durable: Durable, name: str
) -> None:
    await services_of(durable).checkpoints.new_fence("u")
    with pytest.raises(ClosedError, match="another event loop"):
        await in_another_loop(lambda: CALLS[name](durable))
    async with durable.run("t", four_nodes()) as run:
        assert (await run.ainvoke(INPUT))["words"] == list(STEPS)


async def test_a_graph_that_writes_under_a_lease_from_another_loop_is_refused(
    durable: Durable,
) -> None:
    async with durable.hold("t"):
        graph = four_nodes().compile(checkpointer=durable.checkpointer)
        with pytest.raises(ClosedError, match="another event loop"):
            await in_another_loop(
                lambda: graph.ainvoke(INPUT, {"configurable": {"thread_id": "t"}})
            )


async def test_a_status_from_another_loop_while_one_is_under_way_is_refused(
    durable: Durable,
) -> None:
    gate = Gate("weigh")
    running = await run_up_to(gate, durable)
    statuses = [asyncio.create_task(durable.threads.status("t")) for _ in range(20)]
    await wait_until(lambda: True)
    with pytest.raises(ClosedError, match="another event loop"):
        await in_another_loop(lambda: durable.threads.status("t"))
    await asyncio.gather(*statuses)
    gate.open.set()
    await running


async def test_opening_in_another_loop_is_refused_and_does_no_harm(durable: Durable) -> None:
    async def enter() -> None:
        async with durable:
            pass

    for call in (durable.open, enter):
        with pytest.raises(ClosedError, match="cannot open"):
            await in_another_loop(call)
    async with durable.run("t", four_nodes()) as run:
        assert (await run.ainvoke(INPUT))["words"] == list(STEPS)


async def test_what_a_closed_loop_left_open_opens_again_in_this_one(dsn: str) -> None:
    durable = Durable(dsn)
    await in_another_loop(durable.open)
    async with durable:
        assert durable.is_open
        async with durable.run("t", four_nodes()) as run:
            assert (await run.ainvoke(INPUT))["words"] == list(STEPS)
    assert not durable.is_open
    await in_another_loop(durable.open)
    await durable.aclose()


async def test_a_loop_ends_although_a_pool_that_is_open_in_it_connects(
    dsn: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It cancels each task once, and waits for all of them."""

    async def leave_open() -> None:
        database = PsycopgPool(parse_dsn(dsn))
        await database.open()
        await database.fetch("SELECT 1")
        connecting = asyncio.Event()

        async def connect(*_: Any, **__: Any) -> None:
            connecting.set()
            await asyncio.Event().wait()

        monkeypatch.setattr(PoolConnection, "connect", connect)
        await database.pool.resize(2)
        await connecting.wait()

    await in_another_loop(leave_open)


@pytest.mark.parametrize("steps", range(8))
async def test_a_loop_ends_although_a_pool_was_opened_in_it_just_before(
    dsn: str, steps: int
) -> None:
    """At each of the moments in which what psycopg's pool does from time to time is planned."""

    async def leave_open() -> None:
        await PsycopgPool(parse_dsn(dsn)).open()
        for _ in range(steps):
            await asyncio.sleep(0)

    await in_another_loop(leave_open)
