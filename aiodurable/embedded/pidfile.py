"""Reads a server's pid file and log in its data folder."""

from __future__ import annotations

import contextlib
import os
import socket
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import quote

from aiodurable.embedded.private import read_tail

__all__ = ["PidFile", "log_tail", "read_pid_file"]


@dataclass(frozen=True)
class PidFile:
    """postmaster.pid: one value per line, in the order of Postgres's `src/include/utils/pidfile.h`.

    Attributes:
        pid: the postmaster's process id.
        port: the port, in the name of its socket and on TCP.
        socket_folder: the first of its unix socket folders.
        ready: whether it accepts connections.
    """

    pid: int
    port: int
    socket_folder: Path
    ready: bool

    @property
    def url(self) -> str:
        """The superuser's URL."""
        folder = quote(str(self.socket_folder), safe="")
        return f"postgresql://postgres@/postgres?host={folder}&port={self.port}"

    def answers(self) -> bool:
        """Whether a process listens on its socket. The file itself may be older than a crash."""
        with socket.socket(socket.AF_UNIX) as client, contextlib.suppress(OSError):
            client.connect(str(self.socket_folder / f".s.PGSQL.{self.port}"))
            return True
        return False

    def lives(self) -> bool:
        """Whether a process has this pid. It may be another one, if the postmaster died and the
        system reused its pid.
        """
        try:
            os.kill(self.pid, 0)
        except ProcessLookupError:
            return False
        except PermissionError:
            return True
        return True


def read_pid_file(data: Path, uid: int) -> PidFile | None:
    """The pid file in `data`; None if there is none, it is incomplete, or `uid` does not own it."""
    with contextlib.suppress(OSError, IndexError, ValueError):
        lines = [line.strip() for line in read_tail(data / "postmaster.pid", uid).splitlines()]
        return PidFile(int(lines[0]), int(lines[3]), Path(lines[4]), ready=lines[7:8] == ["ready"])
    return None


def log_tail(log: int | Path, uid: int, lines: int = 20) -> str:
    """The last lines of a server's log, for an error message; see `read_tail`."""
    try:
        return "\n".join(read_tail(log, uid).splitlines()[-lines:])
    except OSError as error:
        return f"(its log cannot be read: {error.strerror})"
