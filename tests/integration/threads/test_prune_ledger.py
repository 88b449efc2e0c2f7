"""Pruning bounds the ledger and the fences too, and makes no run start over."""

from __future__ import annotations

from collections.abc import AsyncIterator
from datetime import timedelta
from pathlib import Path
from typing import Any

import psycopg
import pytest

from aiodurable import Durable, LeaseLostError, ThreadStatus
from aiodurable.checkpoints.fences import Fence
from aiodurable.checkpoints.write_session import WriteSession
from aiodurable.locks import PostgresLockManager
from aiodurable.threads import PruneReport
from aiodurable.threads.prune import FENCE_KEPT
from tests.support.graphs import STEPS, four_nodes, noted
from tests.support.ledger_view import Ledger

NOW = timedelta(0)
INPUT: dict[str, Any] = {"words": ["in"], "told": ""}
AGE = """UPDATE aiodurable_runs
         SET created_at = created_at - interval '1 hour', started_at = started_at - interval '1 hour',
             finished_at = finished_at - interval '1 hour'"""
"""As if every run were an hour older."""


@pytest.fixture
async def db(dsn: str) -> AsyncIterator[psycopg.AsyncConnection[Any]]:
    async with await psycopg.AsyncConnection.connect(dsn, autocommit=True) as connection:
        yield connection


class Broken(Exception):
    pass


async def fail(step: str) -> None:
    if step == "sort":
        raise Broken


async def turn(
    durable: Durable, thread_id: str, run_id: str, before_step: Any = None, **options: Any
) -> Any:
    async with durable.run(
        thread_id, four_nodes(before_step), run_id=run_id, context={"who": "secret"}
    ) as run:
        return await run.ainvoke(INPUT, **options)


@pytest.mark.parametrize("recorded", [True, False], ids=["recorded", "by an earlier version"])
@pytest.mark.parametrize("how", ["prune", "aprune"])
async def test_a_run_never_starts_over_because_its_checkpoints_were_pruned(
    durable: Durable, log: Path, db: psycopg.AsyncConnection[Any], how: str, recorded: bool
) -> None:
    """It stopped at a gate, a person edited its state with plain LangGraph, and the edit alone is
    left of the thread.

    Earlier versions did not record with a run's first checkpoint that its input was consumed.
    """
    config: Any = {"configurable": {"log": str(log)}}
    async with durable.run("t", four_nodes(), config=config) as run:
        await run.ainvoke(INPUT, interrupt_before=["weigh"])
    graph = four_nodes().compile(durable.checkpointer)
    await graph.aupdate_state({"configurable": {"thread_id": "t"}}, {"words": ["edited"]})
    if not recorded:
        await db.execute("UPDATE aiodurable_runs SET consumed = false")
    if how == "prune":
        assert (
            await durable.threads.prune(older_than=NOW, status=["paused", "crashed"])
        ).threads == 1
    else:
        await durable.checkpointer.aprune(["t"])
    assert [step.source async for step in durable.threads.history("t")] == ["update"]
    async with durable.run("t", four_nodes(), config=config) as run:
        result = await run.ainvoke()
    assert result["words"] == ["in", "collect", "sort", "edited", "weigh", "tell"]
    assert noted(log) == list(STEPS)


async def test_of_the_runs_of_a_thread_the_newest_stays_without_what_it_was_accepted_with(
    durable: Durable, ledger: Ledger, db: psycopg.AsyncConnection[Any]
) -> None:
    *_, last = [await turn(durable, "t", f"r{n}") for n in range(3)]
    await db.execute(AGE.encode())
    await turn(durable, "young", "y1")
    await turn(durable, "young", "y2")
    dry = await durable.threads.prune(older_than=timedelta(minutes=30), dry_run=True)
    assert dry.runs == 2
    assert [row["run_id"] for row in await ledger.rows("t")] == ["r0", "r1", "r2"]
    pruned = await durable.threads.prune(older_than=timedelta(minutes=30))
    assert (pruned.runs, pruned.bytes) == (dry.runs, dry.bytes)
    assert pruned.bytes > 0
    [row] = await ledger.rows("t")
    assert (row["run_id"], row["status"], row["consumed"]) == ("r2", "complete", True)
    assert [row[name] for name in ("input", "input_type", "context", "context_type", "config")] == [
        None
    ] * 5
    assert [row["input"] is None for row in await ledger.rows("young")] == [False, False]
    assert (await durable.threads.status("t")).status is ThreadStatus.COMPLETE
    assert await turn(durable, "t", "r2") == last, "the same run_id: its stored result"
    assert (await durable.threads.prune(older_than=timedelta(minutes=30))).runs == 0


async def test_old_runs_go_also_where_the_thread_is_young_or_waits_for_somebody(
    durable: Durable, ledger: Ledger, db: psycopg.AsyncConnection[Any]
) -> None:
    await turn(durable, "t", "old")
    await db.execute(AGE.encode())
    with pytest.raises(Broken):
        await turn(durable, "t", "new", fail)
    assert (await durable.threads.prune(older_than=timedelta(minutes=30))).runs == 1
    [row] = await ledger.rows("t")
    assert (row["run_id"], row["status"]) == ("new", "failed")
    assert row["input"] is not None
    assert (await turn(durable, "t", "new"))["words"] == ["in", *STEPS, "in", *STEPS]


async def test_runs_of_threads_without_a_checkpoint_have_an_age_as_well(
    durable: Durable, ledger: Ledger, db: psycopg.AsyncConnection[Any]
) -> None:
    insert = (
        "INSERT INTO aiodurable_runs (run_id, thread_id, lock_key, fencing_token, status,"
        " input_type, input)"
    )
    for status in ("rejected", "superseded", "complete", "failed", "running"):
        values = f"SELECT '{status}', '{status}', 0, 1, '{status}', 'msgpack', '\\x80'"
        await db.execute(f"{insert} {values}".encode())
    await db.execute(AGE.encode())
    assert (await durable.threads.prune(older_than=timedelta(hours=2))).runs == 0
    told = await durable.threads.prune(older_than=timedelta(minutes=30))
    assert (told.runs, told.threads) == (3, 0)
    assert [await ledger.statuses(name) for name in ("failed", "running")] == [
        ["failed"],
        ["running"],
    ]
    everything: Any = {
        "strategy": "delete",
        "older_than": timedelta(minutes=30),
        "status": ["failed", "crashed"],
    }
    assert (
        await durable.threads.prune(**{**everything, "older_than": timedelta(hours=2)})
    ).threads == 0
    assert (
        await durable.threads.prune(**{**everything, "status": ["failed"]}, dry_run=True)
    ).threads == 1
    assert (await durable.threads.prune(**everything, dry_run=True)).threads == 2
    assert (await durable.threads.prune(**everything)).threads == 2
    assert [found async for found in durable.threads.search()] == []


async def test_an_age_and_a_graph_choose_among_runs(
    durable: Durable, db: psycopg.AsyncConnection[Any]
) -> None:
    for n in range(2):
        await turn(durable, "t", f"r{n}")
    await db.execute(
        "UPDATE aiodurable_runs SET graph = 'mine', created_at = created_at - interval '1 hour'"
    )
    young = await durable.threads.prune(older_than=timedelta(minutes=30), graph="mine")
    assert young.runs == 0, "the age of a run counts from its end"
    await db.execute(AGE.encode())
    assert (await durable.threads.prune(older_than=timedelta(hours=2))).runs == 0
    assert (
        await durable.threads.prune(older_than=timedelta(minutes=30), graph="another")
    ).runs == 0
    assert (await durable.threads.prune(older_than=timedelta(minutes=30), graph="mine")).runs == 1


async def test_a_dry_run_tells_of_the_ledger_what_a_prune_then_removes(
    durable: Durable, db: psycopg.AsyncConnection[Any]
) -> None:
    for name in ("a", "b"):
        for n in range(2):
            await turn(durable, name, f"{name}{n}")
    latest = await durable.threads.prune(strategy="keep_latest", older_than=NOW, dry_run=True)
    assert await durable.threads.prune(strategy="keep_latest", older_than=NOW) == latest
    assert (latest.threads, latest.runs) == (2, 2)
    nothing = await durable.threads.prune(strategy="delete", older_than=NOW, dry_run=True)
    assert await durable.threads.prune(strategy="delete", older_than=NOW) == nothing
    assert (nothing.threads, nothing.runs) == (2, 0)


async def test_a_dry_run_of_a_deletion_counts_old_runs_that_go_with_their_thread_too(
    durable: Durable,
) -> None:
    for n in range(2):
        await turn(durable, "t", f"r{n}")
    dry = await durable.threads.prune(strategy="delete", older_than=NOW, dry_run=True)
    assert (dry.threads, dry.runs) == (1, 1)
    assert await durable.threads.prune(strategy="delete", older_than=NOW) == dry


async def test_a_prune_that_is_stopped_has_removed_checkpoints_before_runs(
    durable: Durable,
) -> None:
    for n in range(2):
        await turn(durable, "t", f"r{n}")
    seen: list[PruneReport] = []
    await durable.threads.prune(older_than=NOW, progress=seen.append)
    first = next(report for report in seen if report.runs)
    assert (first.threads, first.runs) == (1, 1)


async def fences(db: psycopg.AsyncConnection[Any]) -> dict[str, int]:
    found = await (await db.execute("SELECT thread_id, token FROM aiodurable_fences")).fetchall()
    return dict(found)


async def aged(db: psycopg.AsyncConnection[Any]) -> None:
    """As if every thread that was removed had been so longer ago."""
    age_ms = round(FENCE_KEPT.total_seconds() * 1000)
    await db.execute(
        "UPDATE aiodurable_fences SET lease_id = lease_id + %s WHERE lease_id < 0", (age_ms,)
    )


@pytest.mark.parametrize("strategy", ["keep_latest", "delete"])
async def test_the_fence_of_a_removed_thread_goes_when_nothing_sent_under_it_can_arrive_any_more(
    durable: Durable, db: psycopg.AsyncConnection[Any], strategy: Any
) -> None:
    for name in ("removed", "run again", "stays"):
        await turn(durable, name, name)
    for name in ("removed", "run again"):
        await durable.threads.delete(name)
    await durable.threads.prune(strategy=strategy, older_than=timedelta(hours=1))
    assert await fences(db) == {"removed": 2, "run again": 2, "stays": 1}
    await aged(db)
    await durable.threads.prune(strategy=strategy, older_than=timedelta(hours=1), dry_run=True)
    assert await fences(db) == {"removed": 2, "run again": 2, "stays": 1}
    await turn(durable, "run again", "once more")
    await durable.threads.prune(strategy=strategy, older_than=timedelta(hours=1))
    assert await fences(db) == {"run again": 3, "stays": 1}


async def test_the_fence_of_a_thread_of_which_nothing_else_is_known_goes_in_two_steps(
    durable: Durable, db: psycopg.AsyncConnection[Any]
) -> None:
    """One that was only ever held, or that plain LangGraph deleted."""
    async with durable.hold("held"):
        pass
    for _ in range(2):
        await durable.threads.prune(strategy="delete", older_than=timedelta(hours=1))
        assert await fences(db) == {"held": 2}
    await aged(db)
    await durable.threads.prune(strategy="delete", older_than=timedelta(hours=1))
    assert await fences(db) == {}


async def test_the_fence_of_a_thread_that_somebody_holds_stays(
    dsn: str, durable: Durable, db: psycopg.AsyncConnection[Any]
) -> None:
    await turn(durable, "t", "r")
    await durable.threads.delete("t")
    await aged(db)
    async with PostgresLockManager(dsn) as other:
        lock = await other.acquire_thread("t")  # as a run does that raises the token later
        await durable.threads.prune(strategy="delete", older_than=timedelta(hours=1))
        assert await fences(db) == {"t": 2}
        await lock.release()
    async with durable.hold("t"):
        await durable.threads.prune(strategy="delete", older_than=timedelta(hours=1))
        assert await fences(db) == {"t": 3}


async def test_a_token_that_starts_again_after_its_row_went_lets_no_holder_of_before_in(
    durable: Durable, db: psycopg.AsyncConnection[Any]
) -> None:
    saver = durable.checkpointer
    async with durable.hold("t") as lease:
        zombie = Fence("t", lease.token, lease.fence.lease_id)
    await turn(durable, "t", "r")
    await durable.threads.delete("t")
    await aged(db)
    await durable.threads.prune(older_than=timedelta(hours=1))
    assert await fences(db) == {}
    async with durable.hold("t") as lease:
        assert (lease.token, zombie.token) == (1, 1)
        saver.sessions.drop(lease.fence)
        saver.sessions.hold(WriteSession(zombie))
        with pytest.raises(LeaseLostError):
            await four_nodes().compile(saver).ainvoke(INPUT, {"configurable": {"thread_id": "t"}})
        saver.sessions.drop(zombie)
    assert (await durable.threads.status("t")).status is ThreadStatus.NEW
