"""A real process that holds the lock "a": see `holder_process.py`."""

from __future__ import annotations

import asyncio
import subprocess
import sys
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager

from aiodurable.settings import Settings
from tests.programs import PROGRAMS
from tests.support.forked import Process
from tests.support.waiting import within

PROGRAM = PROGRAMS / "holder_process.py"
SHORT = Settings(lease_ttl_s=2.5, lease_heartbeat_s=0.5, lease_safety_margin_s=1, close_timeout_s=2)
"""What it works with."""


@asynccontextmanager
async def holder(
    dsn: str, *how: str, command: Sequence[str] = ()
) -> AsyncIterator[asyncio.subprocess.Process]:
    """The process, started by `command`; killed in the end if it lives still."""
    process = await asyncio.create_subprocess_exec(
        *command,
        sys.executable,
        str(PROGRAM),
        dsn,
        *how,
        stdout=subprocess.PIPE,
        stdin=subprocess.PIPE,
    )
    try:
        assert await said(process) == "held"
        yield process
    finally:
        if process.returncode is None:
            process.kill()
        await process.wait()


async def said(process: Process | asyncio.subprocess.Process) -> str:
    assert process.stdout is not None
    return (await within(30, process.stdout.readline())).decode().strip()
