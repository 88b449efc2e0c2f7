"""Acquiring and releasing a lease harms nobody else, in whatever order the parts end."""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import AsyncIterator
from typing import Any

import asyncpg
import pytest

from aiodurable import Durable
from aiodurable.checkpoints import AsyncCheckpointerPool
from aiodurable.checkpoints.write_session import WriteSession, WriteSessions
from aiodurable.dsn import parse_dsn
from aiodurable.errors import ClosedError, LeaseLostError, WorkflowAlreadyRunningError
from aiodurable.events import Event, LeaseAcquired, LeaseLost, LeaseReleased, inline
from aiodurable.locks import PostgresLockManager
from aiodurable.locks.lease import Lease, SessionLease
from aiodurable.runs.lease import ThreadLease
from aiodurable.settings import Settings
from tests.support.graphs import Gate, run_up_to
from tests.support.internals import lock_of, services_of, supervisors_of
from tests.support.proxy import proxy
from tests.support.waiting import is_held, wait_until, within


@pytest.fixture
async def durable(dsn: str) -> AsyncIterator[Durable]:
    async with Durable(dsn) as opened:
        yield opened


async def hold(durable: Durable) -> None:
    async with durable.hold("t"):
        pass


BUMP_WAITS = (
    "SELECT count(*) FROM pg_stat_activity WHERE datname = current_database()"
    " AND wait_event_type = 'Lock' AND query LIKE '%aiodurable_fences%'"
)


@pytest.mark.parametrize("known", [False, True], ids=["with others", "patiently"])
async def test_the_lock_outlives_a_raising_of_the_token_that_is_under_way(
    dsn: str, durable: Durable, db: asyncpg.Connection, known: bool
) -> None:
    """A token that is raised later would make the next holder's writes stale."""
    watcher = await asyncpg.connect(**parse_dsn(dsn).asyncpg)
    if known:
        await hold(durable)
    async with db.transaction():
        if known:
            await db.execute("SELECT FROM aiodurable_fences FOR UPDATE")
        else:
            await db.execute("LOCK TABLE aiodurable_fences IN EXCLUSIVE MODE")
        entering = asyncio.create_task(hold(durable))
        await wait_until(lambda: watcher.fetchval(BUMP_WAITS))
        entering.cancel()
        for _ in range(20):
            if not await is_held(durable, "t"):
                assert not await watcher.fetchval(BUMP_WAITS), (
                    "the token may be raised, and the lock is free"
                )
            entering.cancel()  # who is impatient waits for it too
    with pytest.raises(asyncio.CancelledError):
        await entering
    await hold(durable)
    await watcher.close()


async def test_a_lock_is_let_go_where_the_process_closes_before_the_lease_is_had(
    durable: Durable, monkeypatch: pytest.MonkeyPatch
) -> None:
    def closed(sessions: WriteSessions, session: WriteSession) -> Any:
        raise ClosedError("closing")

    with monkeypatch.context() as patched:
        patched.setattr(WriteSessions, "hold", closed)
        with pytest.raises(ClosedError):
            await hold(durable)
    assert not await is_held(durable, "t")
    await hold(durable)


async def test_the_fence_is_revoked_before_the_lock_is_let_go(
    durable: Durable, monkeypatch: pytest.MonkeyPatch
) -> None:
    """From then on somebody else may have the lock: nothing more may be sent under the old
    fence.
    """
    released: list[bool] = []
    release = Lease.release

    async def watched(lock: Lease) -> None:
        released.append(fence.revoked)
        await release(lock)

    async with durable.hold("t") as lease:
        fence = lease.fence
        monkeypatch.setattr(Lease, "release", watched)
    assert released == [True]


async def test_who_is_cancelled_while_the_lock_is_let_go_leaves_when_that_is_done(
    durable: Durable, monkeypatch: pytest.MonkeyPatch
) -> None:
    release = Lease.release
    sessions = [keeper.session for keeper in supervisors_of(services_of(durable).locks)]
    answered: list[bool] = []

    def idle() -> bool:
        return all(session is not None and session.idle for session in sessions)

    await wait_until(idle, what="the end of the first audits")

    async def as_it_is_cancelled(lock: Lease) -> None:
        task = asyncio.current_task()
        assert task is not None
        task.get_loop().call_soon(task.cancel)
        try:
            await release(lock)
        finally:
            answered.append(idle())

    with monkeypatch.context() as patched:
        patched.setattr(Lease, "release", as_it_is_cancelled)
        with pytest.raises(asyncio.CancelledError):
            await asyncio.create_task(hold(durable))
    assert answered == [True]
    await hold(durable)


async def test_a_lease_that_is_let_go_by_somebody_who_is_cancelled_counts_as_released(
    dsn: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    events: list[Event] = []
    release = ThreadLease.release

    async def as_it_is_cancelled(lease: ThreadLease) -> None:
        task = asyncio.current_task()
        assert task is not None
        task.get_loop().call_soon(task.cancel)
        await release(lease)

    monkeypatch.setattr(ThreadLease, "release", as_it_is_cancelled)
    async with Durable(dsn, observers=[inline(events.append)]) as durable:
        with pytest.raises(asyncio.CancelledError):
            await asyncio.create_task(hold(durable))
    kinds = [type(event) for event in events if event.thread_id == "t"]
    assert kinds == [LeaseAcquired, LeaseReleased]


async def test_a_session_that_ends_as_its_lease_is_let_go_is_no_loss(
    dsn: str, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    events: list[Event] = []
    release = ThreadLease.release

    async def as_the_session_ends(lease: ThreadLease) -> None:
        lock = lock_of(lease)
        assert isinstance(lock, SessionLease)
        lock.lose()  # what is to be called then is due in the next turn of the loop
        await release(lease)

    async with Durable(dsn, observers=[inline(events.append)]) as durable:
        with monkeypatch.context() as patched:
            patched.setattr(ThreadLease, "release", as_the_session_ends)
            await hold(durable)
        await wait_until(lambda: not _recovering())
    assert not [event for event in events if isinstance(event, LeaseLost)]
    assert not [record for record in caplog.records if record.levelno >= logging.ERROR]


def _recovering() -> list[asyncio.Task[Any]]:
    return [
        task for task in asyncio.all_tasks() if task.get_name().startswith("aiodurable recover")
    ]


async def test_a_recovery_compares_the_fence_only_when_it_has_the_lock_again(
    dsn: str, durable: Durable, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Another lease comes and goes at the last moment before the lock is had again."""
    take_again = PostgresLockManager.reacquire

    async def after_another_lease(locks: PostgresLockManager, lost: Lease) -> Lease | None:
        again = await take_again(locks, lost)
        if again is not None:  # at the last of its attempts
            monkeypatch.undo()
            async with AsyncCheckpointerPool(dsn) as other:
                await other.bump("t")
        return again

    gate = Gate("weigh")
    task = await run_up_to(gate, durable)
    monkeypatch.setattr(PostgresLockManager, "reacquire", after_another_lease)
    await _end_lock_sessions(dsn)
    with pytest.raises(LeaseLostError, match="at token 2 now") as lost:
        await within(20, task, what="the run to hear that its lease is lost")
    assert lost.value.taken_over


async def _end_lock_sessions(dsn: str) -> None:
    connection = await asyncpg.connect(**parse_dsn(dsn).asyncpg)
    await connection.execute(
        "SELECT pg_terminate_backend(pid) FROM pg_stat_activity"
        " WHERE datname = current_database() AND application_name LIKE 'aiodurable:lock%'"
    )
    await connection.close()


async def test_an_error_does_not_claim_that_somebody_took_the_thread_where_nobody_knows(
    dsn: str,
) -> None:
    gate = Gate("weigh")
    async with (
        proxy(dsn) as wire,
        Durable(wire.dsn, settings=Settings(recovery_grace_s=0.5)) as durable,
    ):
        task = await run_up_to(gate, durable)
        wire.down()
        with pytest.raises(LeaseLostError, match="is not known") as lost:
            await within(20, task, what="the run to hear that its lease is lost")
        assert lost.value.taken_over is None
        assert "took" not in str(lost.value)
        wire.up()


async def test_a_cancelled_run_leaves_no_later_than_its_lease_although_the_network_swallows_all(
    dsn: str,
) -> None:
    gate = Gate("weigh")
    settings = Settings(
        lease_ttl_s=3.0, lease_heartbeat_s=0.5, lease_safety_margin_s=1.0, recovery_grace_s=60.0
    )
    async with proxy(dsn) as wire, Durable(wire.dsn, settings=settings) as durable:
        task = await run_up_to(gate, durable)
        wire.cut()
        task.cancel()
        done, _ = await asyncio.wait(
            {task}, timeout=10.0
        )  # a statement without an answer is given up after 20
        wire.end()
        assert done, "the run waits for a dead link, and its lease is over"
        assert task.cancelled()
    async with Durable(dsn) as other:

        async def is_free() -> bool:
            with contextlib.suppress(WorkflowAlreadyRunningError):
                await hold(other)
                return True
            return False

        await wait_until(is_free, what="the lease to be free")
