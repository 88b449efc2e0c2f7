"""What had stopped when its process died is not gone on with: a worker only says so in its row."""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Any

import psycopg
import pytest

from aiodurable.durable import Durable
from aiodurable.models import RunRecord, RunStatus, ThreadStatus
from aiodurable.settings import Settings
from tests.support.scenario_graphs import asks, chain, ok

INPUT: dict[str, Any] = {"xs": ["in"]}
GRAPHS: dict[str, Any] = {
    "open": chain(a=ok("a"), b=ok("b")),
    "before": chain(a=ok("a"), b=ok("b"), c=ok("c")).compile(interrupt_before=["b"]),
    "after": chain(a=ok("a"), b=ok("b"), c=ok("c")).compile(interrupt_after=["a"]),
    "before all": chain(a=ok("a"), b=ok("b")).compile(interrupt_before="*"),
    "after all": chain(a=ok("a"), b=ok("b")).compile(interrupt_after="*"),
    "asking": chain(a=ok("a"), b=asks("which?")),
}


@pytest.fixture
async def durable(dsn: str) -> AsyncIterator[Durable]:
    async with Durable(dsn, graphs=GRAPHS, settings=Settings()) as opened:
        yield opened


def leave(dsn: str) -> None:
    """As if the process had died before it could write how the run ended."""
    with psycopg.connect(dsn, autocommit=True) as connection:
        connection.execute(
            b"UPDATE aiodurable_runs SET status = 'running', status_reason = NULL,"
            b" finished_at = NULL, checkpoint_id = NULL, claim_state = NULL,"
            b" attempted_by = 'gone:1'"
        )


async def left_at_its_end(durable: Durable, dsn: str, graph: str, **options: Any) -> str | None:
    """The checkpoint at which it ended."""
    await durable.runs.create("t", graph, INPUT, run_id="r", **options)
    async with durable.run("t", graph, run_id="r") as run:
        await run.ainvoke()
    ended_at = (await durable.runs.get("r")).checkpoint_id
    leave(dsn)
    return ended_at


async def settled(durable: Durable) -> RunRecord:
    async with durable.work():
        # a server that has just started says only after the grace whose process is gone
        return await durable.runs.wait_first(["r"], timeout=40)


@pytest.mark.parametrize("graph", ["before", "after", "before all", "after all"])
async def test_a_worker_does_not_pass_the_gate_at_which_its_predecessor_died(
    durable: Durable, dsn: str, graph: str
) -> None:
    ended_at = await left_at_its_end(durable, dsn, graph)
    record = await settled(durable)
    assert (record.status, record.reason) == (RunStatus.PAUSED, "breakpoint")
    assert record.checkpoint_id == ended_at
    thread = await durable.threads.get("t")
    assert (thread.status, thread.checkpoint_id) == (ThreadStatus.PAUSED, ended_at)


async def test_a_gate_that_was_passed_does_not_stop_the_worker_that_goes_on(
    durable: Durable, dsn: str
) -> None:
    await left_at_its_end(durable, dsn, "before")
    await settled(durable)
    with psycopg.connect(dsn, autocommit=True) as connection:
        # a person went on, and that process died before it had written a checkpoint
        connection.execute(b"UPDATE aiodurable_runs SET attempt_base_checkpoint_id = checkpoint_id")
    leave(dsn)
    assert (await settled(durable)).status is RunStatus.COMPLETE


@pytest.mark.parametrize(
    ("graph", "status"),
    [("open", RunStatus.COMPLETE), ("asking", RunStatus.INTERRUPTED), ("before", RunStatus.PAUSED)],
)
async def test_the_only_attempt_of_a_run_counts_where_its_process_died_after_it_stopped(
    durable: Durable, dsn: str, graph: str, status: RunStatus
) -> None:
    await left_at_its_end(durable, dsn, graph, max_attempts=1)
    assert (await settled(durable)).status is status


async def test_the_only_attempt_of_a_run_is_not_followed_by_another_where_its_process_died(
    durable: Durable, dsn: str
) -> None:
    await left_at_its_end(durable, dsn, "before", max_attempts=1)
    with psycopg.connect(dsn, autocommit=True) as connection:
        connection.execute(
            b"UPDATE aiodurable_runs SET attempt_base_checkpoint_id = (SELECT c.checkpoint_id"
            b" FROM checkpoints c ORDER BY c.checkpoint_id DESC LIMIT 1)"
        )
    record = await settled(durable)
    assert (record.status, record.reason) == (RunStatus.QUARANTINED, "crashed")
    assert "died" in (record.error or "")
