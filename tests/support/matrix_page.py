"""Writes the table of scenarios as a page of the docs: python3 dev.py run python -m
tests.support.matrix_page
"""

from __future__ import annotations

import importlib
from pathlib import Path

from tests.support.scenarios import SCENARIOS, Scenario

REPOSITORY = Path(__file__).parents[2]
PAGE = REPOSITORY / "docs" / "reference" / "status-matrix.md"

_HEAD = """# The matrix of statuses

{count} threads of plain LangGraph. Real graphs made them, and some of their processes were killed with SIGKILL. People
wrote down the true status of each. A test compares it with the status that aiodurable computes from the tables, and with
the one that `aget_state` suggests (an error: failed; a question: interrupted; something next: crashed; else complete).

- aiodurable is right for {right}. For the other {doubted} the tables do not show enough, and it says so (`doubt`).
- `aget_state` is wrong for {wrong}, without any sign. It also needs the graph.

[The statuses and their rules](../explanation/status.md).

| what happened | graph | true status | `aget_state` | aiodurable |
|---|---|---|---|---|
"""


def page() -> str:
    """The whole page, from the scenarios that are registered."""
    truths = [case.truth for case in SCENARIOS]
    wrong = sum(truth.stock is not None and truth.stock != truth.status for truth in truths)
    doubted = sum(truth.blind is not None and truth.blind != truth.status for truth in truths)
    head = _HEAD.format(
        count=len(truths), right=len(truths) - doubted, doubted=doubted, wrong=wrong
    )
    return head + "".join(map(_row, SCENARIOS))


def _row(case: Scenario) -> str:
    truth = case.truth
    stands = truth.status + (f" ({', '.join(truth.pending)})" if truth.pending else "")
    stock = truth.stock or truth.status
    suggested = stock if isinstance(stock, str) else " or ".join(stock)
    ours = truth.blind or truth.status
    cells = [
        case.name.replace("_", " "),
        case.graph.replace("_", " "),
        stands.replace("_", r"\_"),
        suggested if suggested == truth.status else f"**{suggested}**",
        ours if ours == truth.status else f"**{ours}**, in doubt",
    ]
    return f"| {' | '.join(cells)} |\n"


if __name__ == "__main__":
    importlib.import_module("tests.integration.threads.test_matrix")  # registers the scenarios
    PAGE.write_text(page())
