"""Worker processes of a test, started and ended at will: see `programs/worker_process.py`."""

from __future__ import annotations

import asyncio
import os
import signal
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

from tests.programs import PROGRAMS


@dataclass(frozen=True)
class Line:
    """One call of a node."""

    at: float
    pid: int
    thread_id: str
    step: str


class Workers:
    """Starts workers, each a process of its own."""

    def __init__(self, parent: asyncio.subprocess.Process, log: Path) -> None:
        self._parent = parent
        self._log = log
        self.pids: list[int] = []

    async def start(self) -> int:
        assert self._parent.stdin is not None
        assert self._parent.stdout is not None
        self._parent.stdin.write(b"start\n")
        pid = int(await self._parent.stdout.readline())
        self.pids.append(pid)
        return pid

    def end(self, pid: int, how: signal.Signals = signal.SIGKILL) -> None:
        with suppress(ProcessLookupError):
            os.kill(pid, how)
        if how in (signal.SIGKILL, signal.SIGTERM):
            self.pids.remove(pid)

    def lines(self) -> list[Line]:
        if not self._log.exists():
            return []
        rows = [line.split() for line in self._log.read_text("utf-8").splitlines()]
        return [Line(float(row[0]), int(row[1]), row[2], row[3]) for row in rows if len(row) == 4]


@asynccontextmanager
async def workers(dsn: str, log: Path, *, concurrency: int = 10) -> AsyncIterator[Workers]:
    pipe = asyncio.subprocess.PIPE
    parent = await asyncio.create_subprocess_exec(
        *(sys.executable, str(PROGRAMS / "worker_process.py"), dsn, str(log), str(concurrency)),
        stdin=pipe,
        stdout=pipe,
    )
    started = Workers(parent, log)
    try:
        yield started
    finally:
        for pid in list(started.pids):
            started.end(pid, signal.SIGCONT)
            started.end(pid)
        assert parent.stdin is not None
        parent.stdin.close()
        await parent.wait()
