"""One writer: a thread that is busy says by whom, and a run that lost its lease writes nothing
more.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import psycopg
import pytest

from aiodurable.durable import Durable
from aiodurable.errors import (
    InvalidArgumentError,
    LeaseLostError,
    LockTimeoutError,
    WorkflowAlreadyRunningError,
)
from aiodurable.events import Event, LeaseLost, inline
from aiodurable.models import ThreadStatus
from aiodurable.settings import Settings
from tests.support.checkpoint_rows import written
from tests.support.graphs import INPUT, STEPS, Gate, config, four_nodes, noted, run_up_to
from tests.support.internals import lock_of
from tests.support.ledger_view import Ledger
from tests.support.waiting import is_held, wait_until, within


@pytest.fixture
async def durable(dsn: str) -> AsyncIterator[Durable]:
    async with Durable(dsn, settings=Settings()) as opened:
        yield opened


@pytest.fixture
def strict() -> Settings:
    return Settings(recovery_grace_s=0)


@pytest.fixture
def patient() -> Settings:
    return Settings(recovery_grace_s=20)


async def end_lock_sessions(dsn: str) -> int:
    """What an administrator, a failover or a proxy does. Returns once they have ended."""
    query = (
        "SELECT count(pg_terminate_backend(pid, 30000)) FROM pg_stat_activity"
        " WHERE application_name LIKE 'aiodurable:lock%'"
    )
    async with await psycopg.AsyncConnection.connect(dsn) as connection:
        row = await (
            await connection.execute(f"{query} AND datname = current_database()".encode())
        ).fetchone()
        assert row is not None
        return row[0]


async def test_a_busy_thread_is_refused_with_its_holder_and_since_when(
    dsn: str, durable: Durable
) -> None:
    gate = Gate("sort")
    task = await run_up_to(gate, durable)
    async with Durable(dsn) as other:
        with pytest.raises(WorkflowAlreadyRunningError) as refused:
            async with other.run("t", four_nodes()):
                pytest.fail("entered")
        status = await other.threads.status("t")
    with pytest.raises(WorkflowAlreadyRunningError):
        async with durable.run("t", four_nodes()):
            pytest.fail("entered")
    assert status.status is ThreadStatus.RUNNING
    for holder in (refused.value.holder, status.holder):
        assert holder is not None
        assert "aiodurable:lock" in holder.application
    assert refused.value.thread_id == "t"
    assert refused.value.since is not None
    assert "aiodurable:lock" in str(refused.value)
    gate.open.set()
    await task


async def test_a_busy_thread_can_be_waited_for(durable: Durable, log: Path) -> None:
    gate = Gate("sort")

    async def body(words: list[str]) -> Any:
        async with durable.run("t", four_nodes(gate), on_busy="wait", config=config(log)) as run:
            return await run.ainvoke({"words": words, "told": ""})

    first = asyncio.create_task(body(["one"]))
    await gate.reached.wait()
    with pytest.raises(LockTimeoutError):
        async with durable.run("t", four_nodes(), on_busy="wait", timeout=0.05):
            pytest.fail("entered")
    second = asyncio.create_task(body(["two"]))
    gate.open.set()
    await asyncio.gather(first, second)
    assert noted(log) == [*STEPS, *STEPS]


@pytest.mark.parametrize(
    "options", [{"on_busy": "later"}, {"on_busy": "wait", "timeout": -1}, {"timeout": 5}]
)
async def test_a_wait_that_makes_no_sense_is_refused(
    durable: Durable, options: dict[str, Any]
) -> None:
    with pytest.raises(InvalidArgumentError):
        async with durable.run("t", four_nodes(), **options):
            pytest.fail("entered")


async def test_without_a_grace_the_fence_is_revoked_in_the_very_moment_the_lock_is_lost(
    dsn: str, strict: Settings
) -> None:
    revoked: list[bool] = []
    async with Durable(dsn, settings=strict) as durable:
        with pytest.raises(LeaseLostError):
            async with durable.hold("t") as lease:
                lock_of(lease).on_lost(lambda: revoked.append(lease.fence.revoked))
                await end_lock_sessions(dsn)
                await within(30, lease.wait_lost(), what="the loss of the lease")
    assert revoked == [True]


async def test_every_lease_of_a_thread_has_a_larger_token(durable: Durable) -> None:
    tokens: list[int] = []
    for _ in range(5):
        async with durable.hold("t") as lease:
            tokens.append(lease.token)
    assert tokens == sorted(set(tokens))


async def test_without_grace_a_lost_lock_session_cancels_the_run_and_the_new_holders_state_stands(
    dsn: str, ledger: Ledger, log: Path, strict: Settings
) -> None:
    gate = Gate("weigh")
    events: list[Event] = []
    async with (
        Durable(dsn, settings=strict, observers=[inline(events.append)]) as old,
        Durable(dsn, settings=strict) as new,
    ):
        task = await run_up_to(gate, old, config=config(log))
        assert await end_lock_sessions(dsn) >= 2
        with pytest.raises(LeaseLostError):
            await task
        assert any(isinstance(event, LeaseLost) for event in events)
        async with new.run(
            "t", four_nodes(), on_busy="wait", timeout=10, config=config(log)
        ) as run:
            assert run.status is ThreadStatus.CRASHED
            assert (await run.ainvoke())["words"] == list(STEPS)
    [row] = await ledger.rows("t")
    assert (row["status"], row["attempts"], row["fencing_token"]) == ("complete", 2, 2)


async def test_a_stale_holder_that_swallows_its_cancellation_still_writes_nothing(
    dsn: str, ledger: Ledger, strict: Settings
) -> None:
    """The cancellation is a courtesy; the fence is what holds."""
    reached, taken = asyncio.Event(), asyncio.Event()

    async def stubborn(step: str) -> None:
        if step == "weigh":
            reached.set()
            while not taken.is_set():
                try:
                    await taken.wait()
                except asyncio.CancelledError:
                    continue

    async with Durable(dsn, settings=strict) as old, Durable(dsn, settings=strict) as new:

        async def body() -> None:
            async with old.run("t", four_nodes(stubborn)) as run:
                await run.ainvoke(INPUT)

        task = asyncio.create_task(body())
        try:
            await within(30, reached.wait())
            await end_lock_sessions(dsn)
            async with new.run("t", four_nodes(), on_busy="wait", timeout=10) as run:
                result = await run.ainvoke()
                before = await written(dsn)
                taken.set()
                with pytest.raises(LeaseLostError):
                    await task
                assert await written(dsn) == before
        finally:
            taken.set()  # nothing else ends the stale run
        assert result["words"] == list(STEPS)
        state = await new.checkpointer.aget_tuple({"configurable": {"thread_id": "t"}})
        assert state is not None
        assert state.checkpoint["channel_values"]["words"] == list(STEPS)


async def test_with_grace_a_lost_lock_session_is_not_felt(
    dsn: str, ledger: Ledger, log: Path, patient: Settings
) -> None:
    gate = Gate("weigh")
    async with Durable(dsn, settings=patient) as durable:
        task = await run_up_to(gate, durable, config=config(log))
        await end_lock_sessions(dsn)
        await wait_until(lambda: is_held(durable, "t"), timeout=15)
        gate.open.set()
        assert (await task)["words"] == list(STEPS)
    assert noted(log) == list(STEPS)
    [row] = await ledger.rows("t")
    assert (row["status"], row["attempts"]) == ("complete", 1)


async def test_a_lost_lock_session_is_not_felt_although_others_wait_for_the_thread_in_this_process(
    dsn: str, ledger: Ledger, log: Path, patient: Settings
) -> None:
    gate = Gate("weigh")
    async with Durable(dsn, settings=patient) as durable:

        async def body(word: str) -> Any:
            async with durable.run(
                "t", four_nodes(gate), on_busy="wait", timeout=60, config=config(log)
            ) as run:
                return await run.ainvoke({"words": [word], "told": ""})

        first = asyncio.create_task(body("one"))
        await gate.reached.wait()
        waiting = [asyncio.create_task(body(word)) for word in ("two", "three")]
        await wait_until(lambda: durable.locks.health().waiting == 2)
        for _ in range(3):
            await end_lock_sessions(dsn)
            await wait_until(lambda: is_held(durable, "t"), timeout=15)
        gate.open.set()
        assert (await first)["words"] == ["one", *STEPS]
        await asyncio.gather(*waiting)
    assert noted(log) == [*STEPS, *STEPS, *STEPS]
    assert [(row["status"], row["attempts"]) for row in await ledger.rows("t")] == [
        ("complete", 1)
    ] * 3


async def test_a_lock_that_is_had_again_is_worth_nothing_where_another_lease_had_our_token(
    dsn: str, patient: Settings
) -> None:
    gate = Gate("weigh")
    async with Durable(dsn, settings=patient) as durable:
        task = await run_up_to(gate, durable)
        async with await psycopg.AsyncConnection.connect(dsn, autocommit=True) as connection:
            await connection.execute("UPDATE aiodurable_fences SET lease_id = lease_id + 1")
        await end_lock_sessions(dsn)
        with pytest.raises(LeaseLostError):
            await within(30, task, what="the run to hear that its lease is lost")
