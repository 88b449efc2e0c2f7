"""A drain stops between two supersteps, wherever it is asked for; the next call goes on there."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from langchain_core.runnables import RunnableConfig
from langgraph.errors import GraphDrained
from langgraph.graph import END, START, StateGraph
from langgraph.runtime import Runtime, get_runtime

from aiodurable.durable import Durable
from aiodurable.models import ThreadStatus
from tests.support.feature_graphs import EMPTY
from tests.support.graphs import STEPS, Story, config, fan_out, note, noted
from tests.support.ledger_view import Ledger


def draining(at: str) -> StateGraph[Any, Any, Any, Any]:
    """Four steps, one of which asks the run to stop after it, the first time."""
    asked = False

    def node(name: str) -> Any:
        async def step(
            state: Story, config: RunnableConfig, runtime: Runtime[Any]
        ) -> dict[str, Any]:
            nonlocal asked
            note(config, name)
            if name == at and not asked:
                asked = True
                assert runtime.control is not None
                runtime.control.request_drain("the host goes down")
            return {"words": [name]}

        return step

    builder = StateGraph(Story)
    for name in STEPS:
        builder.add_node(name, node(name))
    for one, next_one in zip((START, *STEPS), (*STEPS, END), strict=True):
        builder.add_edge(one, next_one)
    return builder


def around(inner: StateGraph[Any, Any, Any, Any]) -> StateGraph[Any, Any, Any, Any]:
    async def empty(state: Story) -> dict[str, Any]:
        return {"told": "closed"}

    builder = StateGraph(Story).add_node("inner", inner.compile()).add_node("close", empty)
    return builder.add_edge(START, "inner").add_edge("inner", "close").add_edge("close", END)


@pytest.mark.parametrize("shape", ["nodes", "subgraph"])
async def test_a_drained_run_goes_on_after_the_step_that_it_finished(
    durable: Durable, ledger: Ledger, log: Path, shape: str
) -> None:
    graph = draining("sort") if shape == "nodes" else around(draining("sort"))
    async with durable.run("t", graph, config=config(log)) as run:
        with pytest.raises(GraphDrained):
            await run.ainvoke(EMPTY)
    assert noted(log) == list(STEPS[:2])
    status = await durable.threads.status("t")
    assert (status.status, status.reason) == (ThreadStatus.PAUSED, "drained")
    assert status.pending == (("weigh",) if shape == "nodes" else ("inner",))
    async with durable.run("t", graph, config=config(log)) as run:
        assert (await run.ainvoke())["words"] == list(STEPS)
    assert noted(log) == list(STEPS), "a node ran twice"
    assert await ledger.statuses("t") == ["complete"]


async def test_a_drain_in_a_fan_out_waits_for_all_its_parts(durable: Durable, log: Path) -> None:
    asked = False

    async def inner(number: int) -> None:
        nonlocal asked
        if number == 1 and not asked:
            asked = True
            control = get_runtime().control
            assert control is not None
            control.request_drain("the host goes down")

    graph = fan_out(inner=inner)
    async with durable.run("t", graph, config=config(log)) as run:
        with pytest.raises(GraphDrained):
            await run.ainvoke({"parts": [], "total": 0})
    assert sorted(noted(log)) == ["part 0", "part 1", "part 2", "split"]
    assert (await durable.threads.status("t")).pending == ("join",)
    async with durable.run("t", graph, config=config(log)) as run:
        assert await run.ainvoke() == {"parts": [0, 1, 2], "total": 3}
    assert noted(log).count("join") == 1
    assert len(noted(log)) == 5


async def test_a_drain_in_front_of_a_gate_stops_at_the_gate(durable: Durable, log: Path) -> None:
    """A drained run goes on by itself, and a resumption passes the gate that it stands at: so the
    gate comes first.
    """
    graph = draining("sort").compile(interrupt_before=["weigh"])
    async with durable.run("t", graph, config=config(log)) as run:
        await run.ainvoke(EMPTY)
    status = await durable.threads.status("t")
    assert (status.status, status.pending) == (ThreadStatus.PAUSED, ("weigh",))
    assert status.reason not in (None, "drained"), "a worker would go on, past the gate"
    assert noted(log) == list(STEPS[:2])
    async with durable.run("t", graph, config=config(log)) as run:
        assert (await run.ainvoke())["words"] == list(STEPS)


async def test_a_drain_inside_a_subgraph_that_is_followed_by_a_gate_stops_at_the_gate(
    durable: Durable, log: Path
) -> None:
    graph = around(draining(STEPS[-1])).compile(interrupt_before=["close"])
    async with durable.run("t", graph, config=config(log)) as run:
        await run.ainvoke(EMPTY)
    status = await durable.threads.status("t")
    assert (status.status, status.pending) == (ThreadStatus.PAUSED, ("close",))
    assert status.reason != "drained"
