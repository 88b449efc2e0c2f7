"""`EmbeddedPostgres`: a server that stops when its owning process ends."""

from __future__ import annotations

import asyncio
import contextlib
import os
import shutil
import signal
import subprocess
import time
from collections.abc import AsyncGenerator, Mapping
from pathlib import Path
from typing import Any, Final

from aiodurable.embedded.binaries import Programs
from aiodurable.embedded.pidfile import log_tail, read_pid_file
from aiodurable.embedded.private import alone_in, new_file
from aiodurable.embedded.workdir import (
    claim,
    left,
    new_folder,
    require_kept,
    require_reachable,
    server_options,
    sweep,
)
from aiodurable.errors import ConfigurationError, PostgresUnavailableError
from aiodurable.shield import run_to_completion

__all__ = ["STOPPING_S", "EmbeddedPostgres", "embedded_postgres"]

STOPPING_S: Final = 15.0
"""Seconds that a server has to stop."""

_WATCHDOG = """
exec 3<&0
"$@" </dev/null 3<&- &
postgres=$!
{ read -r _ <&3; kill -INT $postgres 2>/dev/null; } &
watcher=$!
trap 'kill -INT $postgres' TERM INT
wait $postgres
status=$?
kill $watcher 2>/dev/null
exit $status
"""
"""`read` returns when the owner's end of the pipe closes, even by kill -9. SIGINT is the fast
shutdown of Postgres.
"""


class EmbeddedPostgres:
    """A server that stops when this process ends, for any reason. As a context manager it yields
    its URL.

    Args:
        data: the folder of the cluster; None: a temporary one, removed with the server.
        bindir: the folder of Postgres's programs; None: `find_bindir()`.
        folder: the parent of the temporary folder; None: the system's. Its path must be short.
        durable: False switches fsync off; None: durable if `data` is given.
        settings: server settings, such as `{"max_connections": "300"}`. With `listen_addresses` the
            server also listens on TCP, where it requires a password: set it first (`ALTER ROLE`).
    """

    def __init__(
        self,
        data: Path | str | None = None,
        *,
        bindir: Path | str | None = None,
        folder: Path | str | None = None,
        durable: bool | None = None,
        settings: Mapping[str, str] | None = None,
    ) -> None:
        self._data = Path(data).resolve() if data else None
        self._bindir = Path(bindir) if bindir else None
        self._folder = Path(folder) if folder else None
        self._durable = self._data is not None if durable is None else durable
        self._settings = dict(settings or {})
        self._root: Path | None = None
        self._owner: int | None = None
        self._log: int | None = None
        self._process: subprocess.Popen[bytes] | None = None

    def start(self, timeout_s: float = 60.0) -> str:
        """Remove the folders of killed owners, start the server, and return its URL.

        Raises:
            ConfigurationError: there are no programs, there is no user to run them as, or `data` is
                not a cluster; Windows.
            PostgresUnavailableError: it did not start within `timeout_s` seconds; the message has
                its log.
        """
        if self._process is not None:
            raise ConfigurationError(
                "cannot start this EmbeddedPostgres again: it is running; share its URL, or create"
                " another one"
            )
        if self._data is not None:
            require_kept(self._data)
        programs = Programs(self._bindir, self._data)
        sweep(self._folder, programs)
        try:
            root = self._root = new_folder(self._folder)
            self._owner = claim(root)
            # Opened while the folder is still ours: later its name may lead elsewhere.
            log = self._log = new_file(root / "log")
            data = self._data or root / "data"
            data.mkdir(mode=0o700, parents=True, exist_ok=True)
            require_reachable(self._data or root, programs)
            programs.own(data)
            programs.own(root)
            with alone_in(data) as lock:
                programs.initdb(data, lock, durable=self._durable)
            _wait_for_former(data, programs.uid)
            options = server_options(root, durable=self._durable, settings=self._settings)
            server = [str(programs.bindir / "postgres"), "-D", str(data), *options]
            self._process = programs.popen(
                "/bin/sh", "-c", _WATCHDOG, "aiodurable-pg", *server, log=log
            )
            return self._wait(programs.uid, data, root, timeout_s)
        except BaseException:  # a cancellation too: no half-started server may stay
            self.stop()
            raise

    def _wait(self, uid: int, data: Path, root: Path, timeout_s: float) -> str:
        assert self._process is not None
        assert self._log is not None
        deadline = time.monotonic() + timeout_s
        while True:
            # A pid file that is older than a crash names another socket folder.
            if (found := read_pid_file(data, uid)) and found.ready and found.socket_folder == root:
                return found.url
            if self._process.poll() is not None:
                raise PostgresUnavailableError(
                    f"cannot start Postgres in {data}{_in_use(data, uid)}:\n"
                    f"{log_tail(self._log, uid)}"
                )
            if time.monotonic() > deadline:
                raise PostgresUnavailableError(
                    f"cannot start Postgres in {data} within {timeout_s:g}"
                    f" s:\n{log_tail(self._log, uid)}"
                )
            time.sleep(0.01)

    def stop(self, timeout_s: float = STOPPING_S) -> None:
        """Stop the server, or kill it after `timeout_s` seconds, and remove the temporary folder.
        Idempotent.
        """
        process, self._process = self._process, None
        if process is not None and process.stdin is not None:
            process.stdin.close()
            try:
                process.wait(timeout_s)
            except subprocess.TimeoutExpired:
                os.killpg(process.pid, signal.SIGKILL)
                process.wait()
        root, self._root = self._root, None
        if root is not None:
            shutil.rmtree(root, ignore_errors=True)
        held, self._owner, self._log = (self._owner, self._log), None, None
        for descriptor in held:
            if descriptor is not None:
                os.close(descriptor)

    def __enter__(self) -> str:
        return self.start()

    def __exit__(self, *exc_info: object) -> None:
        self.stop()


def _wait_for_former(data: Path, uid: int) -> None:
    """Wait until the server of an owner that was killed has stopped: its watchdog stops it now.

    Postgres itself refuses `data` while another server runs there, and says so.
    """
    deadline = time.monotonic() + STOPPING_S
    while (former := read_pid_file(data, uid)) and former.lives() and left(former.socket_folder):
        if time.monotonic() > deadline:
            return
        time.sleep(0.01)


def _in_use(data: Path, uid: int) -> str:
    found = read_pid_file(data, uid)
    if found is None or not found.lives():
        return ""
    return (
        ", which another server uses; share that one's URL, wait until it has stopped, or name"
        " another folder"
    )


@contextlib.asynccontextmanager
async def embedded_postgres(
    data: Path | str | None = None, **options: Any
) -> AsyncGenerator[str, None]:
    """`EmbeddedPostgres` for `async with embedded_postgres() as dsn:`, with the same arguments and
    errors.
    """
    server = EmbeddedPostgres(data, **options)
    try:
        yield await run_to_completion(asyncio.to_thread(server.start))
    finally:
        await run_to_completion(asyncio.to_thread(server.stop))
