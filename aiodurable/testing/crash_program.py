"""Starts the program of a crash test, and has it do one job after the other."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from contextlib import suppress
from multiprocessing.connection import Connection, Pipe
from typing import Any, Final, Self, cast

from aiodurable.errors import ConfigurationError
from aiodurable.testing.crash_process import Ended, Job
from aiodurable.testing.graph_reference import GraphReference

__all__ = ["Cancelled", "CrashProgram"]

_PROGRAM: Final = """
import sys
number, sys.path[:] = int(sys.argv[1]), sys.argv[2:]
from aiodurable.testing.crash_process import main
main(number)
"""
_IMPORT_S: Final = 120.0
"""Seconds to import the graph's module."""
_LOOK_S: Final = 0.2
"""Seconds between two looks whether the caller was cancelled."""


class Cancelled(Exception):  # noqa: N818 - as asyncio's
    """The caller was cancelled."""


class CrashProgram:
    """The program, as a context manager; blocks its thread.

    Args:
        graph: what its processes run.
        stop: whether the caller was cancelled.
        timeout_s: seconds that a job may take.
    """

    def __init__(self, graph: GraphReference, stop: list[bool], timeout_s: float) -> None:
        self._graph = graph
        self._stop = stop
        self._timeout_s = timeout_s
        self._process: subprocess.Popen[bytes] | None = None
        self._connection: Connection | None = None

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc_info: object) -> None:
        self._end()

    def do(self, job: Job) -> Ended:
        """Do one job in a process of its own.

        Raises:
            ConfigurationError: the graph's module cannot be imported.
            Cancelled: the caller was.
        """
        for _ in range(2):
            try:
                return self._do(self._started(), job)
            except (EOFError, OSError):  # the program did the last job itself, and has ended
                process, self._process = self._process, None
                code = None if process is None else process.wait()
                self._end()
                if code == -signal.SIGKILL:
                    return Ended(killed=True)
        return Ended(problem="its process ended without an answer")

    def _do(self, connection: Connection, job: Job) -> Ended:
        connection.send(job)
        pid: int = self._answer(connection, _IMPORT_S)
        try:
            return self._answer(connection, self._timeout_s)
        except TimeoutError:
            with suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
            self._end()
            return Ended(problem=f"it did not end within {self._timeout_s:g} s")
        except Cancelled:
            with suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
            raise

    def _started(self) -> Connection:
        if self._connection is not None:
            return self._connection
        connection, theirs = cast("tuple[Connection, Connection]", Pipe())
        with theirs:
            number = theirs.fileno()
            self._process = subprocess.Popen[bytes](
                [sys.executable, "-c", _PROGRAM, str(number), *sys.path],
                stdin=subprocess.DEVNULL,
                pass_fds=(number,),
            )
        self._connection = connection
        connection.send(self._graph)
        try:
            problem: str | None = self._answer(connection, _IMPORT_S)
        except (EOFError, TimeoutError):
            problem = "its process ended, or hangs, while it imports the module"
        if problem is not None:
            self._end()
            raise ConfigurationError(f"cannot run the graph in another process: {problem}")
        return connection

    def _answer(self, connection: Connection, timeout_s: float) -> Any:
        deadline = time.monotonic() + timeout_s
        while not connection.poll(_LOOK_S):
            if self._stop[0]:
                raise Cancelled
            if time.monotonic() > deadline:
                raise TimeoutError
        return connection.recv()

    def _end(self) -> None:
        connection, self._connection = self._connection, None
        if connection is not None:
            connection.close()
        process, self._process = self._process, None
        if process is not None:
            try:
                process.wait(_LOOK_S)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()
