"""Processes: killed, stopped, forked, asked to end. Each fault with the times that were
measured.
"""

from __future__ import annotations

import asyncio
import os
import signal
import time
from pathlib import Path

import pytest

from aiodurable.locks import PostgresLockManager
from aiodurable.settings import Settings
from tests.support.fault_times import Timetable
from tests.support.lock_holder import SHORT, holder, said
from tests.support.lock_view import ServerLocks
from tests.support.proxy import proxy
from tests.support.waiting import wait_until, within


async def test_the_lock_of_a_killed_process_is_free_at_once(dsn: str, timetable: Timetable) -> None:
    async with PostgresLockManager(dsn, settings=SHORT) as locks:
        for _ in range(3):
            async with holder(dsn) as process:
                waiting = asyncio.create_task(locks.acquire("a", timeout=None))
                await wait_until(lambda: locks.health().waiting == 1)
                process.kill()
                killed = time.monotonic()
                lease = await within(30, waiting)
                taken = time.monotonic() - killed
                timetable.trial(taken_over=taken)
                assert taken < SHORT.lease_ttl_s
                await lease.release()


async def test_a_stopped_process_loses_its_lock_and_knows_when_it_goes_on(
    dsn: str, server_locks: ServerLocks, timetable: Timetable
) -> None:
    async with PostgresLockManager(dsn) as locks, holder(dsn) as process:
        [(backend, _)] = server_locks.keys()
        process.send_signal(signal.SIGSTOP)
        stopped = time.monotonic()
        silent_since = stopped - server_locks.idle_s(backend)
        lease = await locks.acquire("a", timeout=20)
        taken = time.monotonic() - stopped
        assert stopped + taken >= silent_since + SHORT.lease_ttl_s
        process.send_signal(signal.SIGCONT)
        went_on = time.monotonic()
        assert await said(process) == "lost"
        knew = time.monotonic() - went_on
        lease.check()
        await lease.release()
    timetable.trial(taken_over_after_SIGSTOP=taken, holder_knew_after_SIGCONT=knew)


async def test_an_ended_backend_is_known_to_its_holder(
    dsn: str, server_locks: ServerLocks, timetable: Timetable
) -> None:
    async with (
        PostgresLockManager(dsn, settings=SHORT) as locks,
        PostgresLockManager(dsn, settings=SHORT) as other,
    ):
        for _ in range(5):
            await wait_until(lambda: locks.health().healthy)
            lease = await locks.acquire("a")
            waiting = asyncio.create_task(other.acquire("a", timeout=None))
            await wait_until(lambda: other.health().waiting == 1)
            holding = await locks.holder_of("a")
            assert holding is not None
            told_at: list[float] = []
            lease.on_lost(lambda told_at=told_at: told_at.append(time.monotonic()))
            ended = time.monotonic()
            server_locks.end_session_of(holding.pid)
            taken = await within(30, waiting)
            freed = time.monotonic() - ended
            await within(30, lease.wait_lost())
            timetable.trial(taken_over=freed, holder_knew=told_at[0] - ended)
            await lease.release()
            await taken.release()


async def test_a_forked_child_does_not_keep_the_lock_of_its_killed_parent(dsn: str) -> None:
    async with (
        PostgresLockManager(dsn, settings=Settings()) as locks,
        holder(dsn, "fork") as process,
    ):
        child = int(await said(process))
        try:
            process.kill()
            await process.wait()
            os.kill(child, 0)  # it lives on
            lease = await locks.acquire(
                "a", timeout=5
            )  # far less than the server would wait for silence to end
            await lease.release()
        finally:
            os.kill(child, signal.SIGKILL)


async def test_a_forked_child_knows_that_it_holds_nothing(dsn: str) -> None:
    async with PostgresLockManager(dsn, settings=Settings()) as locks, locks.hold("a") as lease:
        read, write = os.pipe()
        if (child := os.fork()) == 0:
            os.write(write, b"lost" if lease.lost and locks.health().held == 0 else b"held")
            os._exit(0)
        assert os.read(read, 10) == b"lost"
        await wait_until(lambda: os.waitpid(child, os.WNOHANG)[0] == child)
        os.close(read)
        os.close(write)
        assert not lease.lost
        async with locks.hold("b"):  # the parent's own socket is untouched
            pass


@pytest.mark.parametrize("which", [signal.SIGTERM, signal.SIGINT])
async def test_a_process_that_gets_sigterm_releases_its_locks_and_ends_by_the_signal(
    dsn: str, which: signal.Signals, server_locks: ServerLocks
) -> None:
    async with holder(dsn, "signals") as process:
        assert server_locks() == 1
        began = time.monotonic()
        process.send_signal(which)
        assert {await said(process), await said(process)} == {"lost", "closed"}
        code = await within(30, process.wait())
        assert time.monotonic() - began < SHORT.close_timeout_s + 5
        assert code == -which
        assert server_locks() == 0


def catches(process: asyncio.subprocess.Process, which: signal.Signals) -> bool:
    """Whether the process has a handler for it, as the kernel sees it."""
    [line] = [
        line
        for line in Path(f"/proc/{process.pid}/status").read_text().splitlines()
        if line.startswith("SigCgt")
    ]
    return bool(int(line.split()[1], 16) >> (which - 1) & 1)


async def test_a_process_that_gets_sigterm_in_a_partition_ends_in_bounded_time(
    dsn: str, timetable: Timetable
) -> None:
    async with proxy(dsn) as network, holder(network.dsn, "signals") as process:
        network.cut()
        began = time.monotonic()
        process.send_signal(signal.SIGTERM)
        code = await within(30, process.wait())
        timetable.trial(ended=time.monotonic() - began)
        assert code == -signal.SIGTERM
        assert time.monotonic() - began < SHORT.close_timeout_s + 5


async def test_a_second_signal_ends_a_process_that_is_still_closing(dsn: str) -> None:
    async with proxy(dsn) as network, holder(network.dsn, "signals") as process:
        network.cut()  # closing takes its time
        assert catches(process, signal.SIGTERM)
        process.send_signal(signal.SIGTERM)
        await wait_until(lambda: not catches(process, signal.SIGTERM))
        process.send_signal(signal.SIGTERM)
        assert process.stdout is not None
        assert b"closed" not in await within(30, process.stdout.read())
        assert await process.wait() == -signal.SIGTERM


@pytest.mark.parametrize("network_is", ["whole", "cut"])
@pytest.mark.parametrize("how", ["leave", "exit"])
async def test_a_process_that_forgets_to_close_ends_without_hanging(
    dsn: str, how: str, network_is: str, server_locks: ServerLocks
) -> None:
    async with proxy(dsn) as network, holder(network.dsn, how) as process:
        if network_is == "cut":
            network.cut()
        assert process.stdin is not None
        process.stdin.write(b"\n")
        code = await within(30, process.wait())
        assert code == (0 if how == "leave" else 3)
        network.mend()
        await wait_until(lambda: server_locks() == 0)
