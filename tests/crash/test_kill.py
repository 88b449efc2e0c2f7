"""kill -9 of a real process at every checkpoint write: after resumption the thread ends as if nothing had happened."""

from __future__ import annotations

import itertools
import signal
from collections import Counter
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from aiodurable import Durable, ThreadStatus
from ledger_rows import Ledger
from processes import Processes, started
from waiting import wait_until
from workflows import noted


@pytest.fixture
async def processes() -> AsyncIterator[Processes]:
    async with started() as parent:
        yield parent


async def is_free(durable: Durable, thread: str) -> bool:
    return (await durable.get_checkpoint_status(thread)).status is not ThreadStatus.RUNNING


@pytest.mark.parametrize("when", ["before", "after"])
@pytest.mark.parametrize(
    ("shape", "at_least"), [("linear", 10), ("functional", 8), ("subgraph", 16), ("fan-out", 9), ("interrupt", 9)]
)
async def test_a_kill_between_any_two_writes_changes_nothing(
    dsn: str, processes: Processes, shape: str, at_least: int, when: str, tmp_path: Path
) -> None:
    code, undisturbed = await processes.run(dsn, "undisturbed", shape, tmp_path / "undisturbed")
    assert code == 0
    nth, result = 0, None
    async with Durable(dsn) as durable:
        for nth in itertools.count(1):
            thread, log = f"killed-{nth}", tmp_path / f"{nth}"
            code, result = await processes.run(dsn, thread, shape, log, (when, nth))
            if code == 0:
                break  # it has fewer writes than that
            assert code == -signal.SIGKILL
            await wait_until(lambda thread=thread: is_free(durable, thread))  # the server notices within milliseconds
            left = (await durable.get_checkpoint_status(thread)).status
            assert left in (ThreadStatus.NEW, ThreadStatus.CRASHED, ThreadStatus.INTERRUPTED, ThreadStatus.COMPLETE)
            code, result = await processes.run(dsn, thread, shape, log)
            assert (code, result) == (0, undisturbed), f"killed {when} write {nth}"
            assert (await durable.get_checkpoint_status(thread)).status is ThreadStatus.COMPLETE
            [row] = await Ledger(dsn).rows(thread)
            assert row["status"] == "complete"
            ran = Counter(noted(log)) - Counter(noted(tmp_path / "undisturbed"))
            assert all(times == 1 for times in ran.values()), f"killed {when} write {nth}: {ran} again"
    assert result == undisturbed
    assert nth >= at_least
