"""`jsonable`: any value becomes JSON that every reader takes, and none raises."""

from __future__ import annotations

import json
import math
from dataclasses import dataclass
from datetime import UTC, date, datetime, timedelta
from decimal import Decimal
from enum import Enum
from typing import Any
from uuid import UUID

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import BaseModel

from aiodurable.jsonable import json_text, jsonable


def refuse(constant: str) -> Any:
    raise ValueError(f"{constant} is not JSON")


def read_back(value: Any) -> Any:
    return json.loads(json_text(value).encode("ascii"), parse_constant=refuse)


@dataclass
class Point:
    x: int
    y: float


class Model(BaseModel):
    when: date
    raw: bytes


class Colour(Enum):
    RED = b"red"


class Rude:
    def __repr__(self) -> str:
        raise RuntimeError("no")

    __str__ = __repr__


class RudeDict(dict[str, Any]):
    def items(self) -> Any:
        raise RuntimeError("no")


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        ({"a": [1, 2.5, None, True, "é"]}, {"a": [1, 2.5, None, True, "é"]}),
        (math.nan, "NaN"),
        ([math.inf, -math.inf], ["Infinity", "-Infinity"]),
        (b"\xff\x00", "b'\\xff\\x00'"),
        ({("a", 1): 1, 2: 2, None: 3, True: 4}, {"('a', 1)": 1, "2": 2, "None": 3, "True": 4}),
        ({1: "int", "1": "text"}, {"1": "int", "1 (str)": "text"}),
        (2**53, "9007199254740992"),
        (-(2**53) + 1, -(2**53) + 1),
        (10**5000, hex(10**5000)),
        ("\ud800", "\\ud800"),
        ({"\udcff": 1}, {"\\udcff": 1}),
        ((1, (2,)), [1, [2]]),
        ({3}, [3]),
        (datetime(2026, 1, 2, tzinfo=UTC), "2026-01-02T00:00:00+00:00"),
        (timedelta(minutes=1), 60.0),
        (UUID(int=1), "00000000-0000-0000-0000-000000000001"),
        (Decimal("1.10"), "1.10"),
        (Colour.RED, "b'red'"),
        (Point(1, math.nan), {"x": 1, "y": "NaN"}),
        (Model(when=date(2026, 1, 2), raw=b"\xff"), {"when": "2026-01-02", "raw": "b'\\xff'"}),
        ([Rude(), 1], ["<Rude>", 1]),
        ({Rude(): 1}, {"<Rude>": 1}),
        ([RudeDict(a=1), 1], ["<RudeDict>", 1]),
        (int, "<class 'int'>"),
    ],
    ids=lambda value: type(value).__name__,
)
def test_each_kind_of_value_has_a_form(value: Any, expected: Any) -> None:
    assert read_back(value) == expected


def test_what_contains_itself_ends() -> None:
    ring: list[Any] = [1]
    ring += [ring, ring]
    assert read_back(ring) == [1, "<list that contains itself>", "<list that contains itself>"]
    twice = [1]
    assert read_back([twice, twice]) == [[1], [1]]


def test_what_is_nested_deeper_than_readers_go_is_cut() -> None:
    deep: Any = "end"
    for _ in range(100_000):
        deep = [deep]
    found, depth = read_back(deep), 0
    while isinstance(found, list):
        [found], depth = found, depth + 1
    assert found == "<list, nested too deep>"
    assert depth <= 200


anything = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats()
    | st.text(st.characters())
    | st.text(st.characters(categories=["Cs"]))
    | st.binary()
    | st.datetimes()
    | st.complex_numbers(),
    lambda inner: (
        st.lists(inner)
        | st.tuples(inner, inner)
        | st.dictionaries(
            st.text() | st.integers() | st.none() | st.binary() | st.tuples(st.text()), inner
        )
    ),
    max_leaves=30,
)


@given(anything)
def test_whatever_it_is_becomes_json_of_one_printable_line(value: Any) -> None:
    text = json_text(value)
    assert text.isascii()
    assert text.isprintable()
    json.loads(text, parse_constant=refuse)
    assert jsonable(jsonable(value)) == jsonable(value)
