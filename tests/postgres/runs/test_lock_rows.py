"""Whole runs whose leases are rows: they exclude, show as running, survive a kill, and come back under a lost session."""

from __future__ import annotations

import asyncio
import itertools
import signal
from pathlib import Path

import pytest

from aiodurable import Durable, Settings, ThreadStatus, WorkflowAlreadyRunningError
from aiodurable.errors import ConfigurationError
from ledger_rows import Ledger
from processes import started
from server_locks import ServerLocks
from waiting import wait_until
from workflows import Gate, four_nodes

ROWS = Settings(lock_mode="rows")
START = {"words": ["once"], "told": ""}


async def test_a_thread_is_running_while_a_row_says_so(dsn: str, server_locks: ServerLocks) -> None:
    graphs = {"words": four_nodes()}
    async with Durable(dsn, graphs=graphs, settings=ROWS) as durable, Durable(dsn, settings=ROWS) as other:
        async with durable.run("words", "t") as run:
            found = await other.get_checkpoint_status("t")
            assert found.status is ThreadStatus.RUNNING
            assert found.holder is not None
            assert found.holder.application.startswith("aiodurable:lock@")
            with pytest.raises(WorkflowAlreadyRunningError) as busy:
                async with other.run(four_nodes(), "t"):
                    pytest.fail("entered")
            assert busy.value.holder == found.holder
            assert server_locks.leases() == 1
            await run.ainvoke(START)
            running = [each.thread_id async for each in other.find_workflows(status=ThreadStatus.RUNNING)]
            assert running == ["t"]
            for exact in (True, False):
                counted = await other.counts(exact=exact, status=ThreadStatus.RUNNING)
                assert counted.by_status == {ThreadStatus.RUNNING: 1}
            with pytest.raises(WorkflowAlreadyRunningError):
                await other.checkpointer.adelete_thread("t")
        assert (await other.get_checkpoint_status("t")).status is ThreadStatus.COMPLETE


async def test_a_killed_run_is_free_at_once_and_resumed_by_another_process(
    dsn: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Killed after one of its writes, those of its lease among them."""
    monkeypatch.setenv("AIODURABLE_LOCK_MODE", "rows")
    left: set[ThreadStatus] = set()
    async with started() as processes, Durable(dsn) as durable:
        code, undisturbed = await processes.run(dsn, "undisturbed", "linear", tmp_path / "undisturbed")
        assert code == 0
        for nth in itertools.count(2, 3):
            thread, log = f"killed-{nth}", tmp_path / f"{nth}"

            async def stopped(thread: str = thread) -> bool:
                return (await durable.get_checkpoint_status(thread)).status is not ThreadStatus.RUNNING

            code, _ = await processes.run(dsn, thread, "linear", log, ("after", nth))
            if code == 0:
                break  # it has fewer writes than that
            assert code == -signal.SIGKILL
            await wait_until(stopped)
            left.add((await durable.get_checkpoint_status(thread)).status)
            assert await processes.run(dsn, thread, "linear", log) == (0, undisturbed)
            assert (await durable.get_checkpoint_status(thread)).status is ThreadStatus.COMPLETE
            [row] = await Ledger(dsn).rows(thread)
            assert row["status"] == "complete"
    assert ThreadStatus.CRASHED in left


async def test_a_run_goes_on_over_a_killed_lock_session(dsn: str, server_locks: ServerLocks) -> None:
    gate = Gate("weigh")
    async with Durable(dsn, settings=ROWS) as durable, asyncio.TaskGroup() as group:

        async def run() -> None:
            async with durable.run(four_nodes(gate), "t") as one:
                await one.ainvoke(START)

        group.create_task(run())
        await gate.reached.wait()
        before = server_locks.keys()
        assert server_locks.end_sessions() == 2
        await wait_until(lambda: len(server_locks.keys() - before) == 1)  # the same key, under another backend
        gate.open.set()
    async with Durable(dsn, settings=ROWS) as durable:
        assert (await durable.get_checkpoint_status("t")).status is ThreadStatus.COMPLETE


async def test_a_durable_of_the_other_mode_is_refused(dsn: str) -> None:
    async with Durable(dsn, settings=ROWS):
        with pytest.raises(ConfigurationError, match="AIODURABLE_LOCK_MODE"):
            async with Durable(dsn):
                pytest.fail("opened")
