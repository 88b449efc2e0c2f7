"""Whatever happens in whatever order, these stay true.

Two managers (as good as two processes) against real Postgres.

 1  one holder of a key in all the world, as far as leases go that are not lost, and whose backend
    nobody has ended: it lets its locks go a moment before its client can know (what is fenced is
    safe even then)
 2  the server has a key at most once; a hidden second count would stay when all is released
 3  a key is released on the session that acquired it
 4  no statement ever blocks on a lock (and none of the SQL could: see the second test)
 5  no statement is ever cancelled
 6  nothing is leaked: when all is released, the server has nothing
 7  a lease is trusted no longer than T − M after the last answered statement was sent, and not
    after its deadline
 8  another backend that answers means that all leases of the session are lost
 9  a full lock table (53200) fails the request, and nothing stays of it
10  the tokens of a name grow from lease to lease
11  a release never waits behind a try
12  when all is quiet, pg_locks, or the table, is what is believed to be held, session by session
13  nobody holds more than the share
14  a forked child holds nothing, and its parent loses nothing

The rest of 14, that a child which outlives its parent does not keep the parent's locks, needs a
process to kill: it is in faults/test_lock_processes. The exact counts of 9, at every size of a
batch, are in test_capacity.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import re
import sys
import time
from collections.abc import Iterator
from typing import Any
from unittest.mock import patch

import psycopg
import pytest
from hypothesis import HealthCheck, Phase, settings
from hypothesis import strategies as st
from hypothesis.errors import Flaky
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule, run_state_machine_as_test

from aiodurable.errors import LockCapacityError, PostgresUnavailableError
from aiodurable.locks import Lease, PostgresLockManager
from aiodurable.locks.lease_timing import LeaseTiming
from aiodurable.locks.session import LockSession
from aiodurable.postgres import sql
from aiodurable.settings import Settings
from tests.support import loops
from tests.support.internals import acquirer_of, supervisors_of, trust_of, wake
from tests.support.lock_view import ServerLocks
from tests.support.postgres import left_alone, small_server
from tests.support.session_recorder import Books
from tests.support.waiting import wait_until, within

NAMES = ["a", "b", "c", "d", "e", "f"]
TOO_LONG_S = 20.0
TIMES = Settings(lease_ttl_s=5, lease_heartbeat_s=1, lease_safety_margin_s=0.2, close_timeout_s=2)


class Locks(RuleBasedStateMachine):
    """Rules act; after each of them, and once all is quiet, the invariants hold."""

    dsn = ""
    admin: psycopg.Connection[Any]
    books: Books
    failures: list[Exception]

    def __init__(self) -> None:
        super().__init__()
        self.books.wrong.clear()
        self.runner = asyncio.Runner(loop_factory=loops.new_event_loop)
        self.server = ServerLocks(self.dsn, self.admin)
        self.managers: list[PostgresLockManager] = []
        self.waiting: list[tuple[str, PostgresLockManager, asyncio.Task[Lease]]] = []
        self.held: list[Lease] = []
        self.manager_of: dict[Lease, PostgresLockManager] = {}
        self.tokens: dict[str, int] = {}
        self.given: set[tuple[str, int]] = set()
        self.ended: set[object] = set()
        self.do(self._open())

    def do(self, work: Any) -> Any:
        try:
            return self.runner.run(within(TOO_LONG_S, work))
        except Exception as error:
            self.failures.append(error)
            raise

    async def _open(self) -> None:
        self.managers = [PostgresLockManager(self.dsn, settings=TIMES) for _ in range(2)]
        for locks in self.managers:
            await locks.open()

    # ---- rules ----------------------------------------------------------------------------------

    @rule(who=st.integers(0, 1), name=st.sampled_from(NAMES))
    def try_one(self, who: int, name: str) -> None:
        async def work() -> None:
            with contextlib.suppress(PostgresUnavailableError):
                if lease := await self.managers[who].try_acquire(name):
                    self._took(lease, self.managers[who])

        self.do(work())

    @rule(
        who=st.integers(0, 1),
        names=st.lists(st.sampled_from(NAMES), min_size=1, max_size=6, unique=True),
    )
    def let_everything_go_and_take_some_in_one_turn(self, who: int, names: list[str]) -> None:
        leases, self.held = self.held, []
        locks = self.managers[who]

        async def work() -> None:
            releasing = [asyncio.create_task(lease.release()) for lease in leases]
            taking = [asyncio.create_task(locks.try_acquire(name)) for name in names]
            await asyncio.gather(*releasing)
            for result in await asyncio.gather(*taking, return_exceptions=True):
                if isinstance(result, Lease):
                    self._took(result, locks)
                else:
                    assert result is None or isinstance(result, PostgresUnavailableError)

        self.do(work())

    @rule(who=st.integers(0, 1))
    def let_many_go_while_many_others_are_tried(self, who: int) -> None:
        async def many(names: list[str]) -> list[asyncio.Task[Lease | None]]:
            tasks = [asyncio.create_task(self.managers[who].try_acquire(name)) for name in names]
            await asyncio.sleep(0)
            return tasks

        async def leases(tasks: list[asyncio.Task[Lease | None]]) -> list[Lease]:
            results = await asyncio.gather(*tasks, return_exceptions=True)
            return [
                result for result in results if isinstance(result, Lease)
            ]  # or its session was lost

        async def work() -> None:
            first = await leases(await many([f"first {number}" for number in range(10)]))
            releasing = [asyncio.create_task(lease.release()) for lease in first]
            trying = await many([f"second {number}" for number in range(10)])
            await asyncio.gather(*releasing)
            for lease in await leases(trying):
                await lease.release()

        self.do(work())

    @rule(pick=st.integers(0, 99))
    def take_a_lost_one_again(self, pick: int) -> None:
        lost = [lease for lease in self.held if lease.lost]
        if not lost:
            return
        lease = lost[pick % len(lost)]
        locks = self.manager_of[lease]

        async def work() -> None:
            with contextlib.suppress(PostgresUnavailableError):
                if again := await locks.reacquire(lease):
                    self.held.remove(lease)
                    self._took(again, locks)

        self.do(work())

    @rule(who=st.integers(0, 1), name=st.sampled_from(NAMES))
    def begin_to_wait(self, who: int, name: str) -> None:
        async def work() -> None:
            locks = self.managers[who]
            self.waiting.append(
                (name, locks, asyncio.create_task(locks.acquire(name, timeout=None)))
            )

        self.do(work())

    @rule(turns=st.integers(0, 12))
    def go_on(self, turns: int) -> None:
        async def work() -> None:
            for _ in range(turns):
                await asyncio.sleep(0)

        self.do(work())

    # What is drawn never depends on what Postgres happened to answer: without a lease to release,
    # nothing is done.

    @rule(
        pick=st.integers(0, 99), cancel_after=st.none() | st.integers(1, 5)
    )  # after 0 it would never have begun
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
        _, locks, task = self.waiting.pop(pick % len(self.waiting))

        async def work() -> None:
            if not task.cancel() and task.exception() is None:
                self._took(task.result(), locks)

        self.do(work())

    @rule(who=st.integers(0, 1), place=st.integers(0, 1))
    def lose(self, who: int, place: int) -> None:
        session = supervisors_of(self.managers[who])[place].session
        if session is not None and session.over is None:
            self.ended.add(session.clock.trust)
            self.server.end_session_of(session.statements.pid)

    @rule(who=st.integers(0, 1), place=st.integers(0, 1))
    def answer_from_elsewhere(self, who: int, place: int) -> None:
        session = supervisors_of(self.managers[who])[place].session
        if session is None or session.over is not None:
            return

        theirs = [lease for lease in self.held if trust_of(lease) is session.clock.trust]

        async def work() -> None:
            session.statements.pid += 1_000_000
            session.audit_soon()
            while session.over is None:  # noqa: ASYNC110
                await asyncio.sleep(0)

        self.do(work())
        assert all(lease.lost for lease in theirs)  # invariant 8

    @rule(who=st.integers(0, 1), place=st.integers(0, 1))
    def pass_the_deadline(self, who: int, place: int) -> None:
        session = supervisors_of(self.managers[who])[place].session
        if session is None:
            return
        session.clock.trust.until = 0.0
        assert all(
            lease.lost for lease in self.held if trust_of(lease) is session.clock.trust
        )  # invariant 7

        async def work() -> None:
            wake(session)
            session.audit_soon()
            while session.over is None:  # noqa: ASYNC110
                await asyncio.sleep(0)

        self.do(work())

    @rule(who=st.integers(0, 1))
    def overrun_the_share(self, who: int) -> None:
        async def work() -> None:
            locks = self.managers[who]
            mine = [
                session
                for keeper in supervisors_of(locks)
                if (session := keeper.session) is not None
            ]
            shares = {session: session.share for session in (*mine, *self._sessions())}
            up = len(mine) == 2 and all(session.over is None for session in mine)
            for session in mine:
                session.share = 0
            try:
                with patch(
                    "aiodurable.locks.sender.share", return_value=0
                ):  # all that an audit under way learns
                    lease = await locks.try_acquire("beyond")
            except (LockCapacityError, PostgresUnavailableError):
                pass
            else:
                assert lease is not None
                assert not up  # invariant 13
                await lease.release()
            finally:
                for session, share in shares.items():
                    session.share = share

        self.do(work())

    @rule(who=st.integers(0, 1), many=st.integers(1, 20))
    def ask_while_a_stranger_has_all_the_room_there_is(self, who: int, many: int) -> None:
        async def work() -> None:
            locks = self.managers[who]
            names = [f"brim {number}" for number in range(many)]
            for result in await asyncio.gather(
                *(locks.try_acquire(name) for name in names), return_exceptions=True
            ):
                if isinstance(result, Lease):  # a place was left
                    await result.release()
                else:
                    assert isinstance(result, LockCapacityError | PostgresUnavailableError), (
                        result
                    )  # invariant 9

        fill = "SELECT count(pg_try_advisory_lock_shared(7, n)) FROM generate_series(%s, %s) AS n"
        with psycopg.connect(self.dsn, autocommit=True) as stranger:
            for first in range(
                0, 4_000_000, 1_000_000
            ):  # what the failed statement itself had locked is free again
                with contextlib.suppress(psycopg.errors.OutOfMemory):
                    stranger.execute(fill, (first, first + 999_999))
            self.do(work())
            stranger.execute(
                "SELECT pg_advisory_unlock_all()"
            )  # by the time it has closed, others would have asked

    @rule()
    def fork(self) -> None:
        before = {lease: trust_of(lease).until for lease in self.held if not lease.lost}
        read, write = os.pipe()
        if (child := os.fork()) == 0:
            holds = [lease for lease in self.held if not lease.lost]
            holds += [
                key
                for locks in self.managers
                for keeper in supervisors_of(locks)
                for key in _held(keeper.session)
            ]
            os.write(write, b"held" if holds else b"nothing")
            os._exit(0)
        os.close(write)
        with os.fdopen(read) as pipe:
            assert pipe.read() == "nothing"  # invariant 14
        os.waitpid(child, 0)
        too_early = [
            lease for lease, until in before.items() if lease.lost and time.monotonic() < until
        ]
        assert not too_early

    @rule()
    def come_to_rest(self) -> None:
        """Wait until nothing is under way; then the books and the server's must agree."""
        self.do(self._rest())
        assert not [lease for lease in self.held if lease.released]
        believed = {
            (session.statements.pid, key) for session in self._sessions() for key in session.held
        }
        assert self.server.keys() == believed  # invariant 12
        held = {(lease.key, id(trust_of(lease))) for lease in self.held if not lease.lost}
        assert held == {
            (key, id(session.clock.trust)) for session in self._sessions() for key in session.held
        }

    # ---- invariants -----------------------------------------------------------------------------

    @invariant()
    def one_holder_of_a_key(self) -> None:
        self._collect()
        keys = [
            lease.key for lease in self.held if not lease.lost and trust_of(lease) not in self.ended
        ]
        assert len(keys) == len(set(keys))

    @invariant()
    def the_server_has_a_key_once_and_nobody_blocks_there(self) -> None:
        row = self.admin.execute(
            "SELECT count(*) FILTER (WHERE NOT granted AND locktype IN ('advisory',"
            " 'transactionid', 'tuple', 'spectoken')), count(*) FILTER (WHERE exclusive),"
            " count(DISTINCT (database, classid, objid)) FILTER (WHERE exclusive) FROM (SELECT *,"
            " locktype = 'advisory' AND objsubid = 1 AND mode = 'ExclusiveLock' AS exclusive FROM"
            " pg_locks) l"
        ).fetchone()
        assert row is not None
        assert row[0] == 0  # invariant 4
        assert row[1] == row[2]  # invariant 2

    @invariant()
    def the_books_agree(self) -> None:
        assert not self.books.wrong  # invariants 3, 5 and 11
        for session in self._sessions():
            assert not self.books.trusted_too_long(session)  # invariant 7
            assert all(trust_of(lease) is session.clock.trust for lease in session.held.values())
            assert len(session.held) <= session.share  # invariant 13

    # ---- small parts ----------------------------------------------------------------------------

    def _took(self, lease: Lease, locks: PostgresLockManager) -> None:
        self.manager_of[lease] = locks
        # A waiter may have been given it long ago, and lost it, before anybody looked: it was older
        # than what came since.
        last = self.tokens.get(lease.name, 0)
        assert lease.token > last or lease.lost  # invariant 10
        assert (lease.name, lease.token) not in self.given
        self.tokens[lease.name] = max(last, lease.token)
        self.given.add((lease.name, lease.token))
        self.held.append(lease)

    def _collect(self) -> None:
        done = [(task, locks) for _, locks, task in self.waiting if task.done()]
        self.waiting = [each for each in self.waiting if not each[2].done()]
        for task, _ in done:
            assert task.exception() is None or isinstance(
                task.exception(), LockCapacityError
            )  # invariant 9
        served = [(task.result(), locks) for task, locks in done if task.exception() is None]
        for lease, locks in sorted(served, key=lambda each: each[0].token):
            self._took(lease, locks)

    def _sessions(self) -> list[LockSession]:
        sessions = [keeper.session for locks in self.managers for keeper in supervisors_of(locks)]
        return [session for session in sessions if session is not None and session.over is None]

    async def _rest(self) -> None:
        for _ in range(10):  # timers that came due while the loop stood still run first
            await asyncio.sleep(0)
        await wait_until(self._at_rest, TOO_LONG_S)

    def _at_rest(self) -> bool:
        """All sessions are up, nothing is asked, and who waits waits for a key that is held."""
        self._collect()
        sessions = self._sessions()
        if len(sessions) < 4 or not all(session.idle for session in sessions):
            return False
        if any(session.clock.trust in self.ended for session in sessions):
            return False  # it does not know yet, and its dying backend is still listed
        # A lost lease keeps out only the tasks of its own process.
        held = {(lease.name, locks) for lease in self.held for locks in self._kept_out_by(lease)}
        served = all((name, locks) in held for name, locks, _ in self.waiting)
        return served and self.server.sessions() == 4

    def _kept_out_by(self, lease: Lease) -> list[PostgresLockManager]:
        return [self.manager_of[lease]] if lease.lost else list(self.managers)

    def teardown(self) -> None:
        if isinstance(error := sys.exception(), Exception):
            self.failures.append(error)

        async def let_everything_go() -> None:
            while self.waiting or self.held:
                for lease in self.held:
                    await lease.release()
                self.held.clear()
                await asyncio.sleep(0)
                self._collect()
            await self._rest()

        async def close() -> None:
            await asyncio.gather(*(locks.aclose() for locks in self.managers))

        try:
            self.do(let_everything_go())
            self.do(asyncio.sleep(0))
            assert self.server() == 0  # invariant 6, waiters' flags included
            assert all(acquirer_of(locks).queue.empty for locks in self.managers)
        finally:
            self.do(close())
            self.runner.close()
        assert self.server() == 0


def _held(session: LockSession | None) -> list[int]:
    return [] if session is None else list(session.held)


@pytest.fixture(scope="module")
def small_of_all() -> Iterator[str]:
    """A server with a small lock table."""
    with small_server() as url:
        yield url


@pytest.fixture
def small(small_of_all: str) -> str:
    """The same, without what the test before had open."""
    return left_alone(small_of_all)


@pytest.fixture
def model(small: str, monkeypatch: pytest.MonkeyPatch) -> Iterator[type[Locks]]:
    books = Books(LeaseTiming.of(TIMES))
    books.keep(monkeypatch)
    monkeypatch.setattr(
        "aiodurable.locks.requests.BATCH", 3
    )  # so that what is asked in one turn takes several
    logging.getLogger("aiodurable.locks").setLevel(logging.CRITICAL)
    with psycopg.connect(small, autocommit=True) as admin:
        yield type(
            "Locks", (Locks,), {"dsn": small, "admin": admin, "books": books, "failures": []}
        )
    logging.getLogger("aiodurable.locks").setLevel(logging.NOTSET)


def every_rule_once(machine: Locks) -> None:
    """What chance may leave out of a short search."""
    try:
        for who in (0, 1):
            machine.let_many_go_while_many_others_are_tried(who)
            machine.try_one(who, NAMES[who])
            machine.begin_to_wait(who, NAMES[1 - who])
            for fault in (
                machine.lose,
                machine.answer_from_elsewhere,
                machine.pass_the_deadline,
            ):
                fault(who, 1)
                machine.the_books_agree()
                machine.take_a_lost_one_again(0)
                machine.come_to_rest()
            machine.ask_while_a_stranger_has_all_the_room_there_is(who, 15)
            machine.overrun_the_share(who)
            machine.fork()
            machine.let_everything_go_and_take_some_in_one_turn(who, NAMES)
            machine.one_holder_of_a_key()
            machine.the_server_has_a_key_once_and_nobody_blocks_there()
            machine.the_books_agree()
    finally:
        machine.teardown()
    assert machine.books.seen["batches given back"]
    assert machine.books.seen["releases in several batches"]


@pytest.mark.timeout(1200)
def test_whatever_happens_in_whatever_order_the_invariants_hold(
    model: type[Locks], long: bool
) -> None:
    every_rule_once(model())
    try:
        run_state_machine_as_test(
            model,
            settings=settings(
                max_examples=200 if long else 8,
                stateful_step_count=40,
                deadline=None,
                phases=[
                    Phase.explicit,
                    Phase.reuse,
                    Phase.generate,
                ],  # a shrink would take minutes of real time
                suppress_health_check=list(HealthCheck),
            ),
        )
    except Flaky as flaky:  # what depends on timing does not come again, and hypothesis then speaks of that alone
        raise (model.failures or [flaky])[0] from flaky


def test_no_statement_could_block_on_a_lock() -> None:
    """Invariant 4: the server has blocking twins of the functions that are used."""
    for name, statement in sql.load("locks").items():
        assert not re.search(r"pg_advisory(_xact)?_lock", statement), name
