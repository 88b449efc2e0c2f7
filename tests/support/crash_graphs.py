"""Graphs that crash tests run in other processes."""

from __future__ import annotations

import asyncio
import operator
import os
import random
from pathlib import Path
from typing import Annotated, Any, TypedDict

from langchain_core.runnables import RunnableConfig
from langgraph.func import entrypoint, task
from langgraph.graph import START, StateGraph
from langgraph.types import Send, interrupt

from aiodurable import current_run, idempotency_key


class Order(TypedDict, total=False):
    steps: Annotated[list[str], operator.add]
    note: Any


def _line(*nodes: Any) -> StateGraph[Any, Any, Any, Any]:
    builder = StateGraph(Order)
    builder.add_sequence(list(nodes))
    builder.add_edge(START, nodes[0].__name__)
    return builder


async def plan(state: Order) -> Order:
    assert current_run().thread_id  # which is no idempotency key
    return {"steps": ["plan"]}


async def charge(state: Order) -> Order:
    assert idempotency_key("charge")
    return {"steps": ["charge"]}


def send(state: Order) -> Order:
    return {"steps": ["send"]}


def count(state: Order, config: RunnableConfig) -> Order:
    """As a side effect that does not know its own earlier runs."""
    place: Any = config.get("configurable")
    file = Path(place["folder"]) / place["thread_id"]
    with file.open("a") as stock:
        stock.write("1")
    return {"note": len(file.read_text())}


async def draw(state: Order) -> Order:
    return {"note": random.random()}


async def ask(state: Order) -> Order:
    return {"steps": [interrupt("who?"), interrupt("when?")]}


async def fail(state: Order) -> Order:
    raise ValueError("out of stock")


async def hang(state: Order, config: RunnableConfig) -> Order:
    place: Any = config.get("configurable")
    started = Path(place["started"])
    started.write_text(str(os.getpid()))
    await asyncio.Event().wait()
    return {}


def ordering() -> Any:
    return _line(plan, charge, send)


def counting() -> Any:
    return _line(plan, count)


def drawing() -> Any:
    return _line(draw)


def asking() -> Any:
    return _line(plan, ask, send)


def failing() -> Any:
    return _line(plan, fail)


def hanging() -> Any:
    return _line(hang)


def gated() -> Any:
    return _line(plan, send).compile(interrupt_before=["send"])


def nested() -> Any:
    builder = StateGraph(Order)
    builder.add_node("outer", _line(plan, charge).compile())
    builder.add_node("last", send)
    builder.add_edge(START, "outer")
    builder.add_edge("outer", "last")
    return builder


def fan_out() -> Any:
    builder = StateGraph(Order)
    builder.add_node("part", plan)
    builder.add_conditional_edges(START, lambda state: [Send("part", {}), Send("part", {})])
    return builder


@task
async def doubled(number: int) -> int:
    return 2 * number


@entrypoint()
async def functional(number: int) -> int:
    return await doubled(number) + await doubled(1)


async def made_async() -> Any:
    return ordering()


GRAPH = ordering()
NO_GRAPH = 1


def answer_to(question: str) -> str:
    return f"{question} me"
