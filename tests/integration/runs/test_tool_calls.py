"""A chat that stopped between tool calls and their results can go on."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest
from langchain_core.messages import AIMessage, HumanMessage, ToolMessage
from langgraph.graph import START, MessagesState, StateGraph
from langgraph.types import Send

from aiodurable.durable import Durable
from aiodurable.errors import ConfigurationError, RunCancelledError
from tests.support.waiting import wait_until


def chat(begun: asyncio.Event) -> StateGraph[Any, Any, Any, Any]:
    async def model(state: Any) -> Any:
        if state["messages"][-1].content == "hello":
            calls = [{"name": "slow", "args": {}, "id": f"call-{n}"} for n in range(2)]
            return {"messages": [AIMessage("", tool_calls=calls)]}
        return {"messages": [AIMessage("done")]}

    async def tool(state: Any) -> Any:
        if state["id"] == "call-1":
            begun.set()
            await asyncio.Event().wait()
        return {"messages": [ToolMessage("found", tool_call_id=state["id"], name="slow")]}

    def calls(state: Any) -> Any:
        last = state["messages"][-1]
        return [Send("tool", call) for call in last.tool_calls] or "__end__"

    builder = StateGraph(MessagesState)
    builder.add_node("model", model)
    builder.add_node("tool", tool)
    builder.add_edge(START, "model")
    builder.add_conditional_edges("model", calls, ["tool", "__end__"])
    builder.add_edge("tool", "model")
    return builder


async def test_each_open_tool_call_of_an_interrupted_chat_gets_one_result(
    durable: Durable,
) -> None:
    begun = asyncio.Event()
    graph = chat(begun)

    async def talk() -> None:
        async with durable.run("t", graph) as run:
            await run.ainvoke({"messages": [HumanMessage("hello")]})

    async def one_is_stored() -> bool:
        pregel = graph.compile(checkpointer=durable.checkpointer)
        state = await pregel.aget_state({"configurable": {"thread_id": "t"}})
        return any(task.result for task in state.tasks)

    talking = asyncio.create_task(talk())
    await begun.wait()
    await wait_until(one_is_stored)
    async with durable.run("t", graph, on_busy="interrupt", timeout=20) as run:
        assert await run.repair_tool_calls("given up") == 2
        assert await run.repair_tool_calls("given up") == 0
        result = await run.ainvoke({"messages": [HumanMessage("again")]})
    with pytest.raises(RunCancelledError):
        await talking
    results = [message for message in result["messages"] if isinstance(message, ToolMessage)]
    assert {(each.tool_call_id, each.content, each.status) for each in results} == {
        ("call-0", "found", "success"),
        ("call-1", "given up", "error"),
    }
    assert [message.type for message in result["messages"]] == (
        ["human", "ai", "tool", "tool", "human", "ai"]
    )


@pytest.mark.parametrize("cancelled", [False, True], ids=["interrupted", "cancelled"])
@pytest.mark.parametrize("repaired", [True, False])
async def test_a_worker_closes_the_open_tool_calls_of_a_chat_where_that_is_wanted(
    dsn: str, repaired: bool, cancelled: bool
) -> None:
    begun = asyncio.Event()
    chats = {"repair_tool_calls": ["chat"]} if repaired else {}
    async with Durable(dsn, graphs={"chat": chat(begun)}, **chats) as durable, durable.work():
        first = await durable.runs.create("t", "chat", {"messages": [HumanMessage("hello")]})
        await asyncio.wait_for(begun.wait(), 20)
        if cancelled:
            await durable.runs.cancel(first.run_id, wait=True)
        again = {"messages": [HumanMessage("again")]}
        second = await durable.runs.create("t", "chat", again, on_busy="interrupt")
        result = await durable.runs.wait(second.run_id, timeout=20)
        history = [step async for step in durable.threads.history("t")]
    closed = ["tool", "tool"] if repaired else []
    assert [message.type for message in result["messages"]] == (
        ["human", "ai", *closed, "human", "ai"]
    )
    assert ("update" in {step.source for step in history}) is repaired


def test_tool_calls_of_a_graph_that_is_not_there_are_refused() -> None:
    with pytest.raises(ConfigurationError, match="cannot repair tool calls of graph 'gone'"):
        Durable("postgresql://x", graphs={}, repair_tool_calls=["gone"])
