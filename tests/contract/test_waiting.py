"""Tests wait for facts, never for time: `tests/support/waiting.py` polls, and nobody else sleeps."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

TESTS = Path(__file__).parents[1]

MEANT = {
    "faults/test_failover.py": "failures at random moments, and a standby that lags by seconds",
    "integration/queue/test_cancel_states.py": "what a node sleeps of a run that holds nothing",
    "integration/worker/test_not_begun.py": "what a node sleeps of a run that holds nothing",
    "integration/worker/test_worker.py": "what a node sleeps of a run that holds nothing",
    "integration/worker/test_asleep.py": "what a node sleeps of a run that holds nothing",
    "integration/worker/test_durable_time.py": "what a node sleeps of a run that holds nothing",
    "integration/testing/test_drain.py": "sleeps of runs, through which time passes without waiting",
    "support/sleeping_graph.py": "what a node sleeps of a run that holds nothing",
    "programs/frozen_effect_process.py": "a node that blocks the event loop, or does not",
    "programs/frozen_process.py": "a node that blocks the event loop, or does not",
    "programs/campaign_creator.py": "cancellations at random moments",
    "programs/worker_campaign.py": "kills at random moments, for minutes",
    "programs/worker_soak.py": "a look at a count, which a poll every 10 ms would load",
    "programs/worker_process.py": "a step that takes time",
    "programs/web_process.py": "a step that takes time",
    "browser/shown.py": "steps that take time, and one that sleeps durably",
    "support/campaign_effects.py": "a side effect that waits for Postgres",
    "support/campaign_faults.py": "faults at random moments",
    "support/waiting.py": "the one that polls",
    "integration/integrations/test_metrics.py": "a client that reads nothing for a while",
}
"""Where time is what the test is about."""


def sleeps(source: str) -> Iterator[int]:
    """The lines that wait for time: calls of a `sleep` with anything but 0."""
    for node in ast.walk(ast.parse(source)):
        if not isinstance(node, ast.Call):
            continue
        name = getattr(node.func, "attr", getattr(node.func, "id", ""))
        yields = [ast.unparse(argument) for argument in node.args] == ["0"]
        if name == "sleep" and not yields:
            yield node.lineno


def test_no_test_sleeps() -> None:
    found = {
        name: lines
        for path in sorted(TESTS.rglob("*.py"))
        if (name := str(path.relative_to(TESTS))) not in MEANT
        if (lines := list(sleeps(path.read_text())))
    }
    assert not found, f"wait for a fact instead (tests/support/waiting.py): {found}"


@pytest.mark.parametrize("name", MEANT)
def test_an_exception_is_still_one(name: str) -> None:
    assert list(sleeps((TESTS / name).read_text()))


@pytest.mark.parametrize(
    ("source", "found"),
    [
        ("time.sleep(0.5)", [1]),
        ("await asyncio.sleep(delay)", [1]),
        ("await asyncio.sleep(delay=1)", [1]),
        ("await asyncio.sleep(0)", []),
        ("await wait_until(done)", []),
    ],
)
def test_a_sleep_is_found(source: str, found: list[int]) -> None:
    assert list(sleeps(source)) == found
