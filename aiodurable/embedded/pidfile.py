"""What a server says of itself in its data folder."""

from __future__ import annotations

import contextlib
import socket
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import quote

__all__ = ["PidFile", "log_tail", "read_pid_file"]


@dataclass(frozen=True)
class PidFile:
    """postmaster.pid: one fact a line, in the order of Postgres's `src/include/utils/pidfile.h`.

    Attributes:
        port: in the socket's name and, where it listens on TCP, there.
        socket_folder: the first of its unix socket folders.
        ready: it accepts connections.
    """

    port: int
    socket_folder: Path
    ready: bool

    @property
    def url(self) -> str:
        """The superuser's URL."""
        return f"postgresql://postgres@/postgres?host={quote(str(self.socket_folder), safe='')}&port={self.port}"

    def answers(self) -> bool:
        """Whether somebody listens there; the file alone may be left from before a crash."""
        with socket.socket(socket.AF_UNIX) as client, contextlib.suppress(OSError):
            client.connect(str(self.socket_folder / f".s.PGSQL.{self.port}"))
            return True
        return False


def read_pid_file(data: Path) -> PidFile | None:
    """The pid file in `data`; None if there is none, or if it is only half written."""
    with contextlib.suppress(OSError, IndexError, ValueError):
        lines = [line.strip() for line in (data / "postmaster.pid").read_text().splitlines()]
        return PidFile(int(lines[3]), Path(lines[4]), ready=lines[7:8] == ["ready"])
    return None


def log_tail(log: Path, lines: int = 20) -> str:
    """The last lines of a server's log, for an error message."""
    try:
        return "\n".join(log.read_text(errors="replace").splitlines()[-lines:])
    except OSError as error:
        return f"(its log cannot be read: {error.strerror})"
