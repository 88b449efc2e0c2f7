"""A node learns which run executes it: async and sync nodes, tasks, subgraphs and tools."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest
from langchain_core.messages import AIMessage, ToolMessage
from langchain_core.tools import tool
from langgraph.func import entrypoint, task
from langgraph.graph import START, MessagesState, StateGraph
from langgraph.prebuilt import ToolNode

from aiodurable import (
    ConfigurationError,
    CurrentRun,
    Durable,
    current_run,
    fencing_token,
)
from tests.support.feature_graphs import EMPTY
from tests.support.graphs import Story


def single(node: Any) -> StateGraph[Any, Any, Any, Any]:
    return StateGraph(Story).add_node("node", node).add_edge(START, "node")


async def test_async_and_sync_nodes_learn_which_run_executes_them(durable: Durable) -> None:
    seen: list[CurrentRun] = []

    def plain(state: Story) -> dict[str, Any]:
        seen.append(current_run())
        assert fencing_token() == seen[-1].fencing_token
        return {}

    async def node(state: Story) -> dict[str, Any]:
        seen.append(current_run())
        seen.append(await asyncio.create_task(later()))
        return {}

    async def later() -> CurrentRun:
        return current_run()

    graph = single(plain).add_node("second", node).add_edge("node", "second")
    async with durable.run("t", graph, run_id="r") as run:
        await run.ainvoke(EMPTY)
        token = run.lease.token
    worker = (await durable.runs.get("r")).worker
    assert worker is not None
    assert seen == [CurrentRun("t", "r", 1, None, worker, token)] * 3


async def test_each_attempt_has_its_number_and_each_lease_its_token(durable: Durable) -> None:
    seen: list[tuple[int, int]] = []

    async def node(state: Story) -> dict[str, Any]:
        seen.append((current_run().attempt, fencing_token()))
        if len(seen) < 3:
            raise ZeroDivisionError
        return {}

    graph = single(node)
    tokens: list[int] = []
    async with durable.run("t", graph) as run:
        tokens.append(run.lease.token)
        for _ in range(2):
            with pytest.raises(ZeroDivisionError):
                await run.ainvoke(EMPTY)
    async with durable.run("t", graph) as run:
        tokens.append(run.lease.token)
        await run.ainvoke()
    assert seen == [(1, tokens[0]), (2, tokens[0]), (3, tokens[1])]
    assert tokens[0] < tokens[1]


async def test_subgraphs_and_tasks_learn_it_too(durable: Durable) -> None:
    seen: list[CurrentRun] = []

    async def inner(state: Story) -> dict[str, Any]:
        seen.append(current_run())
        return {}

    @task
    async def step() -> None:
        seen.append(current_run())

    @task
    def plain_step() -> None:
        seen.append(current_run())

    @entrypoint()
    async def workflow(given: str) -> str:
        await step()
        await plain_step()
        return given

    async with durable.run("graph", single(single(inner).compile()), run_id="r") as run:
        await run.ainvoke(EMPTY)
    async with durable.run("tasks", workflow, run_id="q") as run:
        await run.ainvoke("given")
    assert [(one.thread_id, one.run_id) for one in seen] == [
        ("graph", "r"),
        ("tasks", "q"),
        ("tasks", "q"),
    ]


async def test_tools_learn_it_too(durable: Durable) -> None:
    @tool
    async def whose() -> str:
        """Say which run this is."""
        return current_run().run_id

    @tool
    def whose_plainly() -> str:
        """Say which run this is."""
        return current_run().run_id

    async def ask(state: MessagesState) -> dict[str, Any]:
        calls = [
            {"name": name, "args": {}, "id": name, "type": "tool_call"}
            for name in ("whose", "whose_plainly")
        ]
        return {"messages": [AIMessage("", tool_calls=calls)]}

    graph = (
        StateGraph(MessagesState)
        .add_node(ask)
        .add_node("tools", ToolNode([whose, whose_plainly]))
        .add_edge(START, "ask")
        .add_edge("ask", "tools")
    )
    async with durable.run("t", graph, run_id="r") as run:
        result = await run.ainvoke({"messages": []})
    answers = [each.content for each in result["messages"] if isinstance(each, ToolMessage)]
    assert answers == ["r", "r"]


async def test_a_graph_that_is_called_with_the_config_of_a_run_is_no_attempt(
    durable: Durable,
) -> None:
    seen: list[CurrentRun] = []

    async def node(state: Story) -> dict[str, Any]:
        seen.append(current_run())
        return {}

    graph = single(node).compile(checkpointer=durable.checkpointer)
    async with durable.run("t", graph) as run:
        await graph.ainvoke(EMPTY, run.config)
        assert [(one.attempt, one.fencing_token) for one in seen] == [(0, run.lease.token)]


async def test_outside_of_a_run_there_is_none_to_learn_of() -> None:
    async def node(state: Story) -> dict[str, Any]:
        current_run()
        return {}

    with pytest.raises(ConfigurationError, match=r"current_run\(\): .* call it inside a node"):
        current_run()
    with pytest.raises(ConfigurationError, match=r"fencing_token\(\)"):
        fencing_token()
    with pytest.raises(ConfigurationError, match="Durable.run or a worker"):
        await single(node).compile().ainvoke(EMPTY)
