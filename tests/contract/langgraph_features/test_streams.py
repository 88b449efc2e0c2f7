"""What a stream hands out: nothing of ours, and of a stored result the shape that a live one
has.
"""

from __future__ import annotations

import itertools
import json
from collections.abc import AsyncIterator, Iterator, Mapping
from typing import Any

import pytest
from langchain_core.runnables import RunnableConfig
from langgraph.graph import END, START, StateGraph
from pydantic import BaseModel

from aiodurable.durable import Durable
from aiodurable.errors import LeaseLostError
from tests.support.graphs import INPUT, four_nodes, four_tasks, nested


def configs(chunk: Any) -> Iterator[dict[str, Any]]:
    """The configurable part of every config in a chunk, however deep."""
    if isinstance(chunk, Mapping):
        if isinstance(found := chunk.get("configurable"), dict):
            yield found
        for value in chunk.values():
            yield from configs(value)
    elif isinstance(chunk, (list, tuple)):
        for value in chunk:
            yield from configs(value)


@pytest.mark.parametrize("version", ["v1", "v2"])
@pytest.mark.parametrize("mode", ["checkpoints", "debug", "tasks"])
async def test_no_config_of_a_stream_carries_the_lease(
    durable: Durable, mode: str, version: str
) -> None:
    async with durable.run("t", nested()) as run:
        chunks = [
            chunk
            async for chunk in run.astream(
                INPUT, stream_mode=[mode], subgraphs=True, version=version
            )
        ]
    found = [each for chunk in chunks for each in configs(chunk)]
    assert bool(found) is (mode != "tasks")
    json.dumps(found)
    for each in found:
        assert not [key for key in each if key.startswith("__")]


async def test_a_streams_config_used_after_the_run_is_a_plain_one(durable: Durable) -> None:
    """Under a new lease it writes as that lease; under none, as plain LangGraph does."""
    graph = four_nodes().compile(checkpointer=durable.checkpointer)
    chunks: list[Any] = []
    async with durable.run("t", graph) as run:
        async for chunk in run.astream(INPUT, stream_mode="checkpoints"):
            chunks.append(chunk)
    async with durable.run("t", graph):
        await graph.aupdate_state(chunks[-1]["config"], {"told": "under a lease"})
    assert (await graph.aget_state({"configurable": {"thread_id": "t"}})).values[
        "told"
    ] == "under a lease"
    await graph.aupdate_state(chunks[-1]["config"], {"told": "under none"})
    assert (await graph.aget_state({"configurable": {"thread_id": "t"}})).values[
        "told"
    ] == "under none"


async def test_what_a_node_is_given_of_ours_has_a_name_that_langgraph_strips(
    durable: Durable,
) -> None:
    seen: list[RunnableConfig] = []

    async def look(state: Any, config: RunnableConfig) -> Any:
        seen.append(config)
        return {}

    builder = StateGraph(dict).add_node("look", look).add_edge(START, "look").add_edge("look", END)
    async with durable.run("t", builder) as run:
        await run.ainvoke({})
    configurable = seen[0]["configurable"]  # pyright: ignore[reportTypedDictNotRequiredAccess]
    rest = {key: value for key, value in configurable.items() if not key.startswith("__pregel_")}
    assert json.loads(json.dumps(rest))["thread_id"] == "t"


async def test_the_config_of_an_update_carries_nothing_of_ours_either(durable: Durable) -> None:
    async with durable.run("t", four_nodes()) as run:
        await run.ainvoke(INPUT)
        updated = await run.aupdate_state({"told": "changed"})
        state = await run.aget_state()
    for config in (updated, state.config, state.parent_config):
        assert not [key for each in configs(config) for key in each if key.startswith("__")]
    json.dumps([updated, state.config, state.parent_config])


async def test_a_runs_own_config_is_refused_after_the_run(durable: Durable) -> None:
    """`run.config` means this lease: a task that outlives the body must not write without one."""
    graph = four_nodes().compile(checkpointer=durable.checkpointer)
    async with durable.run("t", graph) as run:
        await run.ainvoke(INPUT)
        kept = run.config
    with pytest.raises(LeaseLostError):
        await graph.aupdate_state(kept, {"told": "too late"})


class Report(BaseModel):
    words: list[str] = []
    told: str = ""


def typed() -> StateGraph[Any, Any, Any, Any]:
    """Its output is a model: "v2" gives that, "v1" a dict."""
    builder = StateGraph(Report, output_schema=Report)

    async def tell(state: Report) -> dict[str, Any]:
        return {"told": " ".join([*state.words, "told"])}

    builder.add_node("tell", tell)
    return builder.add_edge(START, "tell").add_edge("tell", END)


MODES: list[Any] = ["values", ["values"], ["updates", "values"], "updates"]
SHAPES: dict[str, tuple[Any, dict[str, Any]]] = {
    "nodes": (four_nodes, INPUT),
    "tasks": (four_tasks, INPUT),
    "typed": (typed, {"words": ["once"], "told": ""}),
}

OPTIONS: list[dict[str, Any]] = [
    {},
    {"subgraphs": True},
    {"version": "v2"},
    {"version": "v2", "subgraphs": True},
    {"output_keys": "told"},
    {"output_keys": ["told"]},
    {"output_keys": ["told"], "version": "v2"},
]


async def both(
    durable: Durable, shape: str, call: Any
) -> AsyncIterator[tuple[dict[str, Any], Any, Any]]:
    """`call(run, input, options)` when it ran, and of what was stored then, with every combination
    of options.
    """
    build, start = SHAPES[shape]
    for options, modes in itertools.product(OPTIONS, MODES):
        if shape == "tasks" and "output_keys" in options:
            continue  # an entrypoint has one output
        given = {**options, "stream_mode": modes}
        results: list[Any] = []
        for _ in range(2):
            async with durable.run(str(given), build(), run_id=str(given)) as run:
                results.append(await call(run, start, given))
        yield given, *results


@pytest.mark.parametrize("shape", SHAPES)
async def test_a_stored_result_is_streamed_as_the_last_values_were(
    durable: Durable, shape: str
) -> None:
    async def streamed(run: Any, start: Any, options: dict[str, Any]) -> list[Any]:
        return [chunk async for chunk in run.astream(start, **options)]

    async for options, live, stored in both(durable, shape, streamed):
        # "updates" says which node gave what, which a result does not tell
        assert stored == ([] if options["stream_mode"] == "updates" else live[-1:]), options


@pytest.mark.parametrize("shape", SHAPES)
async def test_a_stored_result_is_returned_as_it_was(durable: Durable, shape: str) -> None:
    async def returned(run: Any, start: Any, options: dict[str, Any]) -> Any:
        options.pop("subgraphs", None)
        return await run.ainvoke(start, **options)

    async for options, live, stored in both(durable, shape, returned):
        if options["stream_mode"] == "values":
            assert (type(stored), stored) == (type(live), live), options
        else:
            assert stored == ([] if options["stream_mode"] == "updates" else live[-1:]), options


async def test_a_stored_result_has_no_output_of_an_unknown_name(durable: Durable) -> None:
    async with durable.run("t", four_nodes(), run_id="r") as run:
        await run.ainvoke(INPUT)
    async with durable.run("t", four_nodes(), run_id="r") as run:
        with pytest.raises(ValueError, match="nothing_of_that_name"):
            await run.ainvoke(INPUT, output_keys="nothing_of_that_name")
