"""A graph that sleeps, and then waits for a signal."""

from __future__ import annotations

from typing import Any

from langchain_core.runnables import RunnableConfig
from langgraph.graph import START, StateGraph

from aiodurable import sleep, wait_for
from tests.support.graphs import Story, note

__all__ = ["SIGNAL", "sleeping"]

SIGNAL = "coin"
NAP_S = 0.2


async def nap(state: Story, config: RunnableConfig) -> dict[str, Any]:
    note(config, "nap")
    await sleep(NAP_S)
    return {"words": ["slept"]}


async def take(state: Story, config: RunnableConfig) -> dict[str, Any]:
    note(config, "take")
    return {"words": [await wait_for(SIGNAL)]}


async def tell(state: Story, config: RunnableConfig) -> dict[str, Any]:
    note(config, "tell")
    return {"told": " ".join(state["words"])}


def sleeping() -> StateGraph[Any, Any, Any, Any]:
    """nap → take → tell."""
    return StateGraph(Story).add_sequence([nap, take, tell]).add_edge(START, "nap")
