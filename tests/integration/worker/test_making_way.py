"""Runs that were accepted to interrupt what their thread has in front of them, or to undo it."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import suppress
from typing import Any

import pytest

from aiodurable.durable import Durable
from aiodurable.errors import RunCancelledError
from aiodurable.models import ClaimState, RunStatus, ThreadStatus
from aiodurable.queue.new_run import NewRun
from aiodurable.settings import Settings
from tests.support.busy_threads import INPUT, NEW, Held, at_work, graphs, stored
from tests.support.internals import services_of
from tests.support.waiting import wait_until


@pytest.fixture
def held() -> Held:
    return Held()


@pytest.fixture
async def durable(dsn: str, held: Held) -> AsyncIterator[Durable]:
    async with Durable(dsn, graphs=graphs(held), settings=Settings()) as opened:
        yield opened


@pytest.mark.parametrize("name", ["held", "nested"])
async def test_a_run_that_rolls_back_leaves_nothing_of_the_run_at_work(
    dsn: str, durable: Durable, held: Held, name: str
) -> None:
    async with durable.run("t", "chain") as run:
        await run.ainvoke({"xs": ["past"]})
    found = stored(dsn)
    async with durable.work():
        old = await durable.runs.create("t", name, INPUT)
        await asyncio.wait_for(held.entered.wait(), 20)
        assert stored(dsn) != found
        new = await durable.runs.create("t", "chain", NEW, on_busy="rollback")
        result = await durable.runs.wait(new.run_id, timeout=20)
    assert result == {"xs": ["past", "a", "b", "new", "a", "b"]}
    gone = await durable.runs.get(old.run_id)
    assert (gone.status, gone.reason) == (RunStatus.SUPERSEDED, "rolled back")
    with pytest.raises(RunCancelledError, match="rolled back; create another run"):
        await durable.runs.wait(old.run_id)


async def test_a_run_that_rolls_back_a_new_thread_begins_on_a_new_thread(
    durable: Durable, held: Held
) -> None:
    async with durable.work():
        await durable.runs.create("t", "held", INPUT)
        await asyncio.wait_for(held.entered.wait(), 20)
        new = await durable.runs.create("t", "chain", NEW, on_busy="rollback")
        assert await durable.runs.wait(new.run_id, timeout=20) == {"xs": ["new", "a", "b"]}


async def test_a_run_that_had_written_nothing_is_rolled_back_too(durable: Durable) -> None:
    async with durable.run("t", "chain") as run:
        await run.ainvoke({"xs": ["past"]})
    database = services_of(durable).checkpoints.database
    await database.execute(  # it was cancelled before its first checkpoint
        "INSERT INTO aiodurable_runs (run_id, thread_id, lock_key, graph, status, status_reason,"
        " attempts, fencing_token, seq, base_checkpoint_id, input_type, input, interrupted_by, roll_back)"
        " SELECT 'old', r.thread_id, r.lock_key, r.graph, 'paused', 'cancelled', 1,"
        " r.fencing_token, 9, r.checkpoint_id, r.input_type, r.input, 'another', true"
        " FROM aiodurable_runs r"
    )
    new = await durable.runs.create("t", "chain", NEW)
    async with durable.work():
        result = await durable.runs.wait(new.run_id, timeout=20)
    assert result == {"xs": ["past", "a", "b", "new", "a", "b"]}
    assert (await durable.runs.get("old")).status is RunStatus.SUPERSEDED


async def test_of_two_that_make_way_for_each_other_the_first_word_to_undo_holds(
    dsn: str, durable: Durable, held: Held
) -> None:
    async with at_work(durable, held) as old:
        first = await durable.runs.create("t", "chain", NEW, on_busy="rollback")
        second = await durable.runs.create("t", "chain", NEW, on_busy="interrupt")
        with pytest.raises(RunCancelledError):
            await old
        async with durable.work():
            assert await durable.runs.wait(second.run_id, timeout=20) == {"xs": ["new", "a", "b"]}
    assert (await durable.runs.get(first.run_id)).status is RunStatus.SUPERSEDED
    assert (await durable.runs.get("old")).reason == "rolled back"


async def test_interrupting_runs_that_come_at_once_leave_one_of_them(
    durable: Durable, held: Held
) -> None:
    async with at_work(durable, held) as old, durable.work():
        runs = await asyncio.gather(
            *(durable.runs.create("t", "chain", NEW, on_busy="interrupt") for _ in range(8))
        )
        with pytest.raises(RunCancelledError):
            await old

        async def settled() -> bool:
            found = [await durable.runs.get(run.run_id) for run in runs]
            return all(run.settled for run in found)

        await wait_until(settled)
        found = [await durable.runs.get(run.run_id) for run in runs]
        thread = await durable.threads.get("t")
    assert thread.status is ThreadStatus.COMPLETE
    last = max(found, key=lambda run: run.token or 0)
    assert last.status is RunStatus.COMPLETE
    assert {run.status for run in found} <= {RunStatus.COMPLETE, RunStatus.SUPERSEDED}


async def test_of_interrupting_runs_that_are_accepted_together_the_last_one_is_left(
    durable: Durable,
) -> None:
    """And what is accepted after it."""
    accepted = await durable.runs.create_many(
        NewRun(thread_id="t", graph="chain", input=NEW, run_id=run_id, on_busy=on_busy)
        for run_id, on_busy in (
            ("a", "enqueue"),
            ("b", "rollback"),
            ("c", "interrupt"),
            ("d", "enqueue"),
        )
    )
    assert [run.run_id for run in accepted] == ["a", "b", "c", "d"]
    async with durable.work():
        assert await durable.runs.wait("d", timeout=20) == {"xs": ["new", "a", "b"] * 2}
    found = [(await durable.runs.get(run_id)).status for run_id in "abcd"]
    assert found == [RunStatus.SUPERSEDED] * 2 + [RunStatus.COMPLETE] * 2


@pytest.mark.parametrize("on_busy", ["interrupt", "rollback"])
@pytest.mark.parametrize("name", ["asking", "failing"])
async def test_an_open_question_and_a_failure_make_way_for_the_new_input(
    durable: Durable, name: str, on_busy: Any
) -> None:
    async with durable.run("t", name, run_id="old") as run:
        with suppress(ValueError):
            await run.ainvoke(INPUT)
    new = await durable.runs.create("t", "chain", NEW, on_busy=on_busy)
    assert new.claim_state is ClaimState.READY
    async with durable.work():
        result = await durable.runs.wait(new.run_id, timeout=20)
    kept = [] if on_busy == "rollback" else ["in", "a"]
    assert result == {"xs": [*kept, "new", "a", "b"]}
    with pytest.raises(RunCancelledError):
        await durable.runs.wait("old")


async def test_a_question_that_was_answered_after_all_is_not_passed(durable: Durable) -> None:
    async with durable.run("t", "asking", run_id="old") as run:
        await run.ainvoke(INPUT)
    new = await durable.runs.create("t", "chain", NEW, on_busy="rollback")
    async with durable.run("t", "asking", run_id="old") as run:
        assert await run.answer("this") == {"xs": ["in", "a", "this"]}
    async with durable.work():
        result = await durable.runs.wait(new.run_id, timeout=20)
    assert result == {"xs": ["in", "a", "this", "new", "a", "b"]}


@pytest.mark.parametrize("on_busy", ["interrupt", "rollback"])
async def test_a_run_that_is_due_later_cancels_nothing_before_it_is_due(
    durable: Durable, held: Held, on_busy: Any
) -> None:
    async with at_work(durable, held) as old:
        new = await durable.runs.create("t", "chain", NEW, on_busy=on_busy, after=3600)
        assert new.claim_state is ClaimState.SCHEDULED
        assert (await durable.runs.get("old")).cancel_requested_at is None
        async with durable.work():
            database = services_of(durable).checkpoints.database
            await database.execute(
                "UPDATE aiodurable_runs SET scheduled_at = now() WHERE run_id = $1", new.run_id
            )
            result = await durable.runs.wait(new.run_id, timeout=20)
        with pytest.raises(RunCancelledError):
            await old
    kept = [] if on_busy == "rollback" else ["in", "a"]
    assert result == {"xs": [*kept, "new", "a", "b"]}


async def test_what_plain_langgraph_left_makes_way_too(durable: Durable) -> None:
    graph = graphs(Held())["asking"].compile(checkpointer=durable.checkpointer)
    async with durable.hold("t"):
        await graph.ainvoke(INPUT, {"configurable": {"thread_id": "t"}})
    assert (await durable.threads.get("t")).status is ThreadStatus.INTERRUPTED
    new = await durable.runs.create("t", "chain", NEW, on_busy="rollback")
    async with durable.work():
        result = await durable.runs.wait(new.run_id, timeout=20)
    assert result == {"xs": ["in", "a", "new", "a", "b"]}


async def test_a_rollback_that_cannot_be_done_sets_the_run_aside_and_lets_the_next_one_go_on(
    durable: Durable,
) -> None:
    async with durable.run("t", "chain") as run:
        await run.ainvoke(INPUT)
    async with durable.run("t", "asking", run_id="old") as run:
        await run.ainvoke({"xs": ["left"]})
    await durable.checkpointer.aprune(["t"], strategy="keep_latest")
    refused = await durable.runs.create("t", "chain", NEW, on_busy="rollback")
    following = await durable.runs.create("t", "chain", NEW)
    async with durable.work():
        result = await durable.runs.wait(following.run_id, timeout=20)
    record = await durable.runs.get(refused.run_id)
    assert record.status is RunStatus.QUARANTINED
    assert record.error is not None
    assert "cannot roll back run" in record.error
    assert result["xs"][-5:] == ["left", "a", "new", "a", "b"]
