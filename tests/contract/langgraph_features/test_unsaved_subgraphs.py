"""Subgraphs by what they save: nothing (`checkpointer=False`), per call (None), per thread
(True).
"""

from __future__ import annotations

import asyncio
from typing import Any

import pytest
from langgraph.graph import END, START, StateGraph

from aiodurable.durable import Durable
from tests.support.graphs import INPUT, STEPS, Story, four_nodes


def unsaved_as_a_node() -> StateGraph[Any, Any, Any, Any]:
    return _around(four_nodes().compile(checkpointer=False))


def unsaved_called_by_a_node() -> StateGraph[Any, Any, Any, Any]:
    inner = four_nodes().compile(checkpointer=False)

    async def call(state: Story) -> Any:
        return await inner.ainvoke(state)

    return _around(call)


def unsaved_called_by_a_sync_node() -> StateGraph[Any, Any, Any, Any]:
    builder = StateGraph(Story).add_node("word", lambda state: {"words": list(STEPS)})
    inner = builder.add_edge(START, "word").compile(checkpointer=False)

    def call(state: Story) -> Any:
        return inner.invoke(state)

    return _around(call)


def unsaved_two_deep() -> StateGraph[Any, Any, Any, Any]:
    return _around(_around(four_nodes().compile(checkpointer=False)).compile(checkpointer=False))


def _around(inner: Any) -> StateGraph[Any, Any, Any, Any]:
    builder = StateGraph(Story).add_node("inner", inner)
    return builder.add_edge(START, "inner").add_edge("inner", END)


@pytest.mark.parametrize(
    "build",
    [unsaved_as_a_node, unsaved_called_by_a_node, unsaved_called_by_a_sync_node, unsaved_two_deep],
    ids=lambda build: build.__name__,
)
async def test_a_subgraph_that_saves_nothing_runs_in_a_durable_run(
    durable: Durable, build: Any
) -> None:
    async with durable.run("t", build()) as run:
        result = await run.ainvoke(INPUT)
    assert result["words"] == list(STEPS)
    saved = await durable.checkpointer.aget_tuple({"configurable": {"thread_id": "t"}})
    assert saved is not None
    assert saved.checkpoint["channel_values"]["words"] == list(STEPS)


async def test_a_failure_in_it_fails_the_run_and_the_next_call_runs_it_again(
    durable: Durable,
) -> None:
    broken = True

    async def before(step: str) -> None:
        if step == "weigh" and broken:
            raise ZeroDivisionError

    builder = _around(four_nodes(before).compile(checkpointer=False))
    async with durable.run("t", builder) as run:
        with pytest.raises(ZeroDivisionError):
            await run.ainvoke(INPUT)
        broken = False
        assert (await run.ainvoke())["words"] == list(STEPS)


async def test_a_cancellation_reaches_it(durable: Durable) -> None:
    reached = asyncio.Event()

    async def before(step: str) -> None:
        if step == "weigh":
            reached.set()
            await asyncio.Event().wait()

    builder = _around(four_nodes(before).compile(checkpointer=False))

    async def body() -> None:
        async with durable.run("t", builder) as run:
            await run.ainvoke(INPUT)

    task = asyncio.create_task(body())
    await reached.wait()
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
