"""A plan that reads too much is named with its node, its budget and what was found."""

from __future__ import annotations

from typing import Any

import pytest

from tests.support.plan_budget import Budget, overruns


def node(kind: str, rows: int, pages: int = 1, **more: Any) -> dict[str, Any]:
    counted = {"Actual Rows": rows, "Actual Loops": 1}
    blocks = {"Shared Hit Blocks": pages, "Shared Read Blocks": 0}
    return {"Node Type": kind, **counted, **blocks, **more}


BY_INDEX = {"Index Name": "runs_thread", "Relation Name": "runs"}
BY_THREAD = {"Index Name": "checkpoints_thread_id_idx", "Relation Name": "checkpoints"}
BY_RUNS = "Index Scan using runs_thread on runs (5 rows)"
FRUGAL = node("Limit", 0, Plans=[node("Index Scan", 5, **BY_INDEX)])


@pytest.mark.parametrize(
    ("plan", "budget", "found"),
    [
        (FRUGAL, Budget(5, 1, {"runs_thread"}), []),
        (
            FRUGAL,
            Budget(4, 1),
            [f"{BY_RUNS}: the plan reads 5 rows; budget: 4"],
        ),
        (
            node("Limit", 0, 90, Plans=[node("Index Scan", 5, 89, **BY_INDEX)]),
            Budget(5, 50),
            [f"{BY_RUNS}: the plan reads 90 pages; budget: 50"],
        ),
        (
            FRUGAL,
            Budget(5, 1, {"runs_pkey"}),
            [f"{BY_RUNS}: not an index that the comment names; budget: runs_pkey"],
        ),
        (
            node("Seq Scan", 3, **{"Relation Name": "runs"}),
            Budget(5, 1),
            ["Seq Scan on runs (3 rows): scans the whole table; budget: an index"],
        ),
        (node("Seq Scan", 3, **{"Relation Name": "runs"}), Budget(5, 1, scanned=("runs",)), []),
        (FRUGAL, Budget(5, 1, scanned=("runs",)), ["no scan of runs; budget: one, which can go"]),
        (node("Seq Scan", 3, **{"Relation Name": "pg_class"}), Budget(5, 1), []),
        (node("Index Scan", 1, **BY_THREAD), Budget(5, 1, {"checkpoints_pkey"}), []),
        (node("Index Scan", 1, **BY_INDEX, Alias="own_1"), Budget(5, 1, set()), []),
    ],
)
def test_an_overrun_names_the_node_what_was_found_and_the_budget(
    plan: dict[str, Any], budget: Budget, found: list[str]
) -> None:
    assert overruns(plan, budget, ("runs", "checkpoints")) == found
