"""`durable.queues`, and resuming many threads."""

from __future__ import annotations

from datetime import timedelta
from typing import Any

import asyncpg
import pytest
from langgraph.checkpoint.postgres.aio import AsyncPostgresSaver

from aiodurable.durable import Durable
from aiodurable.errors import GraphNotRegisteredError, InvalidArgumentError, LockTimeoutError
from aiodurable.models import ClaimState
from aiodurable.postgres import locked_rows
from aiodurable.worker.claims import Claims
from tests.support.internals import services_of
from tests.support.scenario_graphs import BREAKS, chain, ok
from tests.support.waiting import within

INPUT: dict[str, Any] = {"xs": []}


async def test_a_queue_shows_what_waits_in_it_and_its_limits(durable: Durable) -> None:
    assert await durable.queues.list() == ()
    await durable.runs.create("t", "chain", INPUT)
    await durable.runs.create("t", "chain", INPUT)
    await durable.runs.create("u", "chain", INPUT, after=60, queue="slow")
    await durable.queues.scale("slow", max_running=2, max_running_per_key=1, rate=5, burst=10)
    await durable.queues.pause("idle")
    default, idle, slow = await durable.queues.list()
    assert (default.name, default.ready, default.blocked) == ("default", 1, 1)
    assert default.oldest_ready_at is not None
    assert (idle.name, idle.paused, idle.ready) == ("idle", True, 0)
    assert (slow.name, slow.scheduled, slow.max_running) == ("slow", 1, 2)
    assert (slow.max_running_per_key, slow.rate, slow.burst) == (1, 5.0, 10)
    await durable.queues.resume("idle")
    await durable.queues.scale("slow")
    _, idle, slow = await durable.queues.list()
    assert (idle.paused, slow.max_running, slow.rate) == (False, None, None)


@pytest.mark.parametrize("change", ["scale", "resume"])
async def test_a_changed_limit_lets_what_waited_for_it_be_claimed(
    durable: Durable, dsn: str, change: str
) -> None:
    import psycopg

    run = await durable.runs.create("t", "chain", INPUT)
    with psycopg.connect(dsn) as connection:
        connection.execute("UPDATE aiodurable_runs SET claim_state = 'limited'")
    assert (await durable.queues.list())[0].limited == 1
    await getattr(durable.queues, change)("default")
    assert (await durable.runs.get(run.run_id)).claim_state is ClaimState.READY


async def test_a_locked_run_keeps_a_changed_limit_from_nothing(
    durable: Durable, db: asyncpg.Connection
) -> None:
    for run_id in ("locked", "other"):
        await durable.runs.create(run_id, "chain", INPUT, run_id=run_id, concurrency_key=run_id)
    await db.execute("UPDATE aiodurable_runs SET claim_state = 'limited'")
    async with db.transaction():
        await db.execute("SELECT FROM aiodurable_runs WHERE run_id = 'locked' FOR UPDATE")
        await within(15, durable.queues.scale("default"), what="the new limits")
        assert (await durable.runs.get("other")).claim_state is ClaimState.READY
    await Claims(services_of(durable), ["default"]).tidy([])
    assert (await durable.runs.get("locked")).claim_state is ClaimState.READY


@pytest.mark.parametrize("change", ["scale", "pause", "resume"])
async def test_a_queue_whose_row_stays_locked_is_left_as_it_is(
    durable: Durable, db: asyncpg.Connection, change: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(locked_rows, "PATIENCE_S", 0.3)
    await durable.queues.scale("default", max_running=1)
    async with db.transaction():
        await db.execute("SELECT FROM aiodurable_queues FOR UPDATE")
        with pytest.raises(LockTimeoutError, match="idle in a transaction"):
            await within(15, getattr(durable.queues, change)("default"), what="the error")


@pytest.mark.parametrize(
    "limits",
    [
        {"max_running": -1},
        {"max_running_per_key": 2**31},
        {"rate": 0},
        {"rate": float("nan")},
        {"burst": 3},
        {"rate": 1, "burst": 0},
    ],
    ids=str,
)
async def test_limits_that_cannot_be_meant_are_refused(
    durable: Durable, limits: dict[str, Any]
) -> None:
    with pytest.raises(InvalidArgumentError):
        await durable.queues.scale("q", **limits)
    with pytest.raises(InvalidArgumentError):
        await durable.queues.pause("")
    assert await durable.queues.list() == ()


async def test_many_threads_are_resumed_also_those_of_plain_langgraph(dsn: str) -> None:
    BREAKS.add("a")
    builder = chain(a=ok("a"))
    async with AsyncPostgresSaver.from_conn_string(dsn) as saver:
        with pytest.raises(ValueError, match="broken"):
            await builder.compile(checkpointer=saver).ainvoke(
                INPUT, {"configurable": {"thread_id": "plain"}}
            )
    async with Durable(dsn, graphs={"chain": builder}) as durable:
        for thread_id in ("t1", "t2"):
            with pytest.raises(ValueError, match="broken"):
                async with durable.run(thread_id, "chain") as run:
                    await run.ainvoke(INPUT)
        would = await durable.runs.resume_many(dry_run=True)
        assert would.resumed == ("plain", "t1", "t2")
        BREAKS.clear()
        report = await durable.runs.resume_many(concurrency=2)
        assert report.resumed == ("t1", "t2")
        assert isinstance(report.failed["plain"], GraphNotRegisteredError)
        report = await durable.runs.resume_many(
            default_graph="chain", newer_than=timedelta(hours=1), status="failed"
        )
        assert (report.resumed, dict(report.failed)) == (("plain",), {})
        assert (await durable.threads.get("plain")).status == "complete"
