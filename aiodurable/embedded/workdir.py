"""Temporary folders with an owner: claimed by a lock that dies with it, removed by the next process that starts."""

from __future__ import annotations

import contextlib
import fcntl
import os
import shutil
import stat
import tempfile
from collections.abc import Mapping
from pathlib import Path

from aiodurable.embedded.binaries import Programs
from aiodurable.embedded.pidfile import read_pid_file
from aiodurable.errors import ConfigurationError

__all__ = [
    "SOCKET_PATH_BYTES",
    "claim",
    "new_folder",
    "require_kept",
    "require_reachable",
    "server_options",
    "sweep",
]

SOCKET_PATH_BYTES = 103
"""`sun_path` holds 104 bytes on macOS and 108 on Linux, the closing NUL included."""

_PREFIX = "aiodurable-pg-"
_CLAIM = "owner.lock"


def new_folder(parent: Path | None) -> Path:
    """A new folder for one server, under `parent` or the system's temporary folder, that its user alone can enter.

    Raises:
        ConfigurationError: `parent` is too long for a socket's path.
    """
    parent = parent_folder(parent)
    longest = f"{parent}/{_PREFIX}XXXXXXXX/.s.PGSQL.65535"
    if len(os.fsencode(longest)) > SOCKET_PATH_BYTES:
        raise ConfigurationError(
            f"wanted a folder whose sockets have at most {SOCKET_PATH_BYTES} bytes in their path, found {parent}: "
            "choose a shorter one"
        )
    return Path(tempfile.mkdtemp(prefix=_PREFIX, dir=parent))


def parent_folder(parent: Path | None) -> Path:
    """`parent`, else the system's temporary folder, or /tmp where that is too deep for sockets (macOS's is)."""
    if parent is not None:
        return parent
    usual = Path(tempfile.gettempdir())
    return usual if len(os.fsencode(usual)) < 50 else Path("/tmp")  # noqa: S108 - mkdtemp makes it private


def claim(folder: Path) -> int:
    """Mark `folder` as owned by this process until the returned descriptor is closed, by whatever.

    The lock is taken before the file gets its name, so that a sweeper never sees a claim that is not held.
    """
    draft = folder / f"{_CLAIM}.draft"
    owner = os.open(draft, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
    fcntl.flock(owner, fcntl.LOCK_EX)
    draft.rename(folder / _CLAIM)
    return owner


def sweep(parent: Path | None, programs: Programs) -> None:
    """Remove the folders of owners that are gone.

    Only what bears our mark: a folder of our user's, or of Postgres's, with a claim that nobody
    holds. Its name alone says nothing, and a folder without a claim is somebody's.
    """
    for folder in parent_folder(parent).glob(f"{_PREFIX}*"):
        with contextlib.suppress(OSError):  # another sweeper is at it, or its owner removes it right now
            found = folder.lstat()
            if stat.S_ISDIR(found.st_mode) and found.st_uid in (programs.uid, os.geteuid()):
                _sweep_one(folder, programs)


def _sweep_one(folder: Path, programs: Programs) -> None:
    owner = os.open(folder / _CLAIM, os.O_RDWR | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
    try:
        fcntl.flock(owner, fcntl.LOCK_EX | fcntl.LOCK_NB)
        if (server := read_pid_file(folder / "data", programs.uid)) and server.answers():
            # Its watchdog was killed too, or is stopping it at this moment.
            programs.run("pg_ctl", "stop", "-D", folder / "data", "-m", "immediate", "-w", "-t", "10")
            if server.answers():
                return
        shutil.rmtree(folder, ignore_errors=True)
    finally:
        os.close(owner)


def require_kept(data: Path) -> None:
    """Refuse to keep data where only temporary servers live.

    Raises:
        ConfigurationError: a folder of its path has the name of one that a sweep looks into.
    """
    for folder in (data, *data.parents):
        if folder.name.startswith(_PREFIX):
            raise ConfigurationError(
                f"could not keep data in {data}: folders named {_PREFIX}… are those of temporary servers, "
                "which are removed when their owner is gone; choose another name"
            )


def require_reachable(data: Path, programs: Programs) -> None:
    """Refuse a data folder that Postgres's user cannot enter, before Postgres says so less clearly.

    Raises:
        ConfigurationError: with the folder that is in the way.
    """
    if programs.user is None:
        return
    for folder in data.parents:
        found = folder.stat()
        if not found.st_mode & stat.S_IXOTH and found.st_uid != programs.uid:
            raise ConfigurationError(
                f"Postgres runs as {programs.user.pw_name!r} here, because it refuses root, and that user cannot enter "
                f"{folder}: keep the data elsewhere"
            )


def server_options(socket_folder: Path, *, durable: bool, settings: Mapping[str, str]) -> list[str]:
    """The server's command line: no TCP unless `settings` say so, one socket, fsync off where nothing must survive.

    Over TCP the server asks for a password (`Programs.initdb`), which the superuser has to set first.
    """
    options = {"listen_addresses": "", "unix_socket_directories": str(socket_folder), "log_min_messages": "warning"}
    if not durable:
        options |= {"fsync": "off", "synchronous_commit": "off", "full_page_writes": "off"}
    return [part for name, value in {**options, **settings}.items() for part in ("-c", f"{name}={value}")]
