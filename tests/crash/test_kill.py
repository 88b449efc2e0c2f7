"""kill -9 of a real process at every checkpoint write: after resumption the thread ends as if nothing had happened."""

from __future__ import annotations

import asyncio
import itertools
import json
import signal
import sys
from pathlib import Path
from typing import Any

import pytest

from aiodurable.durable import Durable
from aiodurable.model import ThreadStatus
from ledger_rows import Ledger
from workflows import noted

PROGRAM = Path(__file__).with_name("workflow_process.py")


async def process(*args: Any) -> tuple[int, Any]:
    child = await asyncio.create_subprocess_exec(
        sys.executable, str(PROGRAM), *map(str, args), stdout=asyncio.subprocess.PIPE
    )
    out, _ = await child.communicate()
    return child.returncode or 0, json.loads(out) if out else None


async def kill_and_resume(dsn: str, shape: str, when: str, nth: int, log: Path) -> tuple[bool, Any]:
    """Whether the process was killed, and the result, of that process or of the one after it."""
    thread_id = f"{shape}-{when}-{nth}"
    code, result = await process(dsn, thread_id, shape, log, when, nth)
    if code == 0:
        return False, result
    assert code == -signal.SIGKILL
    async with Durable(dsn) as durable:
        status = (await durable.get_checkpoint_status(thread_id)).status
        assert status in (ThreadStatus.CRASHED, ThreadStatus.INTERRUPTED, ThreadStatus.COMPLETE)
    code, result = await process(dsn, thread_id, shape, log)
    assert code == 0
    async with Durable(dsn) as durable:
        assert (await durable.get_checkpoint_status(thread_id)).status is ThreadStatus.COMPLETE
    [row] = await Ledger(dsn).rows(thread_id)
    assert row["status"] == "complete"
    return True, result


@pytest.mark.parametrize("when", ["before", "after"])
@pytest.mark.timeout(300)
async def test_four_nodes_survive_a_kill_between_any_two_writes(dsn: str, when: str, tmp_path: Path) -> None:
    _, undisturbed = await process(dsn, "undisturbed", "linear", tmp_path / "undisturbed")
    for nth in itertools.count(1):
        log = tmp_path / f"{nth}"
        killed, result = await kill_and_resume(dsn, "linear", when, nth, log)
        assert result == undisturbed
        if not killed:
            break
        again = [step for step, times in itertools.groupby(noted(log)) if len(list(times)) > 1]
        assert len(again) <= 1, f"killed {when} write {nth}: {noted(log)}"
    assert nth > 8, "four nodes make at least nine writes"
