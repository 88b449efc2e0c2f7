"""Graphs that use what LangGraph offers beside nodes and edges, the same here and in processes that
are killed.

Like those of `workflows.py` they note each call in the run's log. Each takes `START_OF[name]` and,
undisturbed, ends with `RESULT_OF[name]`; questions are answered by `answer_to`.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any, TypedDict

from langchain_core.runnables import RunnableConfig
from langgraph.cache.base import BaseCache, FullKey, Namespace, ValueT
from langgraph.channels.delta import DeltaChannel
from langgraph.errors import NodeError
from langgraph.func import entrypoint, task
from langgraph.graph import END, START, StateGraph
from langgraph.runtime import Runtime
from langgraph.types import CachePolicy, Command, RetryPolicy, Send, interrupt

from tests.support.graphs import STEPS, Story, note

Builder = StateGraph[Any, Any, Any, Any]

AT_ONCE = RetryPolicy(initial_interval=0.001, jitter=False, retry_on=ConnectionError)


def answer_to(question: Any) -> str:
    return f"{question}!"


def _word(name: str) -> Any:
    async def node(state: Story, config: RunnableConfig) -> dict[str, Any]:
        note(config, name)
        return {"words": [name]}

    return node


def _around(inner: Any) -> Builder:
    """inner → close."""
    builder = StateGraph(Story).add_node("inner", inner).add_node("close", _word("close"))
    return builder.add_edge(START, "inner").add_edge("inner", "close").add_edge("close", END)


def _pair() -> Builder:
    """left → right."""
    builder = StateGraph(Story).add_node("left", _word("left")).add_node("right", _word("right"))
    return builder.add_edge(START, "left").add_edge("left", "right").add_edge("right", END)


def two_questions() -> Builder:
    """A node that asks twice, and that is tried again between the two."""

    async def ask(state: Story, config: RunnableConfig, runtime: Runtime[Any]) -> dict[str, Any]:
        note(config, "ask")
        first = interrupt("first")
        assert runtime.execution_info is not None
        if runtime.execution_info.node_attempt == 1:
            raise ConnectionError
        return {"words": [first, interrupt("second")]}

    builder = (
        StateGraph(Story)
        .add_node("ask", ask, retry_policy=AT_ONCE)
        .add_node("close", _word("close"))
    )
    return builder.add_edge(START, "ask").add_edge("ask", "close").add_edge("close", END)


def ordered_sends() -> Builder:
    """Parts that end in the reverse of the order in which they were sent, into a reducer that keeps
    the order.
    """

    async def part(state: dict[str, int], config: RunnableConfig) -> dict[str, Any]:
        number = state["number"]
        note(config, f"part {number}")
        for _ in range(50 * (5 - number)):
            await asyncio.sleep(0)
        return {"words": [f"part {number}"]}

    builder = StateGraph(Story).add_node("part", part).add_node("close", _word("close"))
    builder.add_conditional_edges(
        START, lambda _: [Send("part", {"number": n}) for n in range(5)], ["part"]
    )
    return builder.add_edge("part", "close").add_edge("close", END)


def error_handler() -> Builder:
    """A node that fails, beside one that does not; its handler goes on in its place."""

    async def fails(state: Story, config: RunnableConfig) -> dict[str, Any]:
        note(config, "fails")
        raise ZeroDivisionError("broken")

    async def mend(state: Story, error: NodeError, config: RunnableConfig) -> Command[Any]:
        note(config, "mend")
        return Command(update={"words": [f"{error.node} mended"]}, goto="close")

    builder = (
        StateGraph(Story)
        .add_node("fails", fails, error_handler=mend)
        .add_node("beside", _word("beside"))
    )
    builder.add_node("close", _word("close"))
    for name in ("fails", "beside"):
        builder.add_edge(START, name)
    return builder.add_edge(
        "close", END
    )  # no edge of a node that failed is followed: its handler says where to go


def asking_handler() -> Builder:
    """A handler that asks what to do."""

    async def fails(state: Story, config: RunnableConfig) -> dict[str, Any]:
        note(config, "fails")
        raise ZeroDivisionError("broken")

    async def ask(state: Story, error: NodeError, config: RunnableConfig) -> Command[Any]:
        note(config, "ask")
        return Command(update={"words": [interrupt("mend it?")]}, goto="close")

    builder = (
        StateGraph(Story)
        .add_node("fails", fails, error_handler=ask)
        .add_node("close", _word("close"))
    )
    return builder.add_edge(START, "fails").add_edge("close", END)


class Files(BaseCache[ValueT]):
    """A cache that survives its process."""

    def __init__(self, folder: Path) -> None:
        super().__init__()
        self._folder = folder

    def _file(self, key: FullKey) -> Path:
        namespace, name = key
        return self._folder / "-".join((*namespace, name)).replace("/", "_")

    async def aget(self, keys: Sequence[FullKey]) -> dict[FullKey, ValueT]:
        return self.get(keys)

    def get(self, keys: Sequence[FullKey]) -> dict[FullKey, ValueT]:
        files = {key: self._file(key) for key in keys}
        return {
            key: self.serde.loads_typed((kind, bytes.fromhex(data)))
            for key, file in files.items()
            if file.exists()
            for kind, data in [json.loads(file.read_text())]
        }

    async def aset(self, pairs: Mapping[FullKey, tuple[ValueT, int | None]]) -> None:
        self.set(pairs)

    def set(self, pairs: Mapping[FullKey, tuple[ValueT, int | None]]) -> None:
        self._folder.mkdir(parents=True, exist_ok=True)
        for key, (value, _) in pairs.items():
            kind, data = self.serde.dumps_typed(value)
            new = self._file(key).with_suffix(".new")
            new.write_text(json.dumps([kind, data.hex()]))
            new.rename(self._file(key))

    async def aclear(self, namespaces: Sequence[Namespace] | None = None) -> None:
        raise NotImplementedError

    def clear(self, namespaces: Sequence[Namespace] | None = None) -> None:
        raise NotImplementedError


def cached(folder: Path) -> Any:
    """Two nodes side by side whose results are cached in files, and one after them."""
    builder = StateGraph(Story)
    for name in ("left", "right", "close"):
        builder.add_node(
            name, _word(name), cache_policy=CachePolicy(key_func=lambda _, name=name: name)
        )
    for name in ("left", "right"):
        builder.add_edge(START, name)
    return (
        builder.add_edge(["left", "right"], "close")
        .add_edge("close", END)
        .compile(cache=Files(folder))
    )


def remembering_subgraph() -> Builder:
    return _around(_pair().compile(checkpointer=True))


def unsaved_subgraph() -> Builder:
    return _around(_pair().compile(checkpointer=False))


def parent_command() -> Builder:
    """A subgraph whose node sends the graph around it on."""

    async def leave(state: Story, config: RunnableConfig) -> Command[Any]:
        note(config, "leave")
        return Command(graph=Command.PARENT, goto="close", update={"words": ["left"]})

    inner = StateGraph(Story).add_node("before", _word("before")).add_node("leave", leave)
    inner.add_edge(START, "before").add_edge("before", "leave")
    builder = StateGraph(Story).add_node("inner", inner.compile()).add_node("close", _word("close"))
    return builder.add_edge(START, "inner").add_edge("close", END)


def goto_with_the_answer() -> Builder:
    """A question whose answer comes with a `goto` to a node beside it."""

    async def ask(state: Story, config: RunnableConfig) -> dict[str, Any]:
        note(config, "ask")
        return {"words": [interrupt("go where?")]}

    builder = StateGraph(Story).add_node("ask", ask)
    builder.add_node("beside", _word("beside")).add_node("close", _word("close"))
    return builder.add_edge(START, "ask").add_edge("ask", "close").add_edge("close", END)


def asking_tasks() -> Any:
    """Tasks, one of which asks, in an entrypoint that goes on after the answer."""

    @task
    async def step(name: str, words: list[str], config: RunnableConfig) -> str:
        note(config, name)
        return interrupt(name) if name == "sort" else name

    @entrypoint()
    async def story(start: dict[str, Any], config: RunnableConfig) -> dict[str, Any]:
        words = list(start["words"])
        for name in STEPS[:3]:
            words.append(await step(name, words))
        return {"words": words, "told": " ".join(words)}

    return story


def append(words: list[str], batch: Sequence[list[str]]) -> list[str]:
    return [*words, *(word for each in batch for word in each)]


class Delta(TypedDict):
    words: Annotated[list[str], DeltaChannel(append, snapshot_frequency=3)]
    told: str


def deltas(at: Any = None) -> Builder:
    """Five steps, each of which adds to a channel that is stored as what was added; `at(step)` is
    awaited in each.
    """
    builder = StateGraph(Delta)

    def node(name: str) -> Any:
        async def step(state: Delta, config: RunnableConfig) -> dict[str, Any]:
            note(config, name)
            given = None if at is None else await at(name)
            return {"words": [name if given is None else given]}

        return step

    names = [f"step {n}" for n in range(5)]
    for name in names:
        builder.add_node(name, node(name))
    for one, next_one in zip((START, *names), (*names, END), strict=True):
        builder.add_edge(one, next_one)
    return builder


EMPTY: dict[str, Any] = {"words": [], "told": ""}

FEATURES: dict[str, tuple[Any, dict[str, Any], list[str]]] = {
    "two-questions": (two_questions, EMPTY, ["first!", "second!", "close"]),
    "ordered-sends": (ordered_sends, EMPTY, [*(f"part {n}" for n in range(5)), "close"]),
    "error-handler": (error_handler, EMPTY, ["beside", "fails mended", "close"]),
    "asking-handler": (asking_handler, EMPTY, ["mend it?!", "close"]),
    "cached": (cached, EMPTY, ["left", "right", "close"]),
    "remembering-subgraph": (remembering_subgraph, EMPTY, ["left", "right", "close"]),
    "unsaved-subgraph": (unsaved_subgraph, EMPTY, ["left", "right", "close"]),
    "parent-command": (parent_command, EMPTY, ["left", "close"]),
    "goto-with-the-answer": (goto_with_the_answer, EMPTY, ["go where?!", "beside", "close"]),
    "asking-tasks": (asking_tasks, EMPTY, [STEPS[0], "sort!", STEPS[2]]),
    "deltas": (deltas, EMPTY, [f"step {n}" for n in range(5)]),
}
"""By name: the graph, what it starts with, and the words that it ends with. `cached` takes a
folder.
"""
