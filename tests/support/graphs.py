"""Real graphs for tests, the same in this process and in those that are killed.

Every node appends its name to the file in `config["configurable"]["log"]`, one line a call: what
ran, across processes.
"""

from __future__ import annotations

import asyncio
import operator
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, TypedDict

from langchain_core.runnables import RunnableConfig
from langgraph.func import entrypoint, task
from langgraph.graph import END, START, StateGraph
from langgraph.types import Send, interrupt

if TYPE_CHECKING:
    from aiodurable import Durable

STEPS = ("collect", "sort", "weigh", "tell")
INPUT: dict[str, Any] = {"words": [], "told": ""}
"""An empty input of the graphs with these steps."""


def config(log: Path) -> Any:
    """The config whose nodes write their names to `log`."""
    return {"configurable": {"log": str(log)}}


class Gate:
    """Stops the run before one step until it is opened."""

    def __init__(self, at: str) -> None:
        self.at = at
        self.reached, self.open = asyncio.Event(), asyncio.Event()

    async def __call__(self, step: str) -> None:
        if step == self.at:
            self.reached.set()
            await self.open.wait()


class Story(TypedDict):
    words: Annotated[list[str], operator.add]
    told: str


def note(config: RunnableConfig, what: str) -> None:
    """Append one line to the run's log; a single small write in append mode is atomic."""
    if path := config.get("configurable", {}).get("log"):
        with Path(path).open("a") as log:
            log.write(what + "\n")


def noted(path: Path) -> list[str]:
    """The lines of a run's log."""
    return path.read_text().splitlines() if path.exists() else []


def four_nodes(before_step: Any = None) -> StateGraph[Any, Any, Any, Any]:
    """collect → sort → weigh → tell. `before_step(name)` is called, and awaited, in each node."""
    builder = StateGraph(Story)

    def node(name: str) -> Any:
        async def step(state: Story, config: RunnableConfig) -> dict[str, Any]:
            note(config, name)
            if before_step is not None:
                await before_step(name)
            return {"words": [name], "told": " ".join([*state["words"], name])}

        return step

    for name in STEPS:
        builder.add_node(name, node(name))
    for one, next_one in zip((START, *STEPS), (*STEPS, END), strict=True):
        builder.add_edge(one, next_one)
    return builder


async def run_up_to(gate: Gate, durable: Durable, **options: Any) -> asyncio.Task[Any]:
    """Run `four_nodes` on thread "t" in a task, and return the task once the run is at the gate.

    Raises what ended the run if it never gets there.
    """

    async def body() -> Any:
        async with durable.run("t", four_nodes(gate), **options) as run:
            return await run.ainvoke(INPUT)

    task = asyncio.create_task(body())
    if not await reached(gate, task):
        raise AssertionError(f"the run ended before {gate.at!r}: {await task}")
    return task


async def reached(gate: Gate, task: asyncio.Task[Any]) -> bool:
    """Wait until the run in `task` is at the gate; False if it ends before."""
    waiting = asyncio.create_task(gate.reached.wait())
    await asyncio.wait({task, waiting}, return_when=asyncio.FIRST_COMPLETED)
    waiting.cancel()
    return gate.reached.is_set()


def four_tasks(before_step: Any = None) -> Any:
    """The same work as a functional workflow."""

    @task
    async def step(name: str, words: list[str], config: RunnableConfig) -> str:
        note(config, name)
        if before_step is not None:
            await before_step(name)
        return " ".join([*words, name])

    @entrypoint()
    async def story(start: dict[str, Any]) -> dict[str, Any]:
        words, told = list(start["words"]), ""
        for name in STEPS:
            told = await step(name, words)
            words.append(name)
        return {"words": words, "told": told}

    return story


def asking() -> StateGraph[Any, Any, Any, Any]:
    """collect → ask (interrupts) → tell."""
    builder = StateGraph(Story)

    async def collect(state: Story, config: RunnableConfig) -> dict[str, Any]:
        note(config, "collect")
        return {"words": ["collect"]}

    async def ask(state: Story, config: RunnableConfig) -> dict[str, Any]:
        note(config, "ask")
        return {"words": [str(interrupt({"question": "which word?"}))]}

    async def tell(state: Story, config: RunnableConfig) -> dict[str, Any]:
        note(config, "tell")
        return {"told": " ".join(state["words"])}

    for name, node in {"collect": collect, "ask": ask, "tell": tell}.items():
        builder.add_node(name, node)
    for one, next_one in [(START, "collect"), ("collect", "ask"), ("ask", "tell"), ("tell", END)]:
        builder.add_edge(one, next_one)
    return builder


class Fan(TypedDict):
    parts: Annotated[list[int], operator.add]
    total: int


def fan_out(width: int = 3, inner: Any = None) -> StateGraph[Any, Any, Any, Any]:
    """split → `width` parallel parts by Send → join; `inner(number)` is awaited in each part."""
    builder = StateGraph(Fan)

    async def split(state: Fan, config: RunnableConfig) -> dict[str, Any]:
        note(config, "split")
        return {}

    async def part(state: dict[str, int], config: RunnableConfig) -> dict[str, Any]:
        note(config, f"part {state['number']}")
        if inner is not None:
            await inner(state["number"])
        return {"parts": [state["number"]]}

    async def join(state: Fan, config: RunnableConfig) -> dict[str, Any]:
        note(config, "join")
        return {"total": sum(state["parts"])}

    builder.add_node("split", split)
    builder.add_node("part", part)
    builder.add_node("join", join)
    builder.add_edge(START, "split")
    builder.add_conditional_edges(
        "split", lambda _: [Send("part", {"number": n}) for n in range(width)], ["part"]
    )
    builder.add_edge("part", "join")
    builder.add_edge("join", END)
    return builder


def side_by_side() -> StateGraph[Any, Any, Any, Any]:
    """open → left and right in one step → close, which waits for both."""
    builder = StateGraph(Story)

    def node(name: str) -> Any:
        async def step(state: Story, config: RunnableConfig) -> dict[str, Any]:
            note(config, name)
            return {"told": " ".join(state["words"])} if name == "close" else {"words": [name]}

        return step

    for name in ("open", "left", "right", "close"):
        builder.add_node(name, node(name))
    builder.add_edge(START, "open")
    for name in ("left", "right"):
        builder.add_edge("open", name)
    builder.add_edge(["left", "right"], "close")
    return builder.add_edge("close", END)


def nested(before_step: Any = None) -> StateGraph[Any, Any, Any, Any]:
    """open → inner (a subgraph of four nodes) → close."""
    builder = StateGraph(Story)

    async def opening(state: Story, config: RunnableConfig) -> dict[str, Any]:
        note(config, "open")
        return {"words": ["open"]}

    async def closing(state: Story, config: RunnableConfig) -> dict[str, Any]:
        note(config, "close")
        return {"told": state["told"] + "."}

    builder.add_node("open", opening)
    builder.add_node("inner", four_nodes(before_step).compile())
    builder.add_node("close", closing)
    for one, next_one in [(START, "open"), ("open", "inner"), ("inner", "close"), ("close", END)]:
        builder.add_edge(one, next_one)
    return builder
