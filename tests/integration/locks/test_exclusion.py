"""Mutual exclusion across processes, seen by a witness outside Postgres, while tasks are cancelled
at random.
"""

from __future__ import annotations

import asyncio
import json
import subprocess
import sys
from pathlib import Path

import pytest

from tests.programs import PROGRAMS
from tests.support.fault_times import Timetable
from tests.support.lock_view import ServerLocks
from tests.support.waiting import wait_until

CONTENDER = PROGRAMS / "contender_process.py"
TASKS = 300


@pytest.mark.timeout(600)
async def test_three_processes_never_hold_one_lock_at_once_and_leak_none(
    dsn: str, tmp_path: Path, server_locks: ServerLocks, timetable: Timetable, long: bool
) -> None:
    seconds = 180 if long else 4
    processes = [
        await asyncio.create_subprocess_exec(
            sys.executable,
            str(CONTENDER),
            dsn,
            str(tmp_path),
            str(TASKS),
            str(seconds),
            str(seed),
            stdout=subprocess.PIPE,
        )
        for seed in range(3)
    ]
    outputs = [await process.communicate() for process in processes]
    counted = [json.loads(output) for output, _ in outputs]
    timetable.title += f": {json.dumps(counted)}"
    timetable.trial(contended=seconds)
    for each in counted:
        assert each["overlaps"] == 0
        assert each["regressions"] == 0
        assert each["lost"] == 0
        assert each["held"] > 0
        assert each["cancelled"] > 0
    if long:
        assert sum(each["cancelled"] for each in counted) > 30_000
    await wait_until(lambda: server_locks() == 0)
