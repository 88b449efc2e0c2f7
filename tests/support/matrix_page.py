"""The table of scenarios as a page of the docs. To write it anew: python3 dev.py run python -m
tests.support.matrix_page
"""

from __future__ import annotations

import importlib
from pathlib import Path

from tests.support.scenarios import SCENARIOS, Scenario

REPOSITORY = Path(__file__).parents[2]
PAGE = REPOSITORY / "docs" / "reference" / "status-matrix.md"

_HEAD = """# The matrix of statuses

{count} threads as life leaves them, each brought about by a real graph, in plain LangGraph, and killed with SIGKILL where it
says so. How each stands is said by hand; a test compares that with what aiodurable tells from the tables, and with what
`aget_state` makes one believe (an error: failed; a question: interrupted; something next: crashed; else complete).

- aiodurable is right in {right}. In the other {doubted} the tables cannot tell; it says so (`doubt`).
- `aget_state` is wrong in {wrong}, without a sign. It needs the graph.

[What each status means, and the rules](../explanation/status.md).

| what happened | graph | stands | `aget_state` says | aiodurable says |
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
    told = stock if isinstance(stock, str) else " or ".join(stock)
    ours = truth.blind or truth.status
    cells = [
        case.name.replace("_", " "),
        case.graph.replace("_", " "),
        stands.replace("_", r"\_"),
        told if told == truth.status else f"**{told}**",
        ours if ours == truth.status else f"**{ours}**, in doubt",
    ]
    return f"| {' | '.join(cells)} |\n"


if __name__ == "__main__":
    importlib.import_module("tests.integration.threads.test_matrix")  # registers the scenarios
    PAGE.write_text(page())
