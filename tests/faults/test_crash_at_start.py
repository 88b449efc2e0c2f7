"""The power of the server fails right after it has acknowledged the row of a run. What is lost then
has run no node; where a node may run before the next commit, nothing is lost.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any

import psycopg
import pytest
from langgraph.func import entrypoint
from langgraph.graph import END, START, StateGraph

from aiodurable.durable import Durable
from aiodurable.errors import HistoryLostError, LeaseLostError
from aiodurable.events import AttemptStarted, Event, inline
from aiodurable.settings import Settings
from tests.support.graphs import INPUT, STEPS, Story, four_nodes
from tests.support.restartable import OwnServer
from tests.support.waiting import wait_until, within

Use = Callable[[Durable], Awaitable[Any]]
GRAPH = four_nodes()


def chosen_entry() -> StateGraph[Any, Any, Any, Any]:
    """Code of the user decides which node is the first."""
    builder = StateGraph(Story)
    builder.add_node("collect", lambda _: {"told": "collect"})
    builder.add_conditional_edges(START, lambda _: "collect", ["collect"])
    return builder.add_edge("collect", END)


@entrypoint()
async def function(words: dict[str, Any]) -> dict[str, Any]:
    return words


def call(graph: Any, **options: Any) -> Use:
    async def calling(durable: Durable) -> None:
        async with durable.run("t", graph) as run:
            await run.ainvoke(INPUT, **options)

    return calling


async def gated(durable: Durable) -> None:
    """Leave the thread in the middle of a run."""
    await call(GRAPH, interrupt_before=["sort"])(durable)


async def crash_at_start(
    own: OwnServer, use: Use, before: Use | None = None
) -> tuple[type[BaseException] | None, list[str]]:
    """What `use` raises if the server crashes at the start of its run, and how the runs of the
    thread stand then.
    """
    own.settings["wal_writer_delay"] = "10s"  # what nobody waits for is not on disk by chance
    dsn = await own.start()
    due = crashed = False

    def crash(event: Event) -> None:
        nonlocal due, crashed
        if due and isinstance(event, AttemptStarted):
            due, crashed = False, True
            own.crash()

    settings = Settings(close_timeout_s=2)
    async with Durable(dsn, observers=[inline(crash)], settings=settings) as durable:
        if before is not None:
            await before(durable)
        due = True
        using = asyncio.ensure_future(use(durable))
        await wait_until(lambda: crashed)
        await own.start()
        await within(60, asyncio.wait({using}))
        error = using.exception()
    with psycopg.connect(dsn) as connection:
        rows = connection.execute(
            "SELECT status FROM aiodurable_runs WHERE thread_id = 't' ORDER BY created_at"
        )
        return None if error is None else type(error), [status for (status,) in rows]


@pytest.mark.parametrize("turn", [1, 2])
async def test_a_run_whose_row_is_lost_has_run_no_node(own: OwnServer, turn: int) -> None:
    ran: list[str] = []

    async def step(name: str) -> None:
        ran.append(name)

    graph = four_nodes(step)
    before = call(graph) if turn == 2 else None
    raised = await crash_at_start(own, call(graph), before)
    error = HistoryLostError if turn == 2 else LeaseLostError  # its first token went, too
    assert raised == (error, ["complete"] * (turn - 1))
    assert ran == [*STEPS] * (turn - 1)


@pytest.mark.parametrize(
    "use",
    [
        call(chosen_entry()),
        call(function),
        call(GRAPH, durability="exit"),
        call(GRAPH, durability="async"),
    ],
    ids=["an entry by code", "an entrypoint", "exit", "async"],
)
async def test_the_row_is_on_disk_where_code_may_run_before_the_next_commit(
    own: OwnServer, use: Use
) -> None:
    assert await crash_at_start(own, use) == (None, ["complete"])


async def test_a_start_that_gives_up_unfinished_work_is_on_disk(own: OwnServer) -> None:
    restart = call(GRAPH, on_unfinished="restart")
    assert await crash_at_start(own, restart, gated) == (None, ["superseded", "complete"])


async def test_a_queued_run_whose_beginning_is_lost_waits_again(own: OwnServer) -> None:
    async def accept(durable: Durable) -> None:
        await durable.runs.create("t", "four", INPUT, run_id="R")

    async def begin(durable: Durable) -> None:
        async with durable.run("t", GRAPH, run_id="R") as run:
            await run.ainvoke()

    assert await crash_at_start(own, begin, accept) == (LeaseLostError, ["queued"])
