"""Bytes have one text, in the terminal and on the pages."""

from __future__ import annotations

import pytest

from aiodurable.byte_size import byte_size
from aiodurable.dashboard.state_tree import tree_of


@pytest.mark.parametrize(
    ("count", "text"),
    [
        (0, "0 B"),
        (999, "999 B"),
        (1000, "1.0 kB"),
        (1024, "1.0 kB"),
        (5_000_000, "5.0 MB"),
        (25 * 10**9, "25.0 GB"),
        (1_234 * 10**12, "1,234.0 TB"),
    ],
)
def test_bytes_are_in_the_largest_decimal_unit(count: int, text: str) -> None:
    assert byte_size(count) == text


def test_bytes_of_a_state_are_shown_as_those_of_a_table() -> None:
    assert tree_of(("raw",), b"x" * 5_000_000, None).kind == "bytes, 5.0 MB"
