"""LangGraph's own suite for checkpointers, on threads that nobody leased and on threads that this
process leased.
"""

from collections.abc import AsyncGenerator

import pytest
from langgraph.checkpoint.conformance import checkpointer_test, validate
from langgraph.checkpoint.conformance.capabilities import Capability

from aiodurable.checkpoints import AsyncCheckpointerPool, DurableSaver
from tests.support.leasing_saver import leasing

LEAST = {
    "put": 17,
    "put_writes": 10,
    "get_tuple": 10,
    "list": 16,
    "delete_thread": 5,
    "delete_for_runs": 7,
    "copy_thread": 8,
    "prune": 8,
}
"""Tests of each capability in the suite's version 0.0.2; a later one may have more."""


@pytest.mark.parametrize("leased", [False, True], ids=["unleased", "leased"])
async def test_the_saver_has_every_capability_of_the_published_suite(
    dsn: str, leased: bool
) -> None:
    @checkpointer_test(name="DurableSaver")
    async def saver() -> AsyncGenerator[DurableSaver, None]:
        async with AsyncCheckpointerPool(dsn) as pool:
            yield leasing(pool) if leased else pool.get_checkpointer()

    report = await validate(saver)

    failures = {name: result.failures for name, result in report.results.items() if result.failures}
    assert not failures
    assert set(report.results) == {capability.value for capability in Capability}
    for name, result in report.results.items():
        counts = (result.tests_failed, result.tests_skipped)
        assert result.detected, f"the suite finds no {name} here: it was skipped"
        assert (result.passed, counts) == (True, (0, 0)), f"{name}: {result}"
        assert result.tests_passed >= LEAST.get(name, 1), f"{name}: fewer tests than the suite had"
