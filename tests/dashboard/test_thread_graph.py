"""The drawing of a graph: what a browser can lay out."""

from __future__ import annotations

from typing import Any, TypedDict

from langgraph.graph import END, START, StateGraph

from aiodurable.dashboard.thread_graph import Progress, drawing_of

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
