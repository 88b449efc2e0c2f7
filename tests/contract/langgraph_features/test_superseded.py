"""A checkpoint that its thread has moved past: a durable run never goes on from one; a fork makes a
thread of it.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from langchain_core.runnables import RunnableConfig
from langgraph.graph import START, StateGraph

from aiodurable.durable import Durable
from aiodurable.errors import AiodurableError
from tests.support.feature_graphs import EMPTY
from tests.support.graphs import STEPS, Story, four_nodes, note, noted


def config(log: Path, **coordinates: str) -> Any:
    return {"configurable": {"log": str(log), **coordinates}}


async def past(durable: Durable, graph: Any, before: str) -> str:
    """The checkpoint of thread "t" at which this node was to run."""
    bound = graph.compile(checkpointer=durable.checkpointer)
    async for snapshot in bound.aget_state_history({"configurable": {"thread_id": "t"}}):
        if before in snapshot.next:
            return snapshot.config["configurable"]["checkpoint_id"]
    pytest.fail(f"no checkpoint before {before}")


async def test_a_run_cannot_be_addressed_at_one(durable: Durable, log: Path) -> None:
    async with durable.run("t", four_nodes(), config=config(log)) as run:
        await run.ainvoke(EMPTY)
    old = await past(durable, four_nodes(), "weigh")
    with pytest.raises(AiodurableError, match="fork"):
        async with durable.run("t", four_nodes(), config=config(log, checkpoint_id=old)):
            pytest.fail("entered")
    assert noted(log) == list(STEPS)


async def test_a_fork_of_one_runs_what_comes_after_it_and_leaves_its_source(
    durable: Durable, log: Path
) -> None:
    async with durable.run("t", four_nodes(), config=config(log)) as run:
        result = await run.ainvoke(EMPTY)
    old = await past(durable, four_nodes(), "weigh")
    await durable.threads.fork("t", "u", checkpoint_id=old)
    async with durable.run("u", four_nodes(), config=config(log)) as run:
        assert await run.ainvoke() == result
    assert noted(log) == [*STEPS, "weigh", "tell"]


async def test_a_fork_of_a_step_under_way_keeps_what_had_finished_in_it(
    durable: Durable, log: Path
) -> None:
    """The newest checkpoint of a failed thread: its finished siblings are handed back, in the fork
    too.
    """
    broken = True

    async def left(state: Story, config: RunnableConfig) -> dict[str, Any]:
        note(config, "left")
        return {"words": ["left"]}

    async def right(state: Story) -> dict[str, Any]:
        if broken:
            raise ZeroDivisionError
        return {"words": ["right"]}

    graph = StateGraph(Story).add_node("left", left).add_node("right", right)
    graph.add_edge(START, "left").add_edge(START, "right")
    async with durable.run("t", graph, config=config(log)) as run:
        with pytest.raises(ZeroDivisionError):
            await run.ainvoke(EMPTY)
    broken = False
    await durable.threads.fork("t", "u")
    for thread in ("u", "t"):
        async with durable.run(thread, graph, config=config(log)) as run:
            assert (await run.ainvoke())["words"] == ["left", "right"]
    assert noted(log).count("left") == 1
