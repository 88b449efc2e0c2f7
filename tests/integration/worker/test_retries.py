"""A run that a person has tried again is executed by workers with all its attempts."""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Any

import pytest

from aiodurable.durable import Durable
from aiodurable.models import ClaimState, RunStatus
from aiodurable.queue import RetryPolicy
from aiodurable.settings import Settings
from tests.support.scenario_graphs import BREAKS, chain, ok

INPUT: dict[str, Any] = {"xs": ["in"]}


@pytest.fixture
async def durable(dsn: str) -> AsyncIterator[Durable]:
    async with Durable(dsn, graphs={"chain": chain(a=ok("a"))}, settings=Settings()) as opened:
        yield opened


async def test_a_run_that_failed_too_often_has_all_its_attempts_again(durable: Durable) -> None:
    BREAKS.add("a")
    policy = RetryPolicy(max_attempts=2, initial_s=0.05)
    await durable.runs.create("t", "chain", INPUT, run_id="r", retry_policy=policy)
    async with durable.work():
        for _ in range(2):
            record = await durable.runs.wait_first(["r"], timeout=20)
            assert (record.status, record.attempts) == (RunStatus.QUARANTINED, 2)
            again = await durable.runs.retry("r")
            assert again.claim_state is not None
        BREAKS.clear()
        assert (await durable.runs.wait_first(["r"], timeout=20)).status is RunStatus.COMPLETE


async def test_a_run_that_waited_too_long_can_be_tried_again(durable: Durable) -> None:
    await durable.runs.create("t", "chain", INPUT, run_id="r", start_timeout=0.001)
    async with durable.work():
        assert (await durable.runs.wait_first(["r"], timeout=20)).reason == "waited too long"
        again = await durable.runs.retry("r")
        assert (again.status, again.claim_state) == (RunStatus.QUEUED, ClaimState.READY)
        assert await durable.runs.wait("r", timeout=20) == {"xs": ["in", "a"]}
