"""Real processes for crash tests: see `workflow_process.py`."""

from __future__ import annotations

import json
import os
import signal
from asyncio.subprocess import PIPE
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from pathlib import Path
from typing import Any

from tests.programs import PROGRAMS
from tests.support.forked import Process, python

PROGRAM = PROGRAMS / "workflow_process.py"


class Processes:
    """Starts one real process a job, one after the other."""

    def __init__(self, parent: Process) -> None:
        self._parent = parent

    async def run(
        self,
        dsn: str,
        thread: str,
        shape: str,
        log: Path,
        death: tuple[str, int] | None = None,
        *,
        kills: str = "writes",
    ) -> Any:
        """The exit code (or minus the signal that ended it), and what the graph returned."""
        job = {
            "dsn": dsn,
            "thread": thread,
            "shape": shape,
            "log": str(log),
            "death": death,
            "kills": kills,
        }
        assert self._parent.stdin is not None
        assert self._parent.stdout is not None
        self._parent.stdin.write(json.dumps(job).encode() + b"\n")
        done = json.loads(await self._parent.stdout.readline())
        return done["code"], done["result"]


@asynccontextmanager
async def started() -> AsyncIterator[Processes]:
    """A program that forks the processes, for the body."""
    parent = await python(PROGRAM, stdin=PIPE, stdout=PIPE, new_session=True)
    try:
        yield Processes(parent)
    finally:
        # It waits for its process, which hangs where a test ran out of time.
        with suppress(ProcessLookupError):
            os.killpg(parent.pid, signal.SIGKILL)
        parent.kill()  # it may not lead its group yet
        await parent.wait()
