"""A server that stays until it is stopped: what `aiodurable pg start|stop|url` drive."""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import os
import shlex
from collections.abc import Generator, Mapping
from pathlib import Path

from aiodurable.embedded.folders import SOCKET_PATH_BYTES, require_reachable, server_options
from aiodurable.embedded.pidfile import log_tail, read_pid_file
from aiodurable.embedded.programs import Programs
from aiodurable.errors import ConfigurationError, PostgresUnavailableError

__all__ = ["server_url", "start_server", "stop_server"]


def start_server(data: Path | str, *, settings: Mapping[str, str] | None = None) -> str:
    """Start a server that outlives this process, on the cluster in `data` (made if missing), and return its URL.

    One that runs there already is left alone. `settings` are server settings, valid until it is stopped.

    Raises:
        ConfigurationError: no programs, no user to run them as, or `data` holds something else; Windows.
        PostgresUnavailableError: it did not start; the message has its log.
    """
    data = Path(data).absolute()
    programs = Programs(None, data)
    data.mkdir(mode=0o700, parents=True, exist_ok=True)
    with _alone_in(data):
        if url := server_url(data):
            return url
        require_reachable(data, programs)
        programs.initdb(data, durable=True)
        options = shlex.join(server_options(_socket_folder(data, programs), durable=True, settings=settings or {}))
        done = programs.run("pg_ctl", "start", "-D", data, "-l", data / "server.log", "-w", "-o", options)
        if done.returncode or not (url := server_url(data)):
            raise PostgresUnavailableError(f"Postgres did not start in {data}:\n{log_tail(data / 'server.log')}")
        return url


def stop_server(data: Path | str) -> bool:
    """Stop the server on the cluster in `data`, fast; False if none runs there.

    Raises:
        PostgresUnavailableError: it did not stop.
    """
    data = Path(data).absolute()
    found = read_pid_file(data)
    if found is None or not found.answers():
        return False
    done = Programs(None, data).run("pg_ctl", "stop", "-D", data, "-m", "fast", "-w")
    if done.returncode and server_url(data):
        raise PostgresUnavailableError(f"Postgres did not stop in {data}:\n{done.stdout.strip()}")
    if found.socket_folder != data:
        with contextlib.suppress(OSError):  # somebody keeps a file of his own there
            found.socket_folder.rmdir()
    return True


def server_url(data: Path | str) -> str | None:
    """The URL of the server that runs on the cluster in `data`; None if none answers."""
    found = read_pid_file(Path(data).absolute())
    return found.url if found and found.answers() else None


@contextlib.contextmanager
def _alone_in(data: Path) -> Generator[None, None, None]:
    """One starter at a time. The lock is on the folder itself: initdb wants it empty."""
    folder = os.open(data, os.O_RDONLY | os.O_CLOEXEC)
    try:
        fcntl.flock(folder, fcntl.LOCK_EX)
        yield
    finally:
        os.close(folder)


def _socket_folder(data: Path, programs: Programs) -> Path:
    """The data folder, which is private already; a short private one where its path is too long for a socket."""
    if len(os.fsencode(data / ".s.PGSQL.65535")) <= SOCKET_PATH_BYTES:
        return data
    name = hashlib.sha256(os.fsencode(data)).hexdigest()[:16]
    folder = Path("/tmp") / f"aiodurable-socket-{name}"  # noqa: S108 - made private, and checked, below
    with contextlib.suppress(FileExistsError):
        folder.mkdir(mode=0o700)
        programs.own(folder)
    if folder.lstat().st_uid != programs.uid:
        raise ConfigurationError(f"{folder} should belong to Postgres's user and is somebody else's: remove it")
    return folder
