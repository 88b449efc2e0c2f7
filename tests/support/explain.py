"""What EXPLAIN (FORMAT json) says of a statement."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any


def nodes(node: dict[str, Any]) -> Iterator[dict[str, Any]]:
    """The plan's node, and all below it."""
    yield node
    for child in node.get("Plans", ()):
        yield from nodes(child)


def rows(plan: dict[str, Any]) -> float:
    """With ANALYZE: rows that were read, and pairs of rows that were compared."""
    return sum(map(rows_of, nodes(plan)))


def rows_of(node: dict[str, Any]) -> float:
    """The same of one node, without those below it."""
    read = node["Actual Rows"] if node["Node Type"].endswith("Scan") else 0
    return node["Actual Loops"] * (
        read + sum(node[key] for key in node if key.startswith("Rows Removed by"))
    )
