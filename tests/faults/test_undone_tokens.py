"""A crash of Postgres undoes a token that was not on disk yet, and the next lease gets the same
one: two holders never both write.
"""

from __future__ import annotations

import asyncio
import os
import signal
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import asyncpg
import pytest

from aiodurable import Durable
from aiodurable.checkpoints.fences import Fence
from aiodurable.dsn import parse_dsn
from aiodurable.errors import HistoryLostError, LeaseLostError, PostgresUnavailableError
from aiodurable.postgres.direct import DirectPool
from aiodurable.runs import acquire
from tests.support.checkpoint_rows import write_in_flight
from tests.support.graphs import INPUT, four_nodes
from tests.support.internals import services_of, session_of
from tests.support.restartable import OwnServer
from tests.support.waiting import wait_until, within

SLOW = {"wal_writer_delay": "10s", "autovacuum": "off"}
"""What nobody waits for gets to the disk seconds later, or with the next commit that waits."""


@asynccontextmanager
async def session(dsn: str) -> AsyncIterator[asyncpg.Connection]:
    db = await asyncpg.connect(**parse_dsn(dsn).asyncpg)
    yield db
    await db.close()


async def tokens(dsn: str) -> list[int]:
    async with session(dsn) as db:
        return [row["token"] for row in await db.fetch("SELECT token FROM aiodurable_fences")]


async def one_turn(durable: Durable) -> int:
    async with durable.run("t", four_nodes()) as run:
        await run.ainvoke(INPUT)
    return run.lease.token


async def lease_that_a_crash_undoes(
    durable: Durable, own: OwnServer, error: type[LeaseLostError]
) -> Fence:
    fences: list[Fence] = []
    with pytest.raises(error) as lost:
        async with durable.run("t", four_nodes()) as run:
            fences.append(run.lease.fence)
            await own.restart("immediate")
            await within(30, run.lease.wait_lost())
    assert not lost.value.taken_over
    return fences[0]


@pytest.mark.parametrize("turns", [0, 1], ids=["a new thread", "a later turn"])
async def test_a_token_that_a_crash_undoes_lets_only_its_next_holder_write(
    own: OwnServer, turns: int
) -> None:
    own.settings |= SLOW
    dsn = await own.start()
    async with Durable(dsn) as early, Durable(dsn) as late:
        for _ in range(turns):
            await one_turn(early)
        async with session(dsn) as db:
            await db.execute("CHECKPOINT")
        before = await tokens(dsn)
        fence = await lease_that_a_crash_undoes(
            early, own, HistoryLostError if turns else LeaseLostError
        )
        assert await tokens(dsn) == before
        await wait_until(lambda: services_of(late).locks.health().healthy)
        assert await one_turn(late) == fence.token, "the same token"
        zombie = Fence("t", *fence.standing)  # of a process that does not know it yet
        async with session(dsn) as db:
            assert not await write_in_flight(db, zombie)
        status = await late.threads.status("t")
        assert status.status == "complete"
        await wait_until(lambda: services_of(early).locks.health().healthy)
        assert await one_turn(early) == fence.token + 1


async def test_what_a_run_writes_takes_its_token_to_the_disk(own: OwnServer) -> None:
    own.settings |= SLOW
    dsn = await own.start()
    async with Durable(dsn) as durable:
        assert await one_turn(durable) == 1
        await own.restart("immediate")
        assert await tokens(dsn) == [1]


async def test_a_token_of_hold_outlives_a_crash(own: OwnServer) -> None:
    """Its body may give it to a system outside, which refuses smaller ones."""
    own.settings |= SLOW
    dsn = await own.start()
    async with Durable(dsn) as durable, durable.hold("t") as lease:
        await own.restart("immediate")
        assert await tokens(dsn) == [lease.token]


async def test_no_body_of_hold_begins_with_a_token_that_a_crash_has_undone(
    own: OwnServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    own.settings |= SLOW
    dsn = await own.start()
    wait_for_disk = acquire.wait_for_disk

    async def crash_before(direct: DirectPool, fence: Fence) -> None:
        await own.restart("immediate")
        await wait_for_disk(direct, fence)

    monkeypatch.setattr(acquire, "wait_for_disk", crash_before)
    given = list[int]()
    async with Durable(dsn) as durable:
        with pytest.raises(LeaseLostError, match="lost what it had committed"):
            async with durable.hold("t") as lease:
                given.append(lease.token)
    assert not given
    assert await tokens(dsn) == []


async def test_a_backend_that_is_killed_with_the_statement_grants_nothing(own: OwnServer) -> None:
    """As when the kernel kills it: Postgres ends all of its backends, and recovers."""
    own.settings |= SLOW
    dsn = await own.start()
    async with Durable(dsn) as durable, Durable(dsn) as other:
        locks = services_of(durable).locks
        async with session(dsn) as db:
            pids = [
                row["pid"]
                for row in await db.fetch(
                    "SELECT pid FROM pg_stat_activity WHERE application_name LIKE 'aiodurable:lock%'"
                )
            ]
        # A session that is new sends an audit: the statement would wait behind that.
        await wait_until(lambda: all(session_of(locks, place).idle for place in (0, 1)))
        for pid in pids:
            os.kill(pid, signal.SIGSTOP)
        entering = asyncio.create_task(one_turn(durable))
        await wait_until(
            lambda: any(session_of(locks, place).requests.under_way for place in (0, 1))
        )
        for pid in pids:
            os.kill(pid, signal.SIGKILL)
        with pytest.raises(PostgresUnavailableError):
            await within(30, entering)

        async def again() -> bool:
            try:
                return bool(await one_turn(other))
            except PostgresUnavailableError:
                return False

        await wait_until(again, what="a turn after the crash")
