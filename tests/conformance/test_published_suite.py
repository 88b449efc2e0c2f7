"""LangGraph's own suite for checkpointers, on threads that nobody leased and on threads that this process leased."""

from collections.abc import AsyncGenerator
from typing import Any

import pytest
from langgraph.checkpoint.conformance import checkpointer_test, validate
from langgraph.checkpoint.conformance.capabilities import Capability

from aiodurable.checkpoints import AsyncCheckpointerPool, DurableSaver

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


class Leasing(DurableSaver):
    """Leases every thread when it is first written, as a run would before it starts."""

    pool: AsyncCheckpointerPool

    async def aput(self, config: Any, checkpoint: Any, metadata: Any, new_versions: Any) -> Any:
        thread_id = config["configurable"]["thread_id"]
        if self.fences.of(thread_id) is None:
            self.fences.hold(await self.pool.new_fence(thread_id))
        return await super().aput(config, checkpoint, metadata, new_versions)


def leasing(pool: AsyncCheckpointerPool) -> DurableSaver:
    plain = pool.get_checkpointer()
    saver = Leasing.__new__(Leasing)
    saver.__dict__.update(plain.__dict__, pool=pool)
    return saver


@pytest.mark.parametrize("leased", [False, True], ids=["unleased", "leased"])
async def test_the_saver_has_every_capability_of_the_published_suite(dsn: str, leased: bool) -> None:
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
