"""The process stops: its runs end as drained, unless somebody asked for their end."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import suppress
from typing import Any

import pytest
from langgraph.errors import GraphDrained
from langgraph.graph import START, StateGraph

from aiodurable.durable import Durable
from aiodurable.errors import RunCancelledError
from aiodurable.models import ClaimState, PauseReason, ThreadStatus
from aiodurable.settings import Settings
from tests.support.other_loop import in_another_loop
from tests.support.waiting import within

OFTEN = Settings(lease_ttl_s=3, lease_heartbeat_s=0.2, lease_safety_margin_s=0.5)

begun: dict[str, asyncio.Event] = {}


async def hang(state: dict[str, Any]) -> None:
    begun["hang"].set()
    await asyncio.Event().wait()


async def swallow(state: dict[str, Any]) -> None:
    begun["swallow"].set()
    while not begun["end"].is_set():
        with suppress(asyncio.CancelledError):
            await begun["end"].wait()


async def swallow_once(state: dict[str, Any]) -> None:
    begun["swallow_once"].set()
    with suppress(asyncio.CancelledError):
        await asyncio.Event().wait()


GRAPHS = {
    node.__name__: StateGraph(dict).add_node(node).add_edge(START, node.__name__)
    for node in (hang, swallow, swallow_once)
}


@pytest.fixture
async def stopping(dsn: str) -> AsyncIterator[Durable]:
    """A `Durable` that a test stops."""
    begun.update({name: asyncio.Event() for name in ("hang", "swallow", "end")})
    opened = Durable(dsn, graphs=GRAPHS, settings=OFTEN)
    await opened.open()
    yield opened
    begun["end"].set()
    await opened.aclose()


async def in_its_node(durable: Durable, graph: Any, name: str = "hang") -> asyncio.Task[Any]:
    async def run() -> Any:
        async with durable.run("t", graph, run_id="r") as run:
            return await run.ainvoke({"a": 1})

    task = asyncio.create_task(run())
    await within(30, begun[name].wait(), what="the node to begin")
    return task


async def end_of(durable: Durable) -> tuple[ThreadStatus, str | None, ClaimState | None]:
    thread, run = await durable.threads.status("t"), await durable.runs.get("r")
    return thread.status, thread.reason, run.claim_state


DRAINED = (ThreadStatus.PAUSED, PauseReason.DRAINED)
CANCELLED = (ThreadStatus.PAUSED, PauseReason.CANCELLED)


async def test_a_call_that_is_cancelled_after_drain_leaves_its_run_to_workers(
    stopping: Durable, durable: Durable
) -> None:
    task = await in_its_node(stopping, "hang")
    stopping.drain()
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert await end_of(durable) == (*DRAINED, ClaimState.READY)


async def test_no_worker_can_go_on_with_a_drained_run_whose_graph_has_no_name(
    stopping: Durable, durable: Durable
) -> None:
    task = await in_its_node(stopping, GRAPHS["hang"].compile())
    stopping.drain()
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert await end_of(durable) == (*DRAINED, None)


async def test_a_call_that_is_cancelled_before_drain_is_its_callers(
    stopping: Durable, durable: Durable
) -> None:
    task = await in_its_node(stopping, "hang")
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    stopping.drain()
    assert await end_of(durable) == (*CANCELLED, None)


async def test_a_run_that_somebody_cancels_while_its_process_drains_stays_cancelled(
    stopping: Durable, durable: Durable
) -> None:
    task = await in_its_node(stopping, "hang")
    stopping.drain()
    await durable.threads.cancel("t")
    with pytest.raises(RunCancelledError):
        await within(30, task)
    assert await end_of(durable) == (*CANCELLED, None)


async def test_closing_drains_a_run_at_work(stopping: Durable, durable: Durable) -> None:
    task = await in_its_node(stopping, "hang")
    await within(10, stopping.aclose())
    with pytest.raises(GraphDrained):
        await task
    assert await end_of(durable) == (*DRAINED, ClaimState.READY)


async def test_closing_does_not_wait_for_a_node_that_swallows_its_cancellation(
    stopping: Durable, durable: Durable
) -> None:
    task = await in_its_node(stopping, "swallow", "swallow")
    await within(10, stopping.aclose())
    assert await end_of(durable) == (*DRAINED, ClaimState.READY)
    begun["end"].set()
    with pytest.raises(GraphDrained):
        await within(30, task)


async def test_a_loop_ends_although_a_node_swallows_the_one_cancellation_that_it_gets(
    dsn: str,
) -> None:
    """It cancels the writers of checkpoints, too: what the graph stores then is stored by nobody."""

    async def leave_at_work() -> None:
        begun["swallow_once"] = asyncio.Event()
        durable = Durable(dsn, graphs=GRAPHS)
        await durable.open()
        await in_its_node(durable, "swallow_once", "swallow_once")

    await in_another_loop(leave_at_work)


async def test_a_stream_that_is_left_while_the_process_drains_is_drained(
    stopping: Durable, durable: Durable
) -> None:
    two = StateGraph(dict).add_sequence([("one", lambda state: {}), ("hang", hang)])
    async with stopping.run("t", two.add_edge(START, "one"), run_id="r") as run:
        stream = run.astream({"a": 1})
        await anext(stream)
        stopping.drain()
        await stream.aclose()
    assert (await end_of(durable))[:2] == DRAINED
