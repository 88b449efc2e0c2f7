"""Starts and stops a server that outlives this process, for `aiodurable pg start|stop|url`."""

from __future__ import annotations

import contextlib
import hashlib
import os
import shlex
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Final

from aiodurable.embedded.binaries import Programs
from aiodurable.embedded.pidfile import PidFile, log_tail, read_pid_file
from aiodurable.embedded.private import alone_in, require_private
from aiodurable.embedded.workdir import (
    SOCKET_PATH_BYTES,
    require_kept,
    require_reachable,
    server_options,
)
from aiodurable.errors import PostgresUnavailableError

__all__ = ["server_url", "start_server", "stop_server"]

_RECOVERY_S: Final = 60.0
"""Seconds to wait for a server that listens but is not ready, because it recovers from a crash."""

_SILENT_S: Final = 10.0
"""Seconds to wait for the process in the pid file to listen. It may be starting, or be an unrelated
process with the same id.
"""


def start_server(data: Path | str, *, settings: Mapping[str, str] | None = None) -> str:
    """Start a server that outlives this process, unless one runs already, and return its URL.

    A start that was killed at any moment does not hinder the next one.

    Args:
        data: the cluster's folder; created if missing.
        settings: server settings, valid until the server stops.

    Raises:
        ConfigurationError: there are no programs, there is no user to run them as, or `data` is not
            a cluster; Windows.
        PostgresUnavailableError: it did not start; the message has its log.
    """
    data = Path(data).resolve()
    require_kept(data)
    programs = Programs(None, data)
    data.mkdir(mode=0o700, parents=True, exist_ok=True)
    require_reachable(data, programs)
    programs.own(data)
    with alone_in(data) as lock:
        programs.initdb(data, lock, durable=True)
    with alone_in(data):  # initdb may have replaced the folder
        if running := _running(data, programs.uid):
            return running.url
        options = shlex.join(
            server_options(_socket_folder(data, programs), durable=True, settings=settings or {})
        )
        log = data / "server.log"
        programs.run("pg_ctl", "start", "-D", data, "-l", log, "-w", "-o", options)
        # Also where it failed: a start that was killed may have left a server that was not to be
        # seen yet, and keeps a second one out.
        if not (running := _running(data, programs.uid)):
            raise PostgresUnavailableError(
                f"cannot start Postgres in {data}:\n{log_tail(log, programs.uid)}"
            )
        return running.url


def stop_server(data: Path | str) -> bool:
    """Stop the server on the cluster in `data` (a fast shutdown). Returns False if none runs there.

    Raises:
        PostgresUnavailableError: it did not stop.
    """
    data = Path(data).resolve()
    found = _pid_file(data)
    if found is None or not found.answers():
        return False
    programs = Programs(None, data)
    done = programs.run("pg_ctl", "stop", "-D", data, "-m", "fast", "-w")
    if done.returncode and server_url(data):
        raise PostgresUnavailableError(f"cannot stop Postgres in {data}:\n{done.stdout.strip()}")
    if found.socket_folder == (ours := _short_folder(data)):
        with contextlib.suppress(OSError):  # a user may keep other files there
            ours.rmdir()
    return True


def server_url(data: Path | str) -> str | None:
    """The URL of the running server on the cluster in `data`; None if none answers."""
    found = _pid_file(Path(data).resolve())
    return found.url if found and found.answers() else None


def _pid_file(data: Path) -> PidFile | None:
    """The cluster's pid file. It must belong to the cluster's owner, who alone can write there."""
    try:
        owner = data.lstat().st_uid
    except OSError:
        return None
    return read_pid_file(data, owner)


def _running(data: Path, uid: int) -> PidFile | None:
    """Wait until the server there is ready and return its pid file; None if there is no server."""
    began = time.monotonic()
    while (found := read_pid_file(data, uid)) and found.lives():
        answers = found.answers()
        if found.ready and answers:
            return found
        if time.monotonic() - began > (_RECOVERY_S if answers else _SILENT_S):
            return None
        time.sleep(0.02)
    return None


def _socket_folder(data: Path, programs: Programs) -> Path:
    """The data folder, which is private; or a short private folder if its path is too long for a
    socket.
    """
    if len(os.fsencode(data / ".s.PGSQL.65535")) <= SOCKET_PATH_BYTES:
        return data
    folder = _short_folder(data)
    with contextlib.suppress(FileExistsError):
        folder.mkdir(mode=0o700)
        programs.own(folder)
    require_private(folder, programs.uid)
    return folder


def _short_folder(data: Path) -> Path:
    name = hashlib.sha256(os.fsencode(data)).hexdigest()[:16]
    return Path("/tmp") / f"aiodurable-socket-{name}"  # noqa: S108 - made private, and checked, before it is used
