"""The graphs of the scenarios, by name: one for each way LangGraph has of going from node to
node.
"""

from __future__ import annotations

import asyncio
import operator
from collections.abc import Callable
from dataclasses import dataclass
from typing import Annotated, Any, TypedDict

from langgraph.channels import EphemeralValue, LastValue
from langgraph.channels.delta import DeltaChannel
from langgraph.checkpoint.base import BaseCheckpointSaver
from langgraph.func import entrypoint, task
from langgraph.graph import END, START, StateGraph
from langgraph.pregel import NodeBuilder, Pregel
from langgraph.types import Command, RetryPolicy, Send, interrupt

Saver = BaseCheckpointSaver[Any]
Graph = Pregel[Any, Any, Any, Any]
GRAPHS: dict[str, Callable[[Saver], Graph]] = {}

BREAKS: set[str] = set()
"""Nodes that raise, in this process: a scenario mends a node by taking its name out."""
STARTED = asyncio.Event()


class State(TypedDict, total=False):
    xs: Annotated[list[str], operator.add]
    go: Any


class Part(TypedDict):
    n: int


def graph(build: Callable[[], StateGraph[Any, Any, Any, Any]]) -> None:
    GRAPHS[build.__name__] = lambda saver: build().compile(checkpointer=saver)


def ok(name: str) -> Any:
    async def node(state: Any) -> dict[str, Any]:
        if name in BREAKS:
            raise ValueError(f"{name} is broken")
        return {"xs": [name]}

    return node


async def boom(state: Any) -> Any:
    raise ValueError("broken")


async def slow(state: Any) -> Any:
    STARTED.set()
    await asyncio.Event().wait()


def asks(*questions: str) -> Any:
    async def node(state: Any) -> dict[str, Any]:
        return {"xs": [str(interrupt(question)) for question in questions]}

    return node


def asks_of_one(*questions: str) -> Any:
    """Of three that are sent, the second asks."""

    async def node(state: Any) -> dict[str, Any]:
        return {
            "xs": (
                [str(interrupt(question)) for question in questions]
                if state["n"] == 1
                else [str(state["n"])]
            )
        }

    return node


def chain(**nodes: Any) -> StateGraph[Any, Any, Any, Any]:
    builder = StateGraph(State)
    for name, node in nodes.items():
        builder.add_node(name, node)
    names = list(nodes)
    for one, next_one in zip([START, *names], [*names, END], strict=True):
        builder.add_edge(one, next_one)
    return builder


def fan(b: Any, c: Any, d: Any = None) -> StateGraph[Any, Any, Any, Any]:
    """a → b and c → d, which waits for both."""
    builder = StateGraph(State)
    for name, node in {"a": ok("a"), "b": b, "c": c, "d": d or ok("d")}.items():
        builder.add_node(name, node)
    builder.add_edge(START, "a")
    builder.add_edge("a", "b")
    builder.add_edge("a", "c")
    builder.add_edge(["b", "c"], "d")
    return builder


@graph
def linear() -> Any:
    return chain(a=ok("a"), b=ok("b"))


@graph
def linear_slow() -> Any:
    return chain(a=ok("a"), b=slow)


@graph
def silent() -> Any:
    async def nothing(state: Any) -> None:
        return None

    return chain(a=nothing, b=nothing)


@graph
def with_retry() -> Any:
    tries: list[int] = []

    async def flaky(state: Any) -> dict[str, Any]:
        tries.append(1)
        if len(tries) < 2:
            raise ConnectionError("once")
        return {"xs": ["a"]}

    builder = StateGraph(State)
    builder.add_node("a", flaky, retry_policy=RetryPolicy(initial_interval=0.001, jitter=False))
    builder.add_edge(START, "a")
    return builder


@graph
def fan_out() -> Any:
    return fan(ok("b"), ok("c"))


@graph
def fan_out_slow() -> Any:
    async def late(state: Any) -> Any:
        await STARTED.wait()
        raise ValueError("broken")

    return fan(late, slow)


@graph
def fan_out_both_slow() -> Any:
    return fan(slow, slow)


@graph
def fan_out_asks() -> Any:
    return fan(asks("b?"), ok("c"))


@graph
def fan_out_both_ask() -> Any:
    return fan(asks("b?"), asks("c?"))


@graph
def fan_out_uneven() -> Any:
    """b is one step long, c two; d joins b and c2."""
    builder = StateGraph(State)
    for name in ("a", "b", "c", "c2", "d"):
        builder.add_node(name, ok(name))
    builder.add_edge(START, "a")
    builder.add_edge("a", "b")
    builder.add_edge("a", "c")
    builder.add_edge("c", "c2")
    builder.add_edge(["b", "c2"], "d")
    return builder


def sending(part: Any) -> StateGraph[Any, Any, Any, Any]:
    builder = StateGraph(State)
    builder.add_node("a", ok("a"))
    builder.add_node("part", part)
    builder.add_node("z", ok("z"))
    builder.add_edge(START, "a")
    builder.add_conditional_edges(
        "a", lambda _: [Send("part", {"n": n}) for n in range(3)], ["part"]
    )
    builder.add_edge("part", "z")
    return builder


@graph
def sends() -> Any:
    async def part(state: Any) -> dict[str, Any]:
        if state["n"] == 1 and "part" in BREAKS:
            raise ValueError("the second part is broken")
        return {"xs": [f"part {state['n']}"]}

    return sending(part)


@graph
def sends_asking() -> Any:
    async def part(state: Any) -> dict[str, Any]:
        return {"xs": [str(interrupt("part 1?") if state["n"] == 1 else state["n"])]}

    return sending(part)


def routing(router: Callable[[Any], Any]) -> StateGraph[Any, Any, Any, Any]:
    builder = StateGraph(State)
    builder.add_node("a", ok("a"))
    builder.add_node("b", ok("b"))
    builder.add_edge(START, "a")
    builder.add_conditional_edges("a", router, ["b", END])
    return builder


@graph
def router_goes_on() -> Any:
    return routing(lambda _: "b")


@graph
def router_ends() -> Any:
    return routing(lambda _: END)


@graph
def router_raises() -> Any:
    return routing(lambda _: 1 / 0)


@graph
def router_raises_at_start() -> Any:
    builder = StateGraph(State)
    builder.add_node("a", ok("a"))
    builder.add_conditional_edges(START, lambda _: 1 / 0, ["a"])
    return builder


@graph
def router_raises_beside_others() -> Any:
    builder = fan(ok("b"), ok("c"))
    builder.add_conditional_edges("b", lambda _: 1 / 0, ["d"])
    return builder


@graph
def command_goto() -> Any:
    async def a(state: Any) -> Any:
        return Command(goto="b", update={"xs": ["a"]})

    builder = StateGraph(State)
    builder.add_node("a", a, destinations=("b",))
    builder.add_node("b", ok("b"))
    builder.add_edge(START, "a")
    return builder


@graph
def command_goto_send() -> Any:
    async def a(state: Any) -> Any:
        return Command(goto=[Send("b", {"n": 1}), Send("b", {"n": 2})])

    builder = StateGraph(State)
    builder.add_node("a", a, destinations=("b",))
    builder.add_node("b", ok("b"))
    builder.add_edge(START, "a")
    return builder


@graph
def deferred() -> Any:
    """a → b → b2 and a → d, deferred until nothing else is left."""
    builder = StateGraph(State)
    for name in ("a", "b", "b2"):
        builder.add_node(name, ok(name))
    builder.add_node("d", ok("d"), defer=True)
    builder.add_edge(START, "a")
    builder.add_edge("a", "b")
    builder.add_edge("b", "b2")
    builder.add_edge("a", "d")
    return builder


@graph
def deferred_join() -> Any:
    builder = StateGraph(State)
    for name in ("a", "b", "c"):
        builder.add_node(name, ok(name))
    builder.add_node("d", ok("d"), defer=True)
    builder.add_edge(START, "a")
    builder.add_edge("a", "b")
    builder.add_edge("a", "c")
    builder.add_edge(["b", "c"], "d")
    return builder


@graph
def subgraph() -> Any:
    return chain(a=ok("a"), inner=chain(i=ok("i"), j=ok("j")).compile(), z=ok("z"))


@graph
def subgraph_of_subgraph() -> Any:
    deep = chain(i=ok("i"), j=ok("j")).compile()
    return chain(a=ok("a"), inner=chain(deep=deep).compile(), z=ok("z"))


@graph
def subgraph_asking() -> Any:
    return chain(a=ok("a"), inner=chain(i=ok("i"), j=asks("j?")).compile(), z=ok("z"))


@graph
def subgraph_asking_in_two_nodes() -> Any:
    return chain(a=ok("a"), inner=chain(i=asks("q1?"), j=asks("q2?")).compile(), z=ok("z"))


@graph
def subgraph_asking_twice() -> Any:
    return chain(a=ok("a"), inner=chain(j=asks("q1?", "q2?")).compile(), z=ok("z"))


@graph
def called_subgraph_asking_twice() -> Any:
    called = chain(j=asks("q1?", "q2?")).compile()

    async def inner(state: Any) -> Any:
        return {"xs": (await called.ainvoke({"xs": []}))["xs"]}

    return chain(a=ok("a"), inner=inner, z=ok("z"))


@graph
def subgraph_called_twice_asking() -> Any:
    called = chain(j=asks("q?")).compile()

    async def inner(state: Any) -> Any:
        first = await called.ainvoke({"xs": []})
        return {"xs": [*first["xs"], str(interrupt("between?"))]}

    return chain(inner=inner, z=ok("z"))


@graph
def sent_subgraph_asking_twice() -> Any:
    class Told(State, Part): ...

    part = StateGraph(Told, input_schema=Part, output_schema=State)
    part.add_node("j", asks_of_one("q1?", "q2?"))
    part.add_edge(START, "j")
    return sending(part.compile())


@graph
def deep_subgraph_asking_twice() -> Any:
    deep = chain(j=asks("q1?", "q2?")).compile()
    return chain(a=ok("a"), inner=chain(deep=deep).compile(), z=ok("z"))


@graph
def subgraph_with_memory_asking_twice() -> Any:
    return chain(a=ok("a"), inner=chain(j=asks("q1?", "q2?")).compile(checkpointer=True), z=ok("z"))


@graph
def deep_memory_asking_twice() -> Any:
    deep = chain(j=asks("q1?", "q2?")).compile(checkpointer=True)
    return chain(a=ok("a"), inner=chain(deep=deep).compile(), z=ok("z"))


@graph
def subgraph_asking_side_by_side() -> Any:
    inner = StateGraph(State)
    inner.add_node("i", asks("i1?", "i2?"))
    inner.add_node("j", asks("j?"))
    inner.add_edge(START, "i")
    inner.add_edge(START, "j")
    return chain(inner=inner.compile(), z=ok("z"))


@graph
def subgraph_with_memory() -> Any:
    return chain(a=ok("a"), inner=chain(i=ok("i"), j=ok("j")).compile(checkpointer=True), z=ok("z"))


@graph
def subgraph_to_parent() -> Any:
    async def i(state: Any) -> Any:
        return Command(graph=Command.PARENT, goto="z", update={"xs": ["i"]})

    builder = StateGraph(State)
    builder.add_node("inner", chain(i=i).compile(), destinations=("z",))
    builder.add_node("z", ok("z"))
    builder.add_edge(START, "inner")
    return builder


@graph
def ask() -> Any:
    return chain(a=ok("a"), ask=asks("q?"), z=ok("z"))


@graph
def ask_twice() -> Any:
    return chain(ask=asks("q1?", "q2?"), z=ok("z"))


@graph
def ask_then_break() -> Any:
    async def node(state: Any) -> Any:
        interrupt("q?")
        raise ValueError("broken")

    return chain(ask=node)


@graph
def ask_when_mended() -> Any:
    async def node(state: Any) -> Any:
        if "ask" in BREAKS:
            raise ValueError("broken")
        return {"xs": [str(interrupt("q?"))]}

    return chain(ask=node)


@dataclass
class Answer:
    yes: bool


@graph
def ask_for_a_form() -> Any:
    async def node(state: Any) -> Any:
        return {"xs": [str(interrupt("q?", response_schema=Answer).yes)]}

    return chain(ask=node)


def handling(handler: Any) -> StateGraph[Any, Any, Any, Any]:
    builder = StateGraph(State)
    builder.add_node("a", boom, error_handler=handler)
    builder.add_node("b", ok("b"))
    builder.add_edge(START, "a")
    builder.add_edge("a", "b")
    return builder


@graph
def handled() -> Any:
    return handling(ok("handler"))


@graph
def handler_raises() -> Any:
    async def handler(state: Any) -> Any:
        raise KeyError("the handler is broken")

    return handling(handler)


def functional(build: Callable[[Saver], Any]) -> None:
    GRAPHS[build.__name__] = build


@functional
def tasks(saver: Saver) -> Any:
    @task
    async def step(name: str) -> str:
        if name in BREAKS:
            raise ValueError(f"{name} is broken")
        return name

    @entrypoint(checkpointer=saver)
    async def story(given: Any) -> list[str]:
        return [await step("one"), await step("two")]

    return story


@functional
def tasks_asking(saver: Saver) -> Any:
    @task
    async def step(name: str) -> str:
        return name

    @entrypoint(checkpointer=saver)
    async def story(given: Any) -> list[str]:
        return [await step("one"), str(interrupt("q?"))]

    return story


@functional
def tasks_that_ask(saver: Saver) -> Any:
    @task
    async def step(name: str) -> list[str]:
        return [name, str(interrupt("q1?")), str(interrupt("q2?"))]

    @entrypoint(checkpointer=saver)
    async def story(given: Any) -> list[str]:
        return await step("one")

    return story


@functional
def tasks_remembering(saver: Saver) -> Any:
    @entrypoint(checkpointer=saver)
    async def story(given: Any, *, previous: Any = None) -> Any:
        return entrypoint.final(value="told", save=(previous or 0) + 1)

    return story


class Delta(TypedDict):
    xs: Annotated[
        list[str], DeltaChannel(lambda old, new: [*old, *(x for some in new for x in some)])
    ]


@graph
def delta() -> Any:
    builder = StateGraph(Delta)
    builder.add_node("a", ok("a"))
    builder.add_node("b", ok("b"))
    builder.add_edge(START, "a")
    builder.add_edge("a", "b")
    return builder


@graph
def delta_asking() -> Any:
    builder = StateGraph(Delta)
    builder.add_node("a", ok("a"))
    builder.add_node("ask", asks("q1?", "q2?"))
    builder.add_edge(START, "a")
    builder.add_edge("a", "ask")
    return builder


@functional
def agent(saver: Saver) -> Any:
    from langchain_core.language_models.fake_chat_models import GenericFakeChatModel
    from langchain_core.messages import AIMessage
    from langgraph.prebuilt import (
        create_react_agent,  # pyright: ignore[reportDeprecated]  # the one with no extra package
    )

    class Model(GenericFakeChatModel):
        def bind_tools(self, *args: Any, **kwargs: Any) -> Any:
            return self

    def look(where: str) -> str:
        """Look somewhere."""
        if "look" in BREAKS:
            raise ValueError("nothing to see")
        return f"seen {where}"

    call = {"name": "look", "args": {"where": "there"}, "id": "1"}
    model = Model(messages=iter([AIMessage("", tool_calls=[call]), AIMessage("done")]))
    return create_react_agent(model, [look], checkpointer=saver)  # pyright: ignore[reportDeprecated]


@functional
def raw_pregel(saver: Saver) -> Any:
    return Pregel(
        nodes={
            "one": NodeBuilder().subscribe_only("xs").do(lambda xs: xs).write_to("b"),
            "two": NodeBuilder().subscribe_only("b").do(boom_raw).write_to("c"),
        },
        channels={"xs": EphemeralValue(list), "b": EphemeralValue(list), "c": LastValue(list)},
        input_channels=["xs"],
        output_channels=["c"],
        checkpointer=saver,
    )


def boom_raw(value: Any) -> Any:
    if "two" in BREAKS:
        raise ValueError("broken")
    return value
