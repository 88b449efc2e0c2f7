"""The drawing of a graph: what a browser can lay out."""

from __future__ import annotations

import contextlib
import json
import re
from html import unescape
from typing import Any, TypedDict

import psycopg
import pytest
from langgraph.graph import END, START, StateGraph
from langgraph.types import interrupt

from aiodurable import Durable, Settings
from aiodurable.checkpoints.row_reader import RowReader
from aiodurable.dashboard.thread_graph import Progress, drawing_of
from tests.dashboard.conftest import Opened

UNTOUCHED = Progress({}, {}, {})


class State(TypedDict):
    text: str


def routers(count: int) -> Any:
    """Each node may lead to each, and to the end."""
    builder = StateGraph(State)
    names = [f"n{number}" for number in range(count)]
    for name in names:
        builder.add_node(name, lambda state: state)
        builder.add_conditional_edges(name, lambda state: "n0", [*names, END])
    return builder.add_edge(START, "n0").compile()


def test_a_graph_with_few_edges_is_drawn() -> None:
    drawn = drawing_of(routers(5), UNTOUCHED, ())
    assert drawn.note is None
    assert len(drawn.nodes) == 7
    assert {"from": "__start__", "to": "n0", "label": "", "conditional": False} in drawn.edges


def test_a_graph_with_more_edges_than_a_browser_lays_out_is_not_drawn() -> None:
    drawn = drawing_of(routers(40), UNTOUCHED, ())
    assert drawn.note is not None
    assert "too many to draw" in drawn.note
    assert (drawn.nodes, drawn.edges) == ((), ())


def states_of(page: str) -> dict[str, str]:
    """The states of the nodes that a page draws, by their ids."""
    (data,) = re.findall(r'data-graph="([^"]*)"', page)
    nodes = json.loads(unescape(data))["nodes"]
    states = {node["id"]: node["state"] for node in nodes}
    assert len(states) == len(nodes)
    return states


def nested(last: Any) -> Any:
    """A graph with a subgraph in a subgraph, whose last node is given."""
    inner = StateGraph(State).add_node("search", done).add_node("rank", last)
    inner.add_edge(START, "search").add_edge("search", "rank")
    middle = StateGraph(State).add_node("plan", done).add_node("look", inner.compile())
    middle.add_node("write", done)
    middle.add_edge(START, "plan").add_edge("plan", "look").add_edge("look", "write")
    outer = StateGraph(State).add_node("research", middle.compile()).add_edge(START, "research")
    return outer.compile(name="nested")


async def done(state: State) -> dict[str, str]:
    return {"text": "done"}


async def fails(state: State) -> dict[str, str]:
    raise ValueError("broken")


async def asks(state: State) -> dict[str, str]:
    return {"text": interrupt("may I?")}


@pytest.mark.parametrize(("last", "state"), [(fails, "failed"), (asks, "waiting")])
async def test_the_nodes_of_opened_subgraphs_stand_as_they_do(
    opened: Opened, dsn: str, last: Any, state: str
) -> None:
    graphs = {"nested": nested(last)}
    async with Durable(dsn, graphs=graphs, settings=Settings()) as durable:
        async with durable.run("t", "nested") as run:
            with contextlib.suppress(ValueError):
                await run.ainvoke({"text": ""})
        client = opened(of=durable)
        page = (await client.get("/thread?id=t&open=research,research:look")).text
        states = states_of(page)
        assert states["research:plan"] == "done"
        assert states["research:look:search"] == "done"
        assert states["research:look:rank"] == state
        assert states["research:write"] == "idle"
        closed = (await client.get("/thread?id=t")).text
        assert states_of(closed)["research"] == state


async def test_a_checkpoint_of_a_subgraph_is_read_once(
    opened: Opened, dsn: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A page that is followed asks every second, and an inner state may have megabytes."""
    read = list[list[Any]]()
    original = RowReader.inner_progress

    async def inner_progress(reader: RowReader, *asked: Any) -> Any:
        rows = await original(reader, *asked)
        read.append(sorted(row["checkpoint_ns"] for row in rows if row["seen"] is not None))
        return rows

    monkeypatch.setattr(RowReader, "inner_progress", inner_progress)
    async with Durable(dsn, graphs={"nested": nested(asks)}, settings=Settings()) as durable:
        async with durable.run("t", "nested") as run:
            await run.ainvoke({"text": ""})
        client = opened(of=durable)
        address = "/thread?id=t&open=research,research:look"
        first, second = (await client.get(address)).text, (await client.get(address)).text
    assert [len(names) for names in read] == [2, 0]
    graph = re.compile(r'data-graph="([^"]*)"')
    assert graph.findall(first) == graph.findall(second) != []


async def test_a_thread_whose_subgraphs_ran_thousands_of_times_shows_those_under_way(
    opened: Opened, dsn: str
) -> None:
    async with Durable(dsn, graphs={"nested": nested(asks)}, settings=Settings()) as durable:
        async with durable.run("t", "nested") as run:
            await run.ainvoke({"text": ""})
        with psycopg.connect(dsn, autocommit=True) as connection:
            connection.execute(
                "INSERT INTO checkpoints (thread_id, checkpoint_ns, checkpoint_id, checkpoint, metadata)"
                " SELECT thread_id, 'earlier:' || n, '0-' || n, checkpoint, metadata"
                " FROM checkpoints, generate_series(1, 2000) n"
                " WHERE checkpoint_ns = '' AND metadata ->> 'source' = 'input'"
            )
        page = await opened(of=durable).get("/thread?id=t&open=research,research:look")
    states = states_of(page.text)
    assert states["research:plan"] == "done"
    assert states["research:look:rank"] == "waiting"


@pytest.mark.parametrize(
    "damaged",
    ['{"versions_seen": 3, "updated_channels": null}', '{"updated_channels": [null, 3, {}]}', "7"],
)
async def test_a_damaged_checkpoint_of_a_subgraph_says_nothing(
    opened: Opened, dsn: str, damaged: str
) -> None:
    async with Durable(dsn, graphs={"nested": nested(asks)}, settings=Settings()) as durable:
        async with durable.run("t", "nested") as run:
            await run.ainvoke({"text": ""})
        with psycopg.connect(dsn, autocommit=True) as connection:
            connection.execute(
                "UPDATE checkpoints SET checkpoint = %s WHERE checkpoint_ns LIKE 'research%%'"
                " AND checkpoint_ns NOT LIKE '%%|%%'",
                (damaged,),
            )
        page = await opened(of=durable).get("/thread?id=t&open=research,research:look")
    assert page.status_code == 200
    states = states_of(page.text)
    assert states["research:plan"] == "idle"
    assert states["research:look:search"] == "done"
