"""A run may be accepted with the classes that its graph's schemas name: all that LangGraph finds,
and more.
"""

from __future__ import annotations

import dataclasses
import enum
from collections.abc import Callable, Mapping, Sequence
from typing import Annotated, Any, Generic, Literal, NamedTuple, NewType, TypedDict, TypeVar

import pydantic
import pytest
from langgraph._internal._serde import collect_allowlist_from_schemas
from langgraph.func import entrypoint
from langgraph.graph import START, StateGraph

from aiodurable.runs.graph_classes import classes_of, graph_classes


class Size(enum.Enum):
    SMALL = "small"


@dataclasses.dataclass
class Item:
    size: Size
    parent: Item | None = None


class Line(NamedTuple):
    item: Item


class Order(pydantic.BaseModel):
    lines: list[Line]
    secret: pydantic.SecretStr


T = TypeVar("T", bound=Order)


@dataclasses.dataclass
class Box(Generic[T]):
    inside: T


class Basket(TypedDict):
    orders: Mapping[str, Order]
    word: str


Number = NewType("Number", Item)


class Plain:
    """LangGraph stores no object of it."""


NAME = __name__
ITEM = {(NAME, "Item"), (NAME, "Size")}
ORDER = ITEM | {(NAME, "Order"), (NAME, "Line"), ("pydantic.types", "SecretStr")}


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        (Item, ITEM),
        (Item | None, ITEM),
        (list[Item], ITEM),
        (Sequence[Item], ITEM),
        (Annotated[dict[str, Item], max], ITEM),
        (Number, ITEM),
        (Callable[[Item], None], ITEM),
        (Order, ORDER),
        (Basket, ORDER),
        (Box[Order], ORDER | {(NAME, "Box")}),
        (T, ORDER),
        (Literal[Size.SMALL], set[Any]()),
        (Plain, set[Any]()),
        (Any, set[Any]()),
        (None, set[Any]()),
        (dict[str, int], set[Any]()),
    ],
)
def test_a_type_names_the_classes_it_is_made_of(given: Any, expected: set[Any]) -> None:
    assert classes_of([given]) == expected
    assert collect_allowlist_from_schemas(schemas=[given]) <= expected


def test_a_field_whose_type_is_not_there_hides_no_other() -> None:
    broken = pydantic.create_model("broken", one=(Item, ...))
    broken.__annotations__["two"] = "NoSuchName"
    assert classes_of([broken]) >= ITEM


def test_a_graph_names_its_schemas_and_those_of_its_nodes_branches_and_subgraphs() -> None:
    class Outer(TypedDict):
        word: str

    class Inner(TypedDict):
        item: Item

    def to_end(state: Any) -> Literal["__end__"]:
        return "__end__"

    inner = (
        StateGraph(Inner).add_node("pass", lambda state: state).add_edge(START, "pass").compile()
    )
    outer = StateGraph(Outer, context_schema=Line).add_node("inner", inner).add_edge(START, "inner")
    outer.add_conditional_edges("inner", to_end)
    assert graph_classes(outer.compile()) == ITEM | {(NAME, "Line")}


def test_a_functional_workflow_names_what_it_takes_and_what_it_returns() -> None:
    async def work(order: Any) -> Any:
        return order.lines

    work.__annotations__ = {"order": Order, "return": list[Line]}
    assert graph_classes(entrypoint()(work)) == ORDER
