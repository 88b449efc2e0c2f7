"""Two hundred runs at once whose locks are lost: who stayed the only holder feels nothing, who did
not writes nothing.
"""

from __future__ import annotations

import asyncio
import json
import os
import time
from asyncio.subprocess import PIPE
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import psycopg
import pytest

from aiodurable import Durable, LeaseLostError, Settings
from aiodurable.events import Event, LeaseLost, inline
from tests.programs import PROGRAMS
from tests.support.fault_times import Timetable
from tests.support.forked import python
from tests.support.graphs import INPUT, STEPS, four_nodes
from tests.support.lock_view import ServerLocks
from tests.support.restartable import How, OwnServer
from tests.support.waiting import wait_until, wait_until_sync, within

RUNS = 200
THREADS = [f"thread {number}" for number in range(RUNS)]
GRABBER = PROGRAMS / "crowd_process.py"


class Crowd:
    """Runs all threads up to "weigh" and holds them there; a witness outside Postgres sees who
    holds a thread.

    Attributes: `overlaps` counts two holders of a thread at once; `stubborn` runs swallow their
        cancellation.
    """

    def __init__(self, durable: Durable, folder: Path, *, stubborn: bool = False) -> None:
        self.durable, self.folder, self.stubborn = durable, folder, stubborn
        self.overlaps = self.reached = 0
        self.early, self.late = asyncio.Event(), asyncio.Event()
        self._graphs = [four_nodes(self._gate(self.early)), four_nodes(self._gate(self.late))]

    def start(self) -> dict[str, asyncio.Task[Any]]:
        return {thread: asyncio.create_task(self.run(thread)) for thread in THREADS}

    async def run(self, thread: str) -> Any:
        graph = self._graphs[THREADS.index(thread) % 2]
        async with self.durable.run(thread, graph, on_busy="wait", timeout=100) as run:
            with self._alone(thread):
                return (await run.ainvoke(INPUT))["words"], run.lease.token

    @contextmanager
    def _alone(self, thread: str) -> Iterator[None]:
        try:
            os.close(os.open(self.folder / thread, os.O_CREAT | os.O_EXCL))
        except FileExistsError:
            self.overlaps += 1
            raise
        try:
            yield
        finally:
            (self.folder / thread).unlink()

    def _gate(self, opened: asyncio.Event) -> Any:
        async def before_step(step: str) -> None:
            if step != "weigh" or opened.is_set():
                return
            self.reached += 1
            while not opened.is_set():
                try:
                    await opened.wait()
                except asyncio.CancelledError:
                    if not self.stubborn:
                        raise

        return before_step

    def held(self) -> int:
        return self.durable.locks.health().held


async def steps_written_twice(dsn: str) -> int:
    """Checkpoints of a thread that say the same step: what two writers would leave."""
    query = "SELECT count(*) - count(DISTINCT (thread_id, metadata->>'step')) FROM checkpoints"
    async with await psycopg.AsyncConnection.connect(dsn) as connection:
        row = await (await connection.execute(query)).fetchone()
    assert row is not None
    return row[0]


async def recorded(dsn: str) -> list[Any]:
    query = "SELECT status, attempts, count(*) FROM aiodurable_runs GROUP BY 1, 2 ORDER BY 1, 2"
    async with await psycopg.AsyncConnection.connect(dsn) as connection:
        return await (await connection.execute(query)).fetchall()


@pytest.mark.parametrize("how", ["fast", "immediate"])
async def test_a_restart_of_postgres_cancels_no_run_of_a_crowd(
    own: OwnServer, how: How, tmp_path: Path, timetable: Timetable
) -> None:
    dsn = await own.start()
    async with Durable(dsn, settings=Settings(recovery_grace_s=60)) as durable:
        crowd = Crowd(durable, tmp_path)
        tasks = crowd.start()
        await wait_until(lambda: crowd.reached == RUNS, 60)
        waiting = [
            asyncio.create_task(crowd.run(thread)) for thread in THREADS[:20]
        ]  # they may not come before
        await wait_until(lambda: durable.locks.health().waiting == 20)
        began = time.monotonic()
        await own.stop(how)
        crowd.early.set()  # half of them write while Postgres is away
        await wait_until(lambda: durable.locks.health().held == 0)
        await own.start()
        up = time.monotonic()
        await wait_until(
            lambda: crowd.held() + sum(task.done() for task in tasks.values()) >= RUNS, 60
        )
        held = time.monotonic()
        crowd.late.set()
        results = await asyncio.gather(*tasks.values())
        timetable.trial(
            away=up - began, all_locks_held_again=held - up, all_runs_complete=time.monotonic() - up
        )
        assert results == [(list(STEPS), 1)] * RUNS
        await asyncio.gather(*waiting)
    assert crowd.overlaps == 0
    assert await recorded(dsn) == [("complete", 1, RUNS + 20)]
    assert await steps_written_twice(dsn) == 0


async def test_killed_lock_backends_cancel_no_run_of_a_crowd(
    dsn: str, server_locks: ServerLocks, tmp_path: Path, timetable: Timetable
) -> None:
    async with Durable(dsn, settings=Settings(recovery_grace_s=60)) as durable:
        crowd = Crowd(durable, tmp_path)
        tasks = crowd.start()
        await wait_until(lambda: crowd.reached == RUNS, 60)
        for _ in range(3):
            # A backend that was ended is listed for a moment after its locks are free.
            await wait_until(lambda: server_locks.sessions() == 2)
            before = [session.reconnects for session in durable.locks.health().sessions]
            began = time.monotonic()
            assert server_locks.end_sessions() == 2
            await wait_until(
                lambda before=before: all(
                    now.reconnects > then
                    for now, then in zip(durable.locks.health().sessions, before, strict=True)
                )
            )
            await wait_until(lambda: crowd.held() == RUNS, 60)
            timetable.trial(all_locks_held_again=time.monotonic() - began)
        crowd.early.set()
        crowd.late.set()
        assert await asyncio.gather(*tasks.values()) == [(list(STEPS), 1)] * RUNS
    assert crowd.overlaps == 0
    assert await recorded(dsn) == [("complete", 1, RUNS)]
    assert await steps_written_twice(dsn) == 0


async def test_of_freed_locks_exactly_those_that_another_process_grabbed_end_their_runs(
    dsn: str, server_locks: ServerLocks, tmp_path: Path, timetable: Timetable
) -> None:
    """Also where a run swallows its cancellation and goes on to write: the fence refuses it."""
    lost: list[str | None] = []

    def note_lost(event: Event) -> None:
        if isinstance(event, LeaseLost):
            lost.append(event.thread_id)

    async with Durable(
        dsn, settings=Settings(recovery_grace_s=60), observers=[inline(note_lost)]
    ) as durable:
        crowd = Crowd(durable, tmp_path, stubborn=True)
        wanted = THREADS[::10]
        try:
            tasks = crowd.start()
            await wait_until(lambda: crowd.reached == RUNS, 60)
            grabber = await python(GRABBER, dsn, *wanted, stdout=PIPE)
            assert grabber.stdout is not None
            assert await grabber.stdout.readline() == b"waiting\n"
            began = time.monotonic()
            assert end_sessions_of(server_locks, durable) == 2
            # The event loop stands still meanwhile: those who wait elsewhere come first.
            wait_until_sync(
                lambda: resumed_elsewhere(dsn) == len(wanted), what="the other process's runs"
            )
            finished, _ = await within(60, grabber.communicate())
            timetable.trial(grabbed_and_finished=time.monotonic() - began)
            await wait_until(
                lambda: (
                    durable.locks.health().held >= RUNS - len(lost) and len(lost) == len(wanted)
                ),
                30,
            )
        finally:
            crowd.early.set()  # nothing else ends runs that swallow their cancellation
            crowd.late.set()
        results = dict(
            zip(tasks, await asyncio.gather(*tasks.values(), return_exceptions=True), strict=True)
        )
    grabbed = json.loads(finished)
    cancelled = [thread for thread, result in results.items() if isinstance(result, LeaseLostError)]
    assert grabbed == {thread: list(STEPS) for thread in wanted}
    assert cancelled == wanted
    assert sorted(lost, key=THREADS.index) == wanted
    assert all(
        result == (list(STEPS), 1) for thread, result in results.items() if thread not in cancelled
    )
    assert await recorded(dsn) == [
        ("complete", 1, RUNS - len(wanted)),
        ("complete", 2, len(wanted)),
    ]
    assert await steps_written_twice(dsn) == 0


def end_sessions_of(server_locks: ServerLocks, durable: Durable) -> int:
    """End this process's lock sessions; returns how many there were."""
    pids = [session.pid for session in durable.locks.health().sessions]
    return sum(server_locks.end_session_of(pid) for pid in pids if pid is not None)


def resumed_elsewhere(dsn: str) -> int:
    """How many runs are at their second attempt."""
    with psycopg.connect(dsn) as connection:
        found = connection.execute("SELECT count(*) FROM aiodurable_runs WHERE attempts = 2")
        row = found.fetchone()
    assert row is not None
    return row[0]
