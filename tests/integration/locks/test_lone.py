"""A session that has nothing else to do sends a request at once, and promises no less."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextvars import Context, ContextVar
from typing import Any

import asyncpg
import pytest

from aiodurable.errors import LeaseLostError, LockCapacityError, PostgresUnavailableError
from aiodurable.locks import PostgresLockManager, statements
from aiodurable.locks.session import LockSession
from aiodurable.locks.statements import LockStatements
from aiodurable.settings import Settings
from tests.support.internals import connection_of, session_of, wake
from tests.support.lock_view import ServerLocks
from tests.support.session_faults import stopped, take_away
from tests.support.waiting import wait_until, within


@pytest.fixture
async def locks(dsn: str, settings: Settings) -> AsyncIterator[PostgresLockManager]:
    """One session, whose next request is a lone one."""
    async with PostgresLockManager(dsn, sessions=1, settings=settings) as opened:
        async with opened.hold("first"):
            pass
        await wait_until(lambda: session_of(opened).quiet)
        yield opened


async def test_a_lone_request_is_sent_at_once_and_answered_without_another_task(
    locks: PostgresLockManager,
) -> None:
    session = session_of(locks)
    acquiring = asyncio.ensure_future(locks.acquire("a"))
    await asyncio.sleep(0)
    assert session.lone is not None
    lease = await acquiring
    releasing = asyncio.ensure_future(lease.release())
    await asyncio.sleep(0)
    assert session.lone is not None
    await releasing
    assert session.quiet
    assert not session.work.is_set()


async def test_what_arrives_while_a_lone_request_is_under_way_travels_as_one_statement(
    locks: PostgresLockManager, monkeypatch: pytest.MonkeyPatch
) -> None:
    sent: list[int] = []
    batch = LockStatements.batch

    async def counted(statements: LockStatements, down: Any, up: Any, tokens: int) -> Any:
        sent.append(len(up))
        return await batch(statements, down, up, tokens)

    monkeypatch.setattr(LockStatements, "batch", counted)
    leases = await asyncio.gather(*(locks.acquire(f"lock {n}") for n in range(100)))
    assert sent == [99]
    await asyncio.gather(*(lease.release() for lease in leases))
    assert sent == [99, 0]
    assert not session_of(locks).held


async def test_a_cancelled_try_returns_at_once_and_its_lock_is_unlocked(
    locks: PostgresLockManager, server_locks: ServerLocks, monkeypatch: pytest.MonkeyPatch
) -> None:
    cancel = "asyncpg.connection.Connection._cancel_current_command"
    cancelled: list[object] = []
    monkeypatch.setattr(cancel, lambda *_: cancelled.append(None))
    session = session_of(locks)
    async with stopped(session):
        acquiring = asyncio.ensure_future(locks.acquire("a"))
        await asyncio.sleep(0)
        lone = session.lone
        acquiring.cancel()
        with pytest.raises(asyncio.CancelledError):
            await acquiring
        assert session.lone is lone  # the statement is still under way
    await wait_until(lambda: session.idle)
    assert server_locks() == 0
    assert not cancelled
    async with locks.hold("a"):
        pass


async def test_a_cancelled_release_ends_when_the_server_has_answered(
    locks: PostgresLockManager, server_locks: ServerLocks
) -> None:
    session = session_of(locks)
    lease = await locks.acquire("a")
    releasing = asyncio.ensure_future(lease.release())
    await asyncio.sleep(0)
    assert session.lone is not None
    releasing.cancel()
    with pytest.raises(asyncio.CancelledError):
        await releasing
    assert session.lone is None
    assert server_locks() == 0


async def test_a_connection_that_ends_fails_a_lone_try(locks: PostgresLockManager) -> None:
    session = session_of(locks)
    acquiring = asyncio.ensure_future(locks.acquire("a"))
    await asyncio.sleep(0)
    assert session.lone is not None
    connection_of(session).terminate()
    with pytest.raises(PostgresUnavailableError):
        await within(10, acquiring)
    assert session.over is not None
    assert await within(10, locks.acquire("a", timeout=None))


async def test_a_lock_that_is_missing_when_a_lone_request_unlocks_it_loses_the_session(
    locks: PostgresLockManager,
) -> None:
    session = session_of(locks)
    with pytest.raises(LeaseLostError):
        async with locks.hold("a") as lease:
            await take_away(session, lease.key)
            assert session.quiet
    assert session.over is not None


async def test_closing_waits_for_a_lone_release(
    dsn: str, settings: Settings, server_locks: ServerLocks
) -> None:
    locks = PostgresLockManager(dsn, sessions=1, settings=settings)
    await locks.open()
    lease = await locks.acquire("a")
    session = session_of(locks)
    await wait_until(lambda: session.quiet)
    releasing = asyncio.ensure_future(lease.release())
    await asyncio.sleep(0)
    assert session.lone is not None
    await locks.aclose()
    await releasing
    assert not lease.lost
    assert server_locks() == 0


async def test_what_a_lone_try_locked_before_it_found_no_memory_is_unlocked(
    locks: PostgresLockManager, server_locks: ServerLocks, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def full(statements: LockStatements, key: int) -> Any:
        await acquire(statements, key)
        raise asyncpg.OutOfMemoryError("out of shared memory")

    acquire = LockStatements.acquire
    with monkeypatch.context() as patch:
        patch.setattr(LockStatements, "acquire", full)
        with pytest.raises(LockCapacityError):
            await locks.acquire("a")
    assert server_locks() == 0
    session: LockSession = session_of(locks)
    assert session.over is None
    async with locks.hold("a"):
        pass


async def test_a_statement_that_waits_more_than_once_is_answered(
    locks: PostgresLockManager, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def waits_again(statements: LockStatements, key: int) -> Any:
        answer = await acquire(statements, key)
        later: asyncio.Future[None] = asyncio.Future()
        later.get_loop().call_soon(later.set_result, None)
        await later
        return answer

    acquire = LockStatements.acquire
    monkeypatch.setattr(LockStatements, "acquire", waits_again)
    async with locks.hold("a") as lease:
        assert lease.token
    assert session_of(locks).over is None


@pytest.mark.parametrize("sent", [False, True])
async def test_an_error_that_is_not_the_drivers_ends_the_session_and_reaches_no_caller(
    locks: PostgresLockManager,
    server_locks: ServerLocks,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
    sent: bool,
) -> None:
    async def broken(statements: LockStatements, key: int) -> Any:
        if sent:
            await acquire(statements, key)
        raise ZeroDivisionError

    acquire = LockStatements.acquire
    with monkeypatch.context() as patch:
        patch.setattr(LockStatements, "acquire", broken)
        with pytest.raises(PostgresUnavailableError):
            await locks.acquire("a")
    assert "report this" in caplog.text
    await wait_until(lambda: server_locks() == 0)
    assert await within(10, locks.acquire("a", timeout=None))


async def test_what_the_body_raises_has_no_context_of_ours(locks: PostgresLockManager) -> None:
    assert session_of(locks).quiet
    with pytest.raises(ValueError, match="mine") as raised:
        async with locks.hold("a"):
            raise ValueError("mine")
    assert raised.value.__context__ is None


async def test_the_task_that_sends_waits_for_a_lone_request(locks: PostgresLockManager) -> None:
    session = session_of(locks)
    acquiring = asyncio.ensure_future(locks.acquire("a"))
    await asyncio.sleep(0)
    assert session.lone is not None
    session.audit_soon()
    wake(session)  # two statements at once would be an error of the driver, and end the session
    lease = await acquiring
    await wait_until(lambda: session.idle)
    assert not session.audit_due
    assert not lease.lost
    assert session.over is None


@pytest.mark.parametrize("at_a_time", [1, 2])  # a lone request, and those that share a statement
async def test_the_body_runs_in_the_context_of_its_task(
    locks: PostgresLockManager, at_a_time: int
) -> None:
    async def body(name: str) -> None:
        async with locks.hold(name):
            entered.set("inside")
            await asyncio.sleep(0)
            assert entered.get(None) == "inside"
        left.set("outside")
        await asyncio.sleep(0)
        assert left.get(None) == "outside"

    entered: ContextVar[str] = ContextVar("entered")
    left: ContextVar[str] = ContextVar("left")
    names = [f"lock {number}" for number in range(at_a_time)]
    # An empty context is false.
    await asyncio.gather(*(asyncio.create_task(body(name), context=Context()) for name in names))


async def test_a_try_in_the_turn_in_which_the_connection_ended_says_that_it_is_not_up(
    locks: PostgresLockManager,
) -> None:
    connection_of(session_of(locks)).terminate()
    with pytest.raises(PostgresUnavailableError):
        await locks.acquire("a")
    assert await within(10, locks.acquire("a", timeout=None))


async def test_a_release_in_the_turn_in_which_the_connection_ended_does_not_raise(
    locks: PostgresLockManager,
) -> None:
    lease = await locks.acquire("a")
    connection_of(session_of(locks)).terminate()
    await lease.release()
    assert await within(10, locks.acquire("a", timeout=None))


async def test_where_asyncpg_has_another_way_to_send_locks_go_the_documented_one(
    dsn: str, settings: Settings, server_locks: ServerLocks, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(statements, "_BIND_EXECUTE", ("another",))
    async with PostgresLockManager(dsn, sessions=1, settings=settings) as locks:
        for _ in range(3):
            async with locks.hold("a") as lease:
                assert lease.token
                assert server_locks() == 1
        assert session_of(locks).over is None
