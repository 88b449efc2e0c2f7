"""Worker processes of a test, started and ended at will: see `programs/worker_process.py`."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import sys
from asyncio.subprocess import PIPE
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tests.programs import PROGRAMS
from tests.support.forked import Process, python
from tests.support.waiting import wait_until


@dataclass(frozen=True)
class Line:
    """One call of a node.

    Attributes:
        at: seconds since the epoch.
        pid: its worker.
        thread_id, step, run_id, token: of the run, under its lease.
    """

    at: float
    pid: int
    thread_id: str
    step: str
    run_id: str
    token: int


class Workers:
    """Starts workers, each a process of its own.

    Attributes:
        pids: those that were not ended.
    """

    def __init__(self, parent: Process | asyncio.subprocess.Process, log: Path) -> None:
        self._parent = parent
        self._log = log
        self.pids: list[int] = []

    async def start(self, **order: Any) -> int:
        """Start one: see `programs.worker_process.Order`."""
        assert self._parent.stdin is not None
        assert self._parent.stdout is not None
        self._parent.stdin.write(json.dumps(order).encode() + b"\n")
        pid = int(await self._parent.stdout.readline())
        self.pids.append(pid)
        return pid

    def end(self, pid: int, how: signal.Signals = signal.SIGKILL) -> None:
        """Send a signal; the worker counts as ended where it is one to end."""
        with suppress(ProcessLookupError):
            os.kill(pid, how)
        if how in (signal.SIGKILL, signal.SIGTERM):
            self.pids.remove(pid)

    def lines(self) -> list[Line]:
        """What all workers have begun, in order."""
        if not self._log.exists():
            return []
        rows = [line.split() for line in self._log.read_text("utf-8").splitlines()]
        return [
            Line(float(at), int(pid), thread_id, step, run_id, int(token))
            for at, pid, thread_id, step, run_id, token in (row for row in rows if len(row) == 6)
        ]

    async def first_line(self, thread_id: str, *, not_of: int | None = None) -> Line:
        """The thread's first line of another process than `not_of`, once there is one."""

        def of_others() -> list[Line]:
            return [a for a in self.lines() if a.thread_id == thread_id and a.pid != not_of]

        return (await wait_until(of_others, 120, what=f"a line of {thread_id}"))[0]


def is_alive(pid: int) -> bool:
    """Whether a worker is there; one that has ended and was not waited for is not."""
    try:
        return Path(f"/proc/{pid}/stat").read_text("utf-8").rpartition(")")[2].split()[0] != "Z"
    except FileNotFoundError:
        return False


@asynccontextmanager
async def workers(
    dsn: str, log: Path, *, command: Sequence[str] = (), **order: Any
) -> AsyncIterator[Workers]:
    """What starts workers, for the body.

    Args:
        dsn, log, order: what all of them have in common.
        command: what starts the program, such as one that enters a network namespace.
    """
    program = PROGRAMS / "worker_process.py"
    defaults = json.dumps({"dsn": dsn, "log": str(log), **order})
    if command:
        parent = await asyncio.create_subprocess_exec(
            *command, sys.executable, str(program), defaults, stdin=PIPE, stdout=PIPE
        )
    else:
        parent = await python(program, defaults, stdin=PIPE, stdout=PIPE)
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
