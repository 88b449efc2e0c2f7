"""`durable.run` on a busy thread: it waits its turn, or what is there makes way for it."""

from __future__ import annotations

import asyncio
import contextvars
from collections.abc import AsyncIterator
from contextlib import suppress
from typing import Any

import psycopg
import pytest

from aiodurable.durable import Durable
from aiodurable.errors import (
    CheckpointNotFoundError,
    InvalidArgumentError,
    LockTimeoutError,
    RunCancelledError,
    ThreadPausedError,
    WorkflowAlreadyRunningError,
    WorkflowExecutionError,
)
from aiodurable.models import RunStatus, ThreadStatus
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


async def test_an_interrupting_call_goes_on_from_what_the_run_at_work_wrote(
    durable: Durable, held: Held
) -> None:
    async with at_work(durable, held) as old:
        async with durable.run("t", "chain", on_busy="interrupt", timeout=20) as run:
            assert run.status is ThreadStatus.PAUSED
            result = await run.ainvoke(NEW)
            new = run.run_id
        with pytest.raises(RunCancelledError):
            await old
    assert result == {"xs": ["in", "a", "new", "a", "b"]}
    assert (await durable.runs.get("old")).status is RunStatus.SUPERSEDED
    assert (await durable.runs.get(new)).status is RunStatus.COMPLETE


@pytest.mark.parametrize("name", ["held", "nested"])
@pytest.mark.parametrize("before", [False, True], ids=["a new thread", "a thread with a past"])
async def test_a_call_that_rolls_back_begins_where_the_run_at_work_had_begun(
    dsn: str, durable: Durable, held: Held, name: str, before: bool
) -> None:
    past: list[str] = []
    if before:
        held.open.set()
        async with durable.run("t", name) as run:
            past = (await run.ainvoke({"xs": ["past"]}))["xs"]
        held.open.clear()
        held.entered.clear()
    found = stored(dsn)
    async with at_work(durable, held, name) as old:
        assert stored(dsn) != found
        async with durable.run("t", "chain", on_busy="rollback", timeout=20) as run:
            assert run.status is (ThreadStatus.COMPLETE if before else ThreadStatus.NEW)
            assert stored(dsn) == found
            result = await run.ainvoke(NEW)
        with pytest.raises(RunCancelledError):
            await old
    assert result == {"xs": [*past, "new", "a", "b"]}
    gone = await durable.runs.get("old")
    assert (gone.status, gone.reason, gone.checkpoint_id) == ("superseded", "rolled back", None)
    with pytest.raises(RunCancelledError, match="rolled back"):
        await durable.runs.wait("old")


@pytest.mark.parametrize("name", ["asking", "failing"])
@pytest.mark.parametrize("on_busy", ["interrupt", "rollback"])
async def test_the_new_input_takes_the_place_of_a_question_and_of_what_failed(
    dsn: str, durable: Durable, name: str, on_busy: Any
) -> None:
    async with durable.run("t", "chain") as run:
        await run.ainvoke(INPUT)
    found = stored(dsn)
    async with durable.run("t", name, run_id="old") as run:
        with suppress(ValueError):
            await run.ainvoke({"xs": ["left"]})
    async with durable.run("t", "chain", on_busy=on_busy) as run:
        if on_busy == "rollback":
            assert stored(dsn) == found
        result = await run.ainvoke(NEW)
    kept = [] if on_busy == "rollback" else ["left", "a"]
    assert result == {"xs": ["in", "a", "b", *kept, "new", "a", "b"]}
    assert (await durable.runs.get("old")).status is RunStatus.SUPERSEDED


async def test_an_interrupting_call_without_an_input_goes_on_with_the_run_itself(
    durable: Durable, held: Held
) -> None:
    async with at_work(durable, held):
        async with durable.run("t", "held", on_busy="interrupt", timeout=20) as run:
            held.open.set()
            assert await run.ainvoke() == {"xs": ["in", "a", "held"]}
            assert run.run_id == "old"
    assert (await durable.runs.get("old")).status is RunStatus.COMPLETE


async def test_a_run_that_is_called_for_itself_is_not_interrupted(
    durable: Durable, held: Held
) -> None:
    async def again() -> Any:
        async with durable.run("t", "held", run_id="old", on_busy="rollback") as run:
            return await run.ainvoke(INPUT)

    async with at_work(durable, held) as old:
        second = asyncio.create_task(again())
        with pytest.raises(LockTimeoutError):
            async with durable.run("t", "held", run_id="old", on_busy="interrupt", timeout=0.2):
                pass
        held.open.set()
        assert await old == await second == {"xs": ["in", "a", "held"]}


async def test_a_run_that_begins_under_the_lease_that_was_in_the_way_is_cancelled_too(
    durable: Durable, held: Held
) -> None:
    async def interrupts() -> Any:
        async with durable.run("t", "chain", on_busy="interrupt", timeout=20) as run:
            return await run.ainvoke(NEW)

    elsewhere = contextvars.copy_context()
    async with durable.run("t", "held", run_id="old") as run:
        new = asyncio.create_task(interrupts(), context=elsewhere)
        locks = services_of(durable).locks
        await wait_until(lambda: locks.health().waiting > 0)
        with pytest.raises(RunCancelledError):
            await run.ainvoke(INPUT)
    assert (await new)["xs"][-3:] == ["new", "a", "b"]


@pytest.mark.parametrize("on_busy", ["interrupt", "rollback"])
async def test_a_call_that_is_cancelled_as_it_gets_the_lock_leaves_the_thread_free(
    durable: Durable, on_busy: Any
) -> None:
    async def interrupts() -> None:
        async with durable.hold("t", on_busy=on_busy, timeout=20):
            raise AssertionError("the body began after the cancellation")

    def again() -> list[asyncio.Task[Any]]:
        return [task for task in asyncio.all_tasks() if task.get_name() == "aiodurable interrupt t"]

    elsewhere = contextvars.copy_context()
    async with durable.hold("t"):
        call = asyncio.create_task(interrupts(), context=elsewhere)
        # It ends once the call has the lock, before the body begins.
        (interrupting,) = await wait_until(again)
        interrupting.add_done_callback(lambda _: call.cancel())
    with pytest.raises(asyncio.CancelledError):
        await call
    async with durable.hold("t"):
        pass


async def test_runs_that_wait_in_the_queue_are_given_up_by_a_call_that_interrupts(
    durable: Durable,
) -> None:
    waiting = await durable.runs.create("t", "chain", INPUT)
    later = await durable.runs.create("t", "chain", INPUT, after=60)
    async with durable.run("t", "chain", on_busy="interrupt") as run:
        assert await run.ainvoke(NEW) == {"xs": ["new", "a", "b"]}
    assert (await durable.runs.get(waiting.run_id)).reason == "interrupted"
    assert (await durable.runs.get(later.run_id)).status is RunStatus.QUEUED


async def test_a_call_that_gets_in_line_lets_the_runs_before_it_go_first(
    durable: Durable,
) -> None:
    first = await durable.runs.create("t", "chain", INPUT)
    second = await durable.runs.create("t", "chain", {"xs": ["second"]})

    async def in_line() -> Any:
        async with durable.run("t", "chain", on_busy="enqueue", timeout=20) as run:
            return await run.ainvoke(NEW)

    with pytest.raises(LockTimeoutError, match="still wait"):
        async with durable.run("t", "chain", on_busy="enqueue", timeout=0.1):
            pass
    call = asyncio.create_task(in_line())
    for created in (first, second):
        async with durable.run("t", "chain", run_id=created.run_id, on_busy="enqueue") as run:
            assert not call.done()
            await run.ainvoke()
    assert await call == {"xs": ["in", "a", "b", "second", "a", "b", "new", "a", "b"]}


async def test_a_rollback_to_a_checkpoint_that_is_gone_is_refused_and_removes_nothing(
    dsn: str, durable: Durable
) -> None:
    async with durable.run("t", "chain") as run:
        await run.ainvoke(INPUT)
    async with durable.run("t", "asking", run_id="old") as run:
        await run.ainvoke({"xs": ["left"]})
    await durable.checkpointer.aprune(["t"], strategy="keep_latest")
    found = stored(dsn)
    with pytest.raises(CheckpointNotFoundError, match='was removed; use on_busy="interrupt"'):
        async with durable.run("t", "chain", on_busy="rollback"):
            pass
    assert stored(dsn) == found
    async with durable.run("t", "chain", on_busy="interrupt") as run:
        assert (await run.ainvoke(NEW))["xs"][-3:] == ["new", "a", "b"]


async def test_a_rollback_past_a_branch_of_the_thread_is_refused_and_removes_nothing(
    dsn: str, durable: Durable
) -> None:
    async with durable.run("t", "chain") as run:
        await run.ainvoke(INPUT)
        *_, first = [state async for state in run.aget_state_history()]
    async with durable.run("t", "asking", run_id="old") as run:
        await run.ainvoke({"xs": ["left"]})
    async with durable.run("t", "asking") as run:
        pregel = run._graph.pregel  # noqa: SLF001  # pyright: ignore[reportPrivateUsage]
        configurable = {
            **run.config.get("configurable", {}),
            **first.config.get("configurable", {}),
        }
        await pregel.aupdate_state({"configurable": configurable}, {"xs": ["branch"]}, "a")
    found = stored(dsn)
    with pytest.raises(WorkflowExecutionError, match="do not come from"):
        async with durable.run("t", "chain", on_busy="rollback"):
            pass
    assert stored(dsn) == found


async def test_a_rollback_keeps_what_a_complete_run_wrote_whose_row_lost_its_end(
    dsn: str, durable: Durable
) -> None:
    async with durable.run("t", "chain", run_id="old") as run:
        await run.ainvoke(INPUT)
    with psycopg.connect(dsn) as connection:  # that write does not wait for the disk
        connection.execute(
            "UPDATE aiodurable_runs SET status = 'running', consumed = false, checkpoint_id = NULL,"
            " finished_at = NULL WHERE run_id = 'old'"
        )
    async with durable.run("t", "chain", on_busy="rollback") as run:
        assert await run.ainvoke(NEW) == {"xs": ["in", "a", "b", "new", "a", "b"]}
    assert (await durable.runs.get("old")).status is RunStatus.COMPLETE


async def test_a_cancellation_by_a_person_is_passed_only_by_a_call_that_interrupts(
    durable: Durable, held: Held
) -> None:
    async with at_work(durable, held) as old:
        assert await durable.threads.cancel("t", wait=True)
        with pytest.raises(RunCancelledError):
            await old
    for on_busy in ("reject", "wait", "enqueue"):
        async with durable.run("t", "chain", on_busy=on_busy) as run:
            with pytest.raises(ThreadPausedError):
                await run.ainvoke(NEW)
    async with durable.run("t", "chain", on_busy="rollback") as run:
        assert await run.ainvoke(NEW) == {"xs": ["new", "a", "b"]}


@pytest.mark.parametrize("on_busy", ["wait", "enqueue", "interrupt", "rollback"])
async def test_a_call_does_not_wait_for_the_block_around_it(durable: Durable, on_busy: Any) -> None:
    async with durable.run("t", "chain"):
        with pytest.raises(WorkflowAlreadyRunningError, match="would wait for itself"):
            async with durable.run("t", "chain", on_busy=on_busy):
                pass


async def test_an_unknown_way_is_refused_with_the_ways_there_are(durable: Durable) -> None:
    with pytest.raises(InvalidArgumentError, match="'enqueue', 'interrupt', 'rollback'"):
        async with durable.run("t", "chain", on_busy="later"):  # pyright: ignore[reportArgumentType]
            pass


@pytest.mark.parametrize("verb", ["resume", "retry"])
async def test_what_is_to_go_on_is_not_rolled_back(durable: Durable, verb: str) -> None:
    async with durable.run("t", "failing", run_id="old") as run:
        with suppress(ValueError):
            await run.ainvoke(INPUT)
    with pytest.raises(InvalidArgumentError, match="that removes what is to go on"):
        await getattr(durable.threads, verb)("t", on_busy="rollback")
    assert (await durable.runs.get("old")).status is RunStatus.FAILED


async def test_a_rollback_removes_the_rows_of_the_runs_effects(durable: Durable, dsn: str) -> None:
    async with durable.run("t", "asking", run_id="old") as run:
        await run.ainvoke(INPUT)
    with psycopg.connect(dsn, autocommit=True) as connection:
        connection.execute(
            """
            INSERT INTO aiodurable_effects (thread_id, task, name, state, begin_id, run_id,
                                            begun_by, checkpoint_id)
            VALUES ('t', 'b:1', 'charge', 'done', 1, 'old', 'host:1', '1'),
                   ('t', 'b:2', 'charge', 'done', 2, 'before', 'host:1', '1')
            """
        )
        async with durable.run("t", "chain", on_busy="rollback"):
            left = connection.execute("SELECT run_id FROM aiodurable_effects").fetchall()
    assert left == [("before",)]
