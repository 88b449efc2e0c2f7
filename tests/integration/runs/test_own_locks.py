"""Locks of the caller's own beside those of threads: apart from them, with the same observers and
settings.
"""

from __future__ import annotations

import asyncio
from datetime import UTC, datetime

import pytest

from aiodurable.durable import Durable
from aiodurable.errors import WorkflowAlreadyRunningError
from aiodurable.events import Event, LeaseAcquired, LeaseReleased, inline
from aiodurable.locks import PostgresLockManager
from aiodurable.models import ThreadStatus
from aiodurable.settings import Settings
from aiodurable.workflow import with_workflow_lock
from tests.support.graphs import INPUT, STEPS, Gate, four_nodes
from tests.support.waiting import within


async def test_a_lock_named_like_a_thread_is_not_that_threads(dsn: str, durable: Durable) -> None:
    async with durable.locks.hold("t"), PostgresLockManager(dsn) as bare:
        assert await bare.try_acquire("t") is None  # the same lock, from elsewhere
        assert (await durable.threads.status("t")).status is ThreadStatus.NEW
        async with durable.run("t", four_nodes()) as run:
            assert (await run.ainvoke(INPUT))["words"] == list(STEPS)
            assert not await bare.is_locked("another")


async def test_observers_hear_of_locks_of_ones_own_and_of_each_lease_once(dsn: str) -> None:
    heard: list[Event] = []
    async with Durable(dsn, observers=[inline(heard.append)]) as durable:
        async with durable.locks.hold("mine"):
            pass
        async with durable.hold("t"):
            pass
    told = [(type(event), event.thread_id) for event in heard]
    assert told == [
        (LeaseAcquired, "mine"),
        (LeaseReleased, "mine"),
        (LeaseAcquired, "t"),
        (LeaseReleased, "t"),
    ]


async def test_a_manager_works_as_its_settings_say(dsn: str) -> None:
    settings = Settings(namespace="prod", lock_connections=1)
    async with (
        PostgresLockManager(dsn, settings=settings) as by_settings,
        PostgresLockManager(dsn, namespace="prod") as by_argument,
        PostgresLockManager(dsn) as elsewhere,
        by_settings.hold("a"),
    ):
        assert len(by_settings.health().sessions) == 1
        assert await by_argument.try_acquire("a") is None
        lease = await elsewhere.try_acquire("a")
        assert lease is not None
        await lease.release()


async def test_a_manager_reads_the_environment_as_a_durable_does(
    dsn: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("AIODURABLE_NAMESPACE", "prod")
    async with Durable(dsn) as durable, durable.locks.hold("a"), PostgresLockManager(dsn) as bare:
        assert await bare.try_acquire("a") is None


async def test_since_when_is_said_only_where_it_is_known(durable: Durable) -> None:
    """Postgres does not record when an advisory lock was taken, but the ledger when a run began."""

    @with_workflow_lock(durable=durable)
    async def closing(thread_id: str) -> None:
        with pytest.raises(WorkflowAlreadyRunningError) as busy:
            async with durable.hold(thread_id):
                pytest.fail("held twice")
        assert busy.value.since is None
        assert busy.value.holder is not None
        assert "since" not in str(busy.value)

    await closing("t")
    before = datetime.now(UTC)
    gate = Gate("sort")

    async def call() -> None:
        async with durable.run("t", four_nodes(gate)) as run:
            await run.ainvoke(INPUT)

    calling = asyncio.create_task(call())
    await within(60, gate.reached.wait(), what="the run to be in its second node")
    with pytest.raises(WorkflowAlreadyRunningError, match="since") as busy:
        async with durable.hold("t"):
            pytest.fail("held twice")
    assert busy.value.since is not None
    assert busy.value.since >= before
    gate.open.set()
    await calling


async def test_waiting_for_the_thread_of_the_block_around_the_call_is_refused(
    durable: Durable,
) -> None:
    async def nested(step: str) -> None:
        if step == "sort":
            async with durable.hold("t", on_busy="wait"):
                pytest.fail("held twice")

    async with durable.run("t", four_nodes(nested)) as run:
        with pytest.raises(WorkflowAlreadyRunningError, match="around this call"):
            await within(60, run.ainvoke(INPUT), what="the nested call to be refused")
    async with durable.hold("t", on_busy="wait"), durable.hold("another", on_busy="wait"):
        pass


async def test_a_task_that_outlives_the_block_may_wait_for_its_thread(durable: Durable) -> None:
    left = asyncio.Event()

    async def later() -> None:
        await left.wait()
        async with durable.hold("t", on_busy="wait", timeout=60):
            pass

    async with durable.hold("t"):
        task = asyncio.create_task(later())
    left.set()
    await task
