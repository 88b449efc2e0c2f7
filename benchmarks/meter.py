"""What a measured moment cost: seconds, CPU of this process and of Postgres, peak memory of this
process.
"""

from __future__ import annotations

import os
import resource
import sys
import time
from pathlib import Path
from typing import Self

import asyncpg

TICKS = os.sysconf("SC_CLK_TCK")


class ServerCpu:
    """CPU seconds of a Postgres on this machine: the postmaster and all its children, also those
    that have ended.

    A child that ends hands its time to the postmaster (`cutime`, `cstime` of proc_pid_stat(5)), so
    nothing is lost with a closed connection. Where the server's processes cannot be seen, on
    another machine or another system, `seconds()` is NaN.
    """

    def __init__(self, postmaster: int | None) -> None:
        self._postmaster = postmaster

    @classmethod
    async def of(cls, connection: asyncpg.Connection) -> Self:
        """The server that the connection leads to."""
        backend, database = await connection.fetchrow(
            "SELECT pg_backend_pid(), current_database()"
        ) or (0, "")
        return cls(_postmaster(backend, database))

    def seconds(self) -> float:
        """So far, since the server started; to the nanosecond for processes that live, to a clock
        tick (10 ms) for the others.
        """
        if self._postmaster is None:
            return float("nan")
        while True:
            own = _stat(self._postmaster)
            seconds = sum(map(int, own[11:15])) / TICKS
            for child in _children(self._postmaster):
                try:
                    seconds += on_cpu(child)
                except OSError:
                    break  # it ended just now: its time has gone to the postmaster
            else:
                if _stat(self._postmaster)[13:15] == own[13:15]:
                    return seconds


def on_cpu(pid: int) -> float:
    """CPU seconds so far of a process that has one thread, as a backend: to the nanosecond
    (proc_pid_schedstat(5), which is of the first thread), or else to a tick.

    Raises:
        OSError: there is no such process, or no /proc.
    """
    path = Path(f"/proc/{pid}/schedstat")
    if path.exists():
        return int(path.read_text("utf-8").split()[0]) / 1e9
    return sum(map(int, _stat(pid)[11:13])) / TICKS


def _postmaster(backend: int, database: str) -> int | None:
    try:
        title = Path(f"/proc/{backend}/cmdline").read_text("utf-8", "replace")
        seen = (
            title.startswith("postgres:") and database in title
        )  # else it is somebody else's process
        return int(_stat(backend)[1]) if seen else None
    except OSError:
        return None


def _stat(pid: int) -> list[str]:
    """The fields from the third on, for the second may contain anything: 0 state, 1 ppid, 11 utime
    … 14 cstime.
    """
    return Path(f"/proc/{pid}/stat").read_text("utf-8", "replace").rpartition(")")[2].split()


def _children(pid: int) -> list[int]:
    return [
        int(child) for child in Path(f"/proc/{pid}/task/{pid}/children").read_text("utf-8").split()
    ]


class Meter:
    """`with Meter(server) as meter: …`, and then its figures."""

    seconds: float
    client_s: float
    """CPU of this process, all threads."""
    server_s: float
    peak_mb: float
    """How far this process grew beyond what it had at the start, in 10⁶ bytes."""

    def __init__(self, server: ServerCpu) -> None:
        self._server = server

    def __enter__(self) -> Self:
        self._resident = _forget_peak()
        self._server_s, self._client_s = self._server.seconds(), time.process_time()
        self._began = time.perf_counter()
        return self

    def __exit__(self, *exc_info: object) -> None:
        self.seconds = time.perf_counter() - self._began
        self.client_s = time.process_time() - self._client_s
        self.server_s = self._server.seconds() - self._server_s
        self.peak_mb = max(0, peak_memory() - self._resident) / 1e6


def peak_memory() -> int:
    """Bytes: the most that this process held at once, since it started or was last reset."""
    if sys.platform == "linux":
        return _status("VmHWM")
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (
        1 if sys.platform == "darwin" else 1024
    )


def resident_memory() -> int:
    """Bytes that this process holds now; where the system does not tell (not Linux), its peak."""
    return _status("VmRSS") if sys.platform == "linux" else peak_memory()


def _forget_peak() -> int:
    """The peak starts again at what is held now, where the system can (Linux); returns what it
    starts from.
    """
    if sys.platform == "linux":
        Path("/proc/self/clear_refs").write_text(
            "5"
        )  # proc_pid_clear_refs(5): resets the peak resident set size
    return peak_memory()


def _status(name: str) -> int:
    lines = Path("/proc/self/status").read_text("utf-8").splitlines()
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith(f"{name}:"))
