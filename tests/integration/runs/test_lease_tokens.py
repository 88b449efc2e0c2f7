"""The token of a thread is raised in the statement that locks it, which waits for nobody."""

from __future__ import annotations

import asyncio
import os
import signal
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack
from typing import Any

import asyncpg
import psycopg
import pytest
from psycopg.conninfo import conninfo_to_dict, make_conninfo

from aiodurable import Durable
from aiodurable.checkpoints.fences import wait_for_disk
from aiodurable.dsn import parse_dsn
from aiodurable.errors import (
    ConfigurationError,
    LockCapacityError,
    LockTimeoutError,
    PostgresUnavailableError,
)
from aiodurable.locks.requests import LEASES
from aiodurable.locks.statements import Leased, LockStatements
from aiodurable.postgres import locked_rows
from aiodurable.postgres.sql import load
from aiodurable.runs.acquire import acquire_lease
from aiodurable.runs.lease import ThreadLease
from aiodurable.settings import Settings
from tests.support.internals import acquirer_of, connection_of, services_of, session_of
from tests.support.session_faults import stopped
from tests.support.waiting import is_held, wait_until, within

ONE_SESSION = Settings(lock_connections=1)
WAITING_TO_LOCK = (
    "SELECT count(*) FROM pg_stat_activity WHERE datname = current_database()"
    " AND wait_event_type = 'Lock' AND application_name LIKE 'aiodurable:lock%'"
)
WAITING = WAITING_TO_LOCK.replace("LIKE", "NOT LIKE")


@pytest.fixture
async def durable(dsn: str) -> AsyncIterator[Durable]:
    async with Durable(dsn, settings=ONE_SESSION) as opened:
        yield opened


@pytest.fixture
def leased(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """How many threads each statement that raises tokens was about."""
    sizes: list[int] = []
    lease = LockStatements.lease

    async def counted(
        self: LockStatements, keys: list[int | None], thread_ids: list[str]
    ) -> Leased:
        sizes.append(len(thread_ids))
        return await lease(self, keys, thread_ids)

    monkeypatch.setattr(LockStatements, "lease", counted)
    return sizes


async def first_of(durable: Durable, thread_id: str) -> tuple[int, bool]:
    """The token of a lease, and whether it took the thread for a new one."""
    async with acquire_lease(services_of(durable), thread_id) as lease:
        return lease.token, lease.first


async def test_tokens_grow_by_one_and_only_an_unknown_thread_is_new(
    durable: Durable, db: asyncpg.Connection, leased: list[int]
) -> None:
    await db.execute(
        "INSERT INTO checkpoints (thread_id, checkpoint_ns, checkpoint_id, checkpoint, metadata)"
        " VALUES ('adopted', '', '1', '{}', '{}')"
    )
    await db.execute(
        "INSERT INTO aiodurable_runs (run_id, thread_id, lock_key, status)"
        " VALUES ('r', 'accepted', 0, 'queued')"
    )
    assert await first_of(durable, "new") == (1, True)
    assert await first_of(durable, "new") == (2, False)
    assert await first_of(durable, "adopted") == (1, False)
    assert await first_of(durable, "accepted") == (1, False)
    assert leased == [1] * 4


async def test_many_threads_are_leased_in_a_few_statements(
    durable: Durable, leased: list[int]
) -> None:
    async def enter(thread_id: str) -> int:
        async with durable.hold(thread_id) as lease:
            await everybody.wait()
            return lease.token

    for token in (1, 2):
        everybody = asyncio.Barrier(LEASES + 50)
        tokens = await asyncio.gather(*(enter(f"t{n}") for n in range(LEASES + 50)))
        assert tokens == [token] * (LEASES + 50)
    assert leased == [LEASES, 50] * 2


async def test_a_lease_that_is_handed_over_in_the_process_has_the_next_token(
    durable: Durable, leased: list[int]
) -> None:
    async def enter(lease_of: asyncio.Future[ThreadLease] | None = None) -> int:
        async with durable.hold("t", on_busy="wait") as lease:
            await asyncio.sleep(0)
            return lease.token

    assert sorted(await asyncio.gather(*(enter() for _ in range(5)))) == [1, 2, 3, 4, 5]
    assert leased == [1] * 5


IN_THE_WAY = {
    "a row that a transaction has locked": "SELECT FROM aiodurable_fences FOR UPDATE",
    "a row that a transaction makes": (
        "INSERT INTO aiodurable_fences (thread_id, token) VALUES ('t', 0)"
    ),
    "a table that a transaction alters": "LOCK TABLE aiodurable_fences IN ACCESS EXCLUSIVE MODE",
    "a table that is only read": "LOCK TABLE checkpoints IN ACCESS EXCLUSIVE MODE",
}


@pytest.mark.parametrize("statement", IN_THE_WAY.values(), ids=list(IN_THE_WAY))
async def test_a_lock_session_does_not_wait_for_a_transaction(
    dsn: str, durable: Durable, db: asyncpg.Connection, statement: str
) -> None:
    """It locks the thread, whose token is raised elsewhere when the transaction has ended."""
    watcher = await asyncpg.connect(**parse_dsn(dsn).asyncpg)
    if "FOR UPDATE" in statement:
        await first_of(durable, "t")
    transaction = db.transaction()
    await transaction.start()
    await db.execute(statement)
    entering = asyncio.create_task(first_of(durable, "t"))
    if "checkpoints" not in statement:
        await wait_until(lambda: watcher.fetchval(WAITING), what="the raising to wait")
    async with services_of(durable).locks.hold("another"):
        pass

    async def free() -> bool:
        return not await watcher.fetchval(WAITING_TO_LOCK)

    await wait_until(free, what="the lock session to wait for nothing")
    if "checkpoints" not in statement:
        assert not entering.done()
        assert await is_held(durable, "t")
    await transaction.rollback()
    token, first = await within(10, entering)
    assert token == (2 if "FOR UPDATE" in statement else 1)
    assert not first, "nobody looked at the thread"
    assert not await is_held(durable, "t")
    assert session_of(services_of(durable).locks).over is None
    await watcher.close()


async def test_one_thread_in_the_way_does_not_keep_the_others_of_its_statement(
    durable: Durable, db: asyncpg.Connection, leased: list[int]
) -> None:
    transaction = db.transaction()
    await transaction.start()
    await db.execute("INSERT INTO aiodurable_fences (thread_id, token) VALUES ('t0', 0)")
    stuck, *others = (asyncio.create_task(first_of(durable, f"t{n}")) for n in range(20))
    assert [token for token, _ in await within(10, asyncio.gather(*others))] == [1] * 19
    assert not stuck.done()
    assert leased == [20]
    await transaction.rollback()
    await within(10, stuck)


@pytest.fixture
async def lowly(
    dsn: str, admin: psycopg.Connection[Any], db: asyncpg.Connection
) -> AsyncIterator[str]:
    """The DSN of a role that owns nothing, and may do with the tables what it likes."""
    admin.execute(b"CREATE ROLE lowly LOGIN PASSWORD 'lowly'")
    await db.execute("GRANT ALL ON ALL TABLES IN SCHEMA public TO lowly")
    await db.execute("GRANT ALL ON ALL SEQUENCES IN SCHEMA public TO lowly")
    yield make_conninfo(dsn, user="lowly", password="lowly")
    await db.execute("DROP OWNED BY lowly")
    admin.execute(b"DROP ROLE lowly")


async def test_a_right_that_is_taken_away_is_an_error_and_leaves_the_thread_unlocked(
    lowly: str, db: asyncpg.Connection
) -> None:
    async with Durable(lowly, settings=Settings(auto_migrate=False)) as durable:
        assert await first_of(durable, "t") == (1, True)
        await db.execute("REVOKE UPDATE ON aiodurable_fences FROM lowly")
        with pytest.raises(ConfigurationError, match="aiodurable_fences"):
            await first_of(durable, "t")
        assert not await is_held(durable, "t")
        await db.execute("GRANT UPDATE ON aiodurable_fences TO lowly")
        assert await first_of(durable, "t") == (2, False)


async def test_a_role_without_temporary_objects_has_its_tokens_raised_on_other_connections(
    lowly: str, dsn: str, db: asyncpg.Connection, leased: list[int]
) -> None:
    await db.execute(f"REVOKE TEMP ON DATABASE {conninfo_to_dict(dsn)['dbname']} FROM PUBLIC")
    async with Durable(lowly, settings=Settings(auto_migrate=False)) as durable:
        assert await first_of(durable, "t") == (1, False)
        assert await first_of(durable, "t") == (2, False)
    assert not leased


async def test_where_an_event_trigger_refuses_functions_tokens_are_raised_on_other_connections(
    dsn: str, db: asyncpg.Connection, leased: list[int]
) -> None:
    await db.execute(
        "CREATE FUNCTION frozen() RETURNS event_trigger LANGUAGE plpgsql AS"
        " $$ BEGIN RAISE EXCEPTION 'no change outside a release'; END $$"
    )
    await db.execute("CREATE EVENT TRIGGER frozen ON ddl_command_start EXECUTE FUNCTION frozen()")
    async with Durable(dsn, settings=ONE_SESSION) as durable:
        assert await first_of(durable, "t") == (1, False)
        assert await first_of(durable, "t") == (2, False)
    assert not leased


async def test_a_full_lock_table_leaves_the_thread_unlocked(
    durable: Durable, monkeypatch: pytest.MonkeyPatch
) -> None:
    lease = LockStatements.lease

    async def full(self: LockStatements, *args: list[int] | list[str]) -> Leased:
        await lease(self, *args)  # pyright: ignore[reportArgumentType]
        raise asyncpg.OutOfMemoryError("out of shared memory")

    with monkeypatch.context() as patched:
        patched.setattr(LockStatements, "lease", full)
        with pytest.raises(LockCapacityError, match="lock table is full"):
            await first_of(durable, "t")
    assert not await is_held(durable, "t")
    assert (await first_of(durable, "t"))[0] == 2


async def test_only_the_lease_itself_waits_shortly_for_a_lock(durable: Durable) -> None:
    await first_of(durable, "t")
    connection = connection_of(session_of(services_of(durable).locks))
    assert await connection.fetchval("SHOW lock_timeout") == "0"


@pytest.mark.parametrize(
    ("default", "waits"),
    [("off", "on"), ("on", "on"), ("local", "local"), ("remote_apply", "remote_apply")],
)
async def test_of_a_lock_session_only_the_tokens_of_bare_locks_wait_for_the_disk(
    dsn: str, db: asyncpg.Connection, default: str, waits: str
) -> None:
    name = conninfo_to_dict(dsn)["dbname"]
    await db.execute(f'ALTER DATABASE "{name}" SET synchronous_commit = {default}')
    async with Durable(dsn, settings=ONE_SESSION) as durable:
        session = session_of(services_of(durable).locks)
        await wait_until(lambda: session.idle)  # its first audit uses the connection too
        connection = connection_of(session)
        for block, args, expected in (
            ("acquire", [1], waits),
            ("batch", [[], [3], False], waits),
            ("batch", [[], [], True], waits),
            ("batch", [[3], [], False], "off"),
            ("lease", [["t"], [7], [2]], "off"),
        ):
            async with connection.transaction():
                await connection.fetch(load("locks")[block], *args)
                assert await connection.fetchval("SHOW synchronous_commit") == expected, block


async def test_a_token_of_hold_is_on_disk_when_its_body_begins(
    durable: Durable, db: asyncpg.Connection
) -> None:
    async with durable.hold("t"):
        written = await db.fetchval(
            "SELECT f.xmin FROM aiodurable_fences f WHERE thread_id = 't' AND xmax <> 0"
        )
    assert written is not None, "the row was locked in a transaction of its own"


async def test_who_waits_for_the_disk_behind_a_locked_row_holds_up_no_other_thread(
    dsn: str, db: asyncpg.Connection
) -> None:
    watcher = await asyncpg.connect(**parse_dsn(dsn).asyncpg)
    locked = ("locked-0", "locked-1")  # as many as statements of every run have connections
    async with (
        Durable(dsn, settings=Settings(pool_max_size=2)) as durable,
        AsyncExitStack() as held,
    ):
        services = services_of(durable)
        leases = [await held.enter_async_context(acquire_lease(services, t)) for t in locked]
        direct = services.checkpoints.direct
        async with db.transaction():
            await db.execute("SELECT FROM aiodurable_fences FOR UPDATE")
            waits = [asyncio.create_task(wait_for_disk(direct, lease.fence)) for lease in leases]
            # a transaction would see the activity of its first look again and again
            await wait_until(lambda: watcher.fetchval(WAITING), what="the locked rows")
            async with durable.hold("other"):
                await within(8, durable.threads.status("other"), what="another thread")
            assert not any(wait.done() for wait in waits)
        await within(10, asyncio.gather(*waits), what="the end of what waited")
    await watcher.close()


async def test_a_fence_that_stays_locked_is_given_up_and_the_error_says_so(
    durable: Durable, db: asyncpg.Connection, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(locked_rows, "PATIENCE_S", 0.3)
    services = services_of(durable)
    async with acquire_lease(services, "t") as lease, db.transaction():
        await db.execute("SELECT FROM aiodurable_fences FOR UPDATE")
        with pytest.raises(LockTimeoutError, match="idle in a transaction"):
            await within(15, wait_for_disk(services.checkpoints.direct, lease.fence))


async def test_who_is_cancelled_while_the_statement_is_under_way_leaves_no_lock(
    durable: Durable, leased: list[int]
) -> None:
    session = session_of(services_of(durable).locks)
    async with stopped(session):
        entering = asyncio.create_task(first_of(durable, "t"))
        await wait_until(lambda: leased == [1])
        await cancelled(entering)
    await wait_until(lambda: session.idle)
    assert not await is_held(durable, "t")
    assert (await first_of(durable, "t"))[0] == 2


@pytest.mark.parametrize("waits", [False, True], ids=["nobody", "the next task"])
async def test_who_is_cancelled_before_the_statement_of_a_handover_raises_no_token(
    durable: Durable, db: asyncpg.Connection, waits: bool
) -> None:
    """The thread may be another process's by then, or goes to the next task with another id."""
    services = services_of(durable)
    session, queue = session_of(services.locks), acquirer_of(services.locks).queue
    lock = await services.locks.acquire_thread("t")
    entering = asyncio.create_task(services.locks.acquire_thread("t", timeout=None))
    await wait_until(lambda: queue.waiting == 1)
    following = asyncio.create_task(services.locks.acquire_thread("t", timeout=None))
    await wait_until(lambda: queue.waiting == 2)
    if not waits:
        await cancelled(following)
    async with stopped(session):
        busy = asyncio.create_task(services.locks.acquire("another"))
        await wait_until(lambda: session.sending or session.lone is not None)
        await lock.release()
        await wait_until(lambda: session.requests.leases.renewals.keys)
        await cancelled(entering)
    await busy
    raised = (await following).raised if waits else lock.raised
    await wait_until(lambda: session.idle)
    assert raised is not None
    fence = await db.fetchrow("SELECT token, lease_id FROM aiodurable_fences")
    assert fence == (raised.token, raised.lease_id)
    assert raised.token == (2 if waits else 1)
    assert await is_held(durable, "t") == waits


async def cancelled(task: asyncio.Task[Any]) -> None:
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task


async def test_a_session_that_is_terminated_with_the_statement_under_way_grants_nothing(
    durable: Durable, leased: list[int]
) -> None:
    session = session_of(services_of(durable).locks)
    async with stopped(session):
        entering = asyncio.create_task(first_of(durable, "t"))
        await wait_until(lambda: leased == [1])
        os.kill(session.statements.pid, signal.SIGTERM)
    with pytest.raises(PostgresUnavailableError):
        await entering
    await wait_until(lambda: services_of(durable).locks.health().healthy)
    assert (await first_of(durable, "t"))[0] in (1, 2)


async def test_the_function_is_found_in_no_schema_of_the_search_path(
    durable: Durable, db: asyncpg.Connection
) -> None:
    assert "pg_temp.aiodurable_lease(" in load("locks")["lease"]
    assert await db.fetchval("SELECT to_regproc('aiodurable_lease')") is None
    await first_of(durable, "t")
