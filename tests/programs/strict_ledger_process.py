"""`python strict_ledger_process.py DSN`: what runs are accepted with under strict msgpack, and what
they get back.

Prints a line for each case. `LANGGRAPH_STRICT_MSGPACK` must change none of them.
"""

import contextlib
import dataclasses
import enum
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple, NotRequired, TypedDict

sys.path.insert(0, str(Path(__file__).parents[2]))

import pydantic
from langchain_core.messages import AnyMessage, HumanMessage
from langchain_core.runnables import RunnableConfig
from langgraph.func import entrypoint
from langgraph.graph import START, StateGraph
from langgraph.runtime import Runtime
from langgraph.types import interrupt

from aiodurable import Durable, Settings
from aiodurable.errors import InvalidArgumentError
from tests.support import loops
from tests.support.internals import services_of


class Size(enum.Enum):
    SMALL = "small"


@dataclasses.dataclass
class Item:
    name: str
    size: Size = Size.SMALL


class Order(pydantic.BaseModel):
    item: Item


class Line(NamedTuple):
    amount: int


@dataclasses.dataclass
class Terms:
    days: int


@dataclasses.dataclass
class Foreign:
    """In no schema."""

    name: str


class State(TypedDict):
    messages: list[AnyMessage]
    orders: dict[str, Order]
    lines: Sequence[Line]  # LangGraph's own collector passes this by
    extra: NotRequired[Any]
    seen: NotRequired[list[str]]


broken = True


def fail_once() -> None:
    if broken:
        raise ConnectionError("no route")


def names(*values: Any) -> list[str]:
    return [type(value).__name__ for value in values]


async def look(state: State, config: RunnableConfig, runtime: Runtime[Terms]) -> dict[str, Any]:
    fail_once()
    order, line = state["orders"]["first"], state["lines"][0]
    values = (state["messages"][0], order, order.item, order.item.size, line, state.get("extra"))
    size = config.get("configurable", {}).get("size")
    return {"seen": names(*values, runtime.context, size)}


async def ask(state: State) -> dict[str, Any]:
    answer = interrupt("which one?")
    fail_once()
    return {"seen": names(answer)}


@entrypoint(
    context_schema=Terms
)  # reads its annotations as they are: this file must not make strings of them
async def working(order: Order) -> list[str]:
    fail_once()
    return names(order, order.item)


INPUT: dict[str, Any] = {
    "messages": [HumanMessage("tea")],
    "orders": {"first": Order(item=Item("tea"))},
    "lines": [Line(3)],
}
SHOP: Any = StateGraph(State, context_schema=Terms).add_node("look", look).add_edge(START, "look")
QUESTION: Any = StateGraph(State, context_schema=Terms).add_node("ask", ask).add_edge(START, "ask")
GRAPHS = {"shop": SHOP, "question": QUESTION, "working": working}


async def accepted(
    durable: Durable, graph: str, thread_id: str, input: Any, context: Any = None
) -> None:
    """A run whose process died before its first checkpoint."""
    async with durable.hold(thread_id) as lease:
        await services_of(durable).ledger.start(
            f"run of {thread_id}",
            fence=lease.fence,
            graph=graph,
            input=input,
            context=context,
            config={"configurable": {"size": Size.SMALL}},
            base_checkpoint_id=None,
            closing=None,
        )


async def comes_back(durable: Durable) -> None:
    global broken  # noqa: PLW0603
    broken = False
    await accepted(durable, "shop", "input", INPUT, Terms(3))
    print("input, context, config:", *(await durable.threads.resume("input"))["seen"])
    await accepted(durable, "working", "entrypoint", INPUT["orders"]["first"])
    print("entrypoint:", *await durable.threads.resume("entrypoint"))
    broken = True
    async with durable.run("answer", "question") as run:
        await run.ainvoke({"messages": []})
        with contextlib.suppress(ConnectionError):
            await run.answer(Item("tea"))
    broken = False
    print("answer:", *(await durable.threads.resume("answer"))["seen"])


async def refused(durable: Durable, foreign: Any) -> None:
    cases: dict[str, tuple[Any, dict[str, Any]]] = {
        "input": ({**INPUT, "extra": [{"deep": foreign}]}, {}),
        "context": (INPUT, {"context": foreign}),
        "config": (INPUT, {"config": {"configurable": {"size": foreign}}}),
    }
    for what, (given, options) in cases.items():
        async with durable.run(f"refused {what}", "shop", **options) as run:
            try:
                await run.ainvoke(given)
            except InvalidArgumentError as error:
                print("refused:", error.argument, error)
        print("then:", (await durable.threads.status(f"refused {what}")).status)
    async with durable.run("refused answer", "question") as run:
        await run.ainvoke({"messages": []})
        try:
            await run.answer(foreign)
        except InvalidArgumentError as error:
            print("refused:", error.argument, error)
        print("then:", run.checkpoint.status)
        print("and:", *(await run.answer("a plain one"))["seen"])


async def allowed(dsn: str) -> None:
    settings = Settings(allowed_msgpack_modules=(Foreign,))
    async with Durable(dsn, graphs=GRAPHS, settings=settings) as durable:
        await accepted(durable, "shop", "allowed", {**INPUT, "extra": Foreign("tea")})
        print("allowed:", *(await durable.threads.resume("allowed"))["seen"])


async def main(dsn: str) -> None:
    async with Durable(dsn, graphs=GRAPHS, settings=Settings()) as durable:
        await comes_back(durable)
        await refused(durable, Foreign("tea"))
    await allowed(dsn)


if __name__ == "__main__":
    sys.modules["strict_ledger_process"] = sys.modules["__main__"]
    for one in (Size, Item, Order, Line, Terms, Foreign, State):
        one.__module__ = "strict_ledger_process"
    loops.run(main(sys.argv[1]))
