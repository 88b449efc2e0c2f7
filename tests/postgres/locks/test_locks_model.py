"""Whatever happens in whatever order, these stay true. Two managers (as good as two processes) against real Postgres.

 1  one holder of a key in all the world, as far as leases that are not lost go
 2  the server has a key at most once
 3  a key is released on the session that took it
 4  no statement ever blocks on a lock
 5  no statement is ever cancelled
 6  nothing is leaked: when all is let go, the server has nothing
 7  a lease is not trusted after its deadline
 8  another backend that answers means lost
 9  a full lock table fails the asking, and nothing stays (also in test_locks_capacity)
10  the tokens of a name grow from lease to lease
11  a release is never behind those who wait
12  when all is quiet, pg_locks is what is believed to be held
13  nobody holds more than the share
14  a forked child holds nothing (in test_locks_process)
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
from collections.abc import Iterator
from typing import Any

import psycopg
import pytest
from hypothesis import HealthCheck, Phase, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule, run_state_machine_as_test

from aiodurable.errors import LockCapacityError, PostgresUnavailableError
from aiodurable.locks import Lease, PostgresLockManager
from aiodurable.locks.session import LockSession
from aiodurable.settings import Settings
from conftest import Server
from server_locks import ServerLocks

NAMES = ["a", "b", "c", "d"]
EXAMPLES = int(os.environ.get("AIODURABLE_TEST_EXAMPLES", "12"))
TOO_LONG_S = 10.0


class Locks(RuleBasedStateMachine):
    """Rules act; after each of them, and once all is quiet, the invariants hold."""

    dsn = ""
    admin: psycopg.Connection[Any]

    def __init__(self) -> None:
        super().__init__()
        self.runner = asyncio.Runner()
        self.server = ServerLocks(self.dsn, self.admin)
        self.managers: list[PostgresLockManager] = []
        self.waiting: list[tuple[str, asyncio.Task[Lease]]] = []
        self.held: list[Lease] = []
        self.tokens: dict[str, int] = {}
        self.do(self._open())

    def do(self, work: Any) -> Any:
        return self.runner.run(asyncio.wait_for(work, TOO_LONG_S))

    async def _open(self) -> None:
        self.managers = [PostgresLockManager(self.dsn, settings=Settings(close_timeout_s=2)) for _ in range(2)]
        for locks in self.managers:
            await locks.open()

    # ---- rules -------------------------------------------------------------------------------------------------------

    @rule(who=st.integers(0, 1), name=st.sampled_from(NAMES))
    def try_one(self, who: int, name: str) -> None:
        async def work() -> None:
            with contextlib.suppress(PostgresUnavailableError):
                if lease := await self.managers[who].try_acquire(name):
                    self._took(lease)

        self.do(work())

    @rule(who=st.integers(0, 1), name=st.sampled_from(NAMES))
    def begin_to_wait(self, who: int, name: str) -> None:
        async def work() -> None:
            self.waiting.append((name, asyncio.create_task(self.managers[who].acquire(name, timeout=None))))

        self.do(work())

    @rule(turns=st.integers(0, 12))
    def go_on(self, turns: int) -> None:
        async def work() -> None:
            for _ in range(turns):
                await asyncio.sleep(0)

        self.do(work())

    # What is drawn never depends on what Postgres happened to answer: without a lease to release, nothing is done.

    @rule(pick=st.integers(0, 99), cancel_after=st.none() | st.integers(1, 5))  # after 0 it would never have begun
    def release(self, pick: int, cancel_after: int | None) -> None:
        if not self.held:
            return
        lease = self.held.pop(pick % len(self.held))

        async def work() -> None:
            releasing = asyncio.create_task(lease.release())
            if cancel_after is not None:
                for _ in range(cancel_after):
                    await asyncio.sleep(0)
                releasing.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await releasing

        self.do(work())

    @rule(pick=st.integers(0, 99))
    def cancel(self, pick: int) -> None:
        if not self.waiting:
            return
        waiting = self.waiting.pop(pick % len(self.waiting))

        async def work() -> None:
            if not waiting[1].cancel() and waiting[1].exception() is None:
                self._took(waiting[1].result())

        self.do(work())

    @rule(who=st.integers(0, 1), place=st.integers(0, 1))
    def lose(self, who: int, place: int) -> None:
        session = self.managers[who]._keepers[place].session
        if session is not None and session.over is None:
            self.server.end_session_of(session.wire.pid)

    @rule(who=st.integers(0, 1), place=st.integers(0, 1))
    def answer_from_elsewhere(self, who: int, place: int) -> None:
        session = self.managers[who]._keepers[place].session
        if session is None or session.over is not None:
            return

        async def work() -> None:
            session.wire.pid += 1_000_000
            session.audit_soon()
            while session.over is None:  # noqa: ASYNC110  # invariant 8
                await asyncio.sleep(0)

        self.do(work())

    @rule(who=st.integers(0, 1), place=st.integers(0, 1))
    def pass_the_deadline(self, who: int, place: int) -> None:
        session = self.managers[who]._keepers[place].session
        if session is None:
            return
        session.trusted_until = 0.0
        assert all(lease.lost for lease in self.held if lease._holding is session)  # invariant 7

        async def work() -> None:
            session._work.set()
            session.audit_soon()
            while session.over is None:  # noqa: ASYNC110
                await asyncio.sleep(0)

        self.do(work())

    @rule(who=st.integers(0, 1))
    def overrun_the_share(self, who: int) -> None:
        async def work() -> None:
            locks = self.managers[who]
            sessions = [keeper.session for keeper in locks._keepers]
            for session in sessions:
                if session is not None:
                    session.share = 0
            with contextlib.suppress(PostgresUnavailableError, LockCapacityError):
                if lease := await locks.try_acquire("beyond"):
                    await lease.release()  # a session that came up only now
            for session in sessions:
                if session is not None:
                    session.share = 1000

        self.do(work())

    @rule()
    def come_to_rest(self) -> None:
        """Wait until nothing is under way; then the books and the server's must agree."""
        self.do(self._rest())
        assert not [lease for lease in self.held if lease.released]
        believed = sum(len(session.held) for session in self._sessions())
        assert self.server.leases() == believed  # invariant 12
        held = {(lease.key, id(lease._holding)) for lease in self.held if not lease.lost}
        assert held == {(key, id(session)) for session in self._sessions() for key in session.held}

    # ---- invariants --------------------------------------------------------------------------------------------------

    @invariant()
    def one_holder_of_a_key(self) -> None:
        self._collect()
        keys = [lease.key for lease in self.held if not lease.lost]
        assert len(keys) == len(set(keys))

    @invariant()
    def the_server_has_a_key_once_and_nobody_blocks_there(self) -> None:
        row = self.admin.execute(
            "SELECT count(*) FILTER (WHERE NOT granted), count(*), count(DISTINCT (database, classid, objid)) "
            "FROM pg_locks WHERE locktype = 'advisory' AND objsubid = 1 AND mode = 'ExclusiveLock'"
        ).fetchone()
        assert row is not None
        assert row[0] == 0
        assert row[1] == row[2]

    @invariant()
    def a_session_holds_what_was_taken_on_it_and_no_more_than_its_share(self) -> None:
        for session in self._sessions():
            assert all(lease._holding is session for lease in session.held.values())
            assert len(session.held) <= session.share
            assert len(session._asked.releases) == 0 or not session._asked.under_way.acquires or session._sending

    # ---- small parts -------------------------------------------------------------------------------------------------

    def _took(self, lease: Lease) -> None:
        assert lease.token > self.tokens.get(lease.name, 0)  # invariant 10
        self.tokens[lease.name] = lease.token
        self.held.append(lease)

    def _collect(self) -> None:
        done = [each for each in self.waiting if each[1].done()]
        self.waiting = [each for each in self.waiting if not each[1].done()]
        for lease in sorted((task.result() for _, task in done), key=lambda lease: lease.token):
            self._took(lease)

    def _sessions(self) -> list[LockSession]:
        sessions = [keeper.session for locks in self.managers for keeper in locks._keepers]
        return [session for session in sessions if session is not None and session.over is None]

    async def _rest(self) -> None:
        """All sessions are up, nothing is asked, and who waits waits for a key that is held."""
        while True:
            await asyncio.sleep(0.001)
            self._collect()
            if len(self._sessions()) < 4 or not all(session.idle for session in self._sessions()):
                continue
            held = {lease.name for lease in self.held}
            if all(name in held for name, _ in self.waiting) and self.server.sessions() == 4:
                return

    def teardown(self) -> None:
        async def let_everything_go() -> None:
            while self.waiting or self.held:
                for lease in self.held:
                    await lease.release()
                self.held.clear()
                await asyncio.sleep(0.001)
                self._collect()
            await self._rest()

        try:
            self.do(let_everything_go())
            self.do(asyncio.sleep(0))
            assert self.server() == 0  # invariant 6, waiters' flags included
            assert all(not locks._taking.turns._queues for locks in self.managers)
        finally:
            self.do(asyncio.gather(*(locks.aclose() for locks in self.managers)))
            self.runner.close()
        assert self.server() == 0


@pytest.fixture
def model(server: Server, template: str, admin: psycopg.Connection[Any]) -> Iterator[type[Locks]]:
    name = server.create(template)
    logging.getLogger("aiodurable.locks").setLevel(logging.CRITICAL)
    yield type("Locks", (Locks,), {"dsn": server.database(name), "admin": admin})
    logging.getLogger("aiodurable.locks").setLevel(logging.NOTSET)
    server.drop(name)


@pytest.mark.timeout(600)
def test_whatever_happens_in_whatever_order_the_invariants_hold(
    model: type[Locks], monkeypatch: pytest.MonkeyPatch
) -> None:
    cancelled: list[object] = []
    monkeypatch.setattr("asyncpg.connection.Connection._cancel_current_command", lambda *_: cancelled.append(1))
    run_state_machine_as_test(
        model,
        settings=settings(
            max_examples=EXAMPLES,
            stateful_step_count=40,
            deadline=None,
            phases=[Phase.explicit, Phase.reuse, Phase.generate],  # a shrink would take minutes of real time
            suppress_health_check=list(HealthCheck),
        ),
    )
    assert not cancelled  # invariant 5
