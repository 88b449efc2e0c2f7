"""Threads with queued runs: their status is honest, and nothing else passes for their runs."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

import pytest

from aiodurable.durable import Durable
from aiodurable.models import RunStatus, ThreadStatus
from tests.support.internals import services_of
from tests.support.scenario_graphs import BREAKS, chain, ok

INPUT: dict[str, Any] = {"xs": []}


async def test_a_thread_with_only_queued_runs_is_queued_and_shows_the_next(
    durable: Durable,
) -> None:
    runs = [await durable.runs.create("t", "chain", INPUT) for _ in range(3)]
    thread = await durable.threads.get("t")
    assert (thread.status, thread.run_id, thread.graph) == ("queued", runs[0].run_id, "chain")
    assert thread.updated_at is not None
    assert [t.thread_id async for t in durable.threads.search(status="queued")] == ["t"]
    assert (await durable.threads.count(status="queued")).by_status == {ThreadStatus.QUEUED: 1}


async def test_a_direct_run_goes_before_the_queue_and_closes_nothing_of_it(
    durable: Durable,
) -> None:
    waiting = await durable.runs.create("t", "chain", INPUT)
    async with durable.run("t", chain(a=ok("a"))) as run:
        assert run.status == "new"
        assert await run.ainvoke(INPUT) == {"xs": ["a"]}
        assert await run.ainvoke(INPUT) == {"xs": ["a", "a"]}
    assert (await durable.runs.get(waiting.run_id)).status is RunStatus.QUEUED
    thread = await durable.threads.get("t")
    assert (thread.status, thread.run_id) == ("queued", waiting.run_id)


async def test_a_failed_run_in_front_of_the_queue_is_shown_and_resumed(durable: Durable) -> None:
    BREAKS.add("a")
    with pytest.raises(ValueError, match="broken"):
        async with durable.run("t", chain(a=ok("a"))) as run:
            await run.ainvoke(INPUT)
    waiting = await durable.runs.create("t", "chain", INPUT)
    assert waiting.claim_state == "blocked"
    thread = await durable.threads.get("t")
    assert (thread.status, thread.failed_node) == ("failed", "a")
    BREAKS.clear()
    async with durable.run("t", chain(a=ok("a"))) as run:
        assert await run.ainvoke() == {"xs": ["a"]}
        assert run.resumed
    assert (await durable.threads.get("t")).run_id == waiting.run_id


async def test_a_prune_leaves_a_thread_alone_that_has_a_queued_run(durable: Durable) -> None:
    async with durable.run("t", chain(a=ok("a"))) as run:
        await run.ainvoke(INPUT)
    services = services_of(durable.threads)
    before = await services.threads.status("t")
    waiting = await durable.runs.create("t", "chain", INPUT)
    assert before.status == "complete"
    report = await durable.threads.prune(strategy="delete", older_than=datetime.now(UTC))
    assert report.threads == 0
    assert (await durable.runs.get(waiting.run_id)).status is RunStatus.QUEUED
