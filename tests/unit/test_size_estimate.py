"""What is serialised off the event loop: what would block it for long, and nothing else."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from langchain_core.messages import HumanMessage
from langgraph.checkpoint.serde.jsonplus import JsonPlusSerializer

from aiodurable.checkpoints.size_estimate import HEAVY_BYTES, looks_large, stored_large


@dataclass
class Tide:
    height: float = 2.5


@dataclass(slots=True)
class Wave:
    height: float = 0.5


@dataclass
class Chart:
    path: Path

    @property
    def nbytes(self) -> int:
        return self.path.stat().st_size


@pytest.mark.parametrize(
    "value",
    [
        ["x" * 1024] * 200,
        b"x" * 200_000,
        list(range(10_000)),
        [HumanMessage("good morning") for _ in range(50)],
        {"tides": [Tide() for _ in range(50)]},
    ],
    ids=["text", "bytes", "numbers", "messages", "dataclasses"],
)
def test_what_takes_less_than_a_hop_to_another_thread_is_not_large(value: Any) -> None:
    assert not looks_large((value,))


@pytest.mark.parametrize(
    "value",
    [
        ["x" * 1024] * 300,
        [HumanMessage("good morning") for _ in range(100)],
        {"tides": [Tide() for _ in range(100)]},
        [Wave() for _ in range(100)],
    ],
    ids=["text", "messages", "dataclasses", "slots"],
)
def test_much_text_is_large_and_so_are_many_small_objects(value: Any) -> None:
    assert looks_large((value,))


def test_several_values_are_large_together() -> None:
    assert not looks_large(("x" * 200_000,))
    assert looks_large(("x" * 200_000, "y" * 200_000))


def test_a_value_that_cannot_be_weighed_can_be_stored() -> None:
    chart = Chart(Path("no such file"))
    assert looks_large((chart,))
    serde = JsonPlusSerializer()
    assert serde.loads_typed(serde.dumps_typed(chart)) == chart


def test_stored_values_count_by_their_bytes() -> None:
    half = b"x" * (HEAVY_BYTES // 2)
    assert not stored_large((half, None, half))
    assert stored_large((half, half, b"x"))
