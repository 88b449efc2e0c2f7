"""Python programs as processes of their own, without their imports: they are forked by an
interpreter that has imported LangGraph and us, which takes a second or two of a core
(`tests/programs/fork_server.py`).

A process has its own pid, streams, environment and signals, and no event loop or thread that is not
its own. What is about importing, about what `python` itself is given, or about a variable that is
read while a library is imported needs an interpreter of its own.
"""

from __future__ import annotations

import asyncio
import json
import os
import signal
import socket
import subprocess
import sys
import tempfile
import threading
from asyncio.subprocess import DEVNULL, PIPE, STDOUT
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path

from tests.programs import PROGRAMS

_STARTING = threading.Lock()
_servers: dict[int, tuple[subprocess.Popen[bytes], Path]] = {}


class Process(asyncio.Protocol):
    """One of them, with what is used of `asyncio.subprocess.Process`.

    Attributes:
        pid: its own.
        returncode: its exit code or minus the signal that ended it; None: it is not over.
        stdin, stdout, stderr: its streams that are pipes.
    """

    def __init__(self, pid: int) -> None:
        self.pid = pid
        self.returncode: int | None = None
        self.stdin: asyncio.WriteTransport | None = None
        self.stdout: asyncio.StreamReader | None = None
        self.stderr: asyncio.StreamReader | None = None
        self._pipes: list[asyncio.ReadTransport] = []
        self._over = asyncio.Event()

    def data_received(self, data: bytes) -> None:
        self.returncode = int(data)

    def connection_lost(self, exc: Exception | None) -> None:
        self._over.set()

    async def wait(self) -> int:
        """Its exit code, once it is over."""
        await self._over.wait()
        assert self.returncode is not None, "the fork server has ended"
        return self.returncode

    async def communicate(self) -> tuple[bytes, bytes]:
        """The rest of what it prints, once it is over."""
        printed = await asyncio.gather(_rest(self.stdout), _rest(self.stderr))
        await self.wait()
        return printed

    async def end(self) -> None:
        """Kill it, and wait until it is over. What it has still printed is dropped, not read: a test
        that failed may be reading it, and asyncio may wake only one of two readers.
        """
        self.kill()
        await self.wait()
        for pipe in self._pipes:
            pipe.close()

    async def read_from(self, descriptor: int) -> asyncio.StreamReader:
        """Read one of its streams, from this end of its pipe."""
        reader = asyncio.StreamReader()
        pipe, _ = await asyncio.get_running_loop().connect_read_pipe(
            lambda: asyncio.StreamReaderProtocol(reader), os.fdopen(descriptor, "rb", 0)
        )
        self._pipes.append(pipe)
        return reader

    def send_signal(self, which: signal.Signals) -> None:
        if self.returncode is None:
            with suppress(ProcessLookupError):  # it has ended; its exit code is under way
                os.kill(self.pid, which)

    def terminate(self) -> None:
        self.send_signal(signal.SIGTERM)

    def kill(self) -> None:
        self.send_signal(signal.SIGKILL)


async def python(
    *arguments: str | Path,
    env: Mapping[str, str] | None = None,
    cwd: Path | None = None,
    stdin: int | None = None,
    stdout: int | None = None,
    stderr: int | None = None,
    new_session: bool = False,
) -> Process:
    """Start `python ARGUMENTS`: a program, `-m` and a module, or `-c` and code, with what follows.

    Args:
        env: its environment; None: ours.
        cwd: its folder; None: ours.
        stdin, stdout, stderr: `PIPE`, `STDOUT` or None: nothing to read, and our own output.
        new_session: whether it leads a session of its own.
    """
    server = await asyncio.to_thread(_server)
    loop = asyncio.get_running_loop()
    near: dict[str, int] = {}
    far: dict[str, int] = {}
    for name, wanted in (("stdin", stdin or DEVNULL), ("stdout", stdout), ("stderr", stderr)):
        if wanted == PIPE:
            read, write = os.pipe()
            near[name], far[name] = (write, read) if name == "stdin" else (read, write)
        elif wanted == STDOUT:
            far[name] = os.dup(far["stdout"])
        elif wanted == DEVNULL:
            far[name] = os.open(os.devnull, os.O_RDWR)
        else:
            far[name] = os.dup(1 if name == "stdout" else 2)
    job = {
        "arguments": [str(argument) for argument in arguments],
        "env": dict(os.environ if env is None else env),
        "cwd": str(cwd or Path.cwd()),
        "new_session": new_session,
    }
    connection = socket.socket(socket.AF_UNIX)
    connection.connect(str(server))
    socket.send_fds(connection, [b"\0"], list(far.values()))
    connection.sendall(json.dumps(job).encode() + b"\n")
    for descriptor in far.values():
        os.close(descriptor)
    pid = b""
    while not pid.endswith(b"\n"):  # a byte at a time: the exit code may follow at once
        received = connection.recv(1)
        assert received, "the fork server has ended"
        pid += received
    process = Process(int(pid))
    await loop.create_unix_connection(lambda: process, sock=connection)
    if (end := near.get("stdin")) is not None:
        writing, _ = await loop.connect_write_pipe(asyncio.BaseProtocol, os.fdopen(end, "wb", 0))
        process.stdin = writing
    for name in ("stdout", "stderr"):
        if (end := near.get(name)) is not None:
            setattr(process, name, await process.read_from(end))
    return process


async def _rest(stream: asyncio.StreamReader | None) -> bytes:
    return b"" if stream is None else await stream.read()


def _server() -> Path:
    """The socket of this process's server, which ends and removes it once this process is gone."""
    with _STARTING:
        if os.getpid() not in _servers:
            path = Path(tempfile.mkdtemp(prefix="aiodurable-forks-")) / "socket"
            server = subprocess.Popen(
                [sys.executable, str(PROGRAMS / "fork_server.py"), str(path)],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
            )
            assert server.stdin is not None
            assert server.stdout is not None
            assert server.stdout.readline() == b"ready\n"
            server.stdout.close()
            _servers[os.getpid()] = server, path
        return _servers[os.getpid()][1]
