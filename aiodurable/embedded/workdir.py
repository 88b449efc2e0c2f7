"""Temporary folders with an owning process: its lock ends with it, and the next process removes the
folder.
"""

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
    "left",
    "new_folder",
    "require_kept",
    "require_reachable",
    "server_options",
    "sweep",
]

SOCKET_PATH_BYTES = 103
"""`sun_path` holds 104 bytes on macOS and 108 on Linux, including the final NUL."""

_PREFIX = "aiodurable-pg-"
_CLAIM = "owner.lock"


def new_folder(parent: Path | None) -> Path:
    """Create a private folder for one server, under `parent` or the system's temporary folder.

    Raises:
        ConfigurationError: `parent` is too long for a socket's path.
    """
    parent = parent_folder(parent)
    longest = f"{parent}/{_PREFIX}XXXXXXXX/.s.PGSQL.65535"
    if len(os.fsencode(longest)) > SOCKET_PATH_BYTES:
        raise ConfigurationError(
            f"cannot use {parent}: the paths of its sockets would have more than"
            f" {SOCKET_PATH_BYTES} bytes; choose a shorter one"
        )
    return Path(tempfile.mkdtemp(prefix=_PREFIX, dir=parent))


def parent_folder(parent: Path | None) -> Path:
    """`parent`, else the system's temporary folder, or /tmp where that path is too long for sockets
    (as on macOS).
    """
    if parent is not None:
        return parent
    usual = Path(tempfile.gettempdir())
    return usual if len(os.fsencode(usual)) < 50 else Path("/tmp")  # noqa: S108 - mkdtemp makes it private


def claim(folder: Path) -> int:
    """Mark `folder` as owned by this process until it closes the returned descriptor or ends.

    The file is locked before it gets its name, so that a sweeper never sees an unlocked claim of a
    live owner.
    """
    draft = folder / f"{_CLAIM}.draft"
    owner = os.open(draft, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
    fcntl.flock(owner, fcntl.LOCK_EX)
    draft.rename(folder / _CLAIM)
    return owner


def left(folder: Path) -> bool:
    """Whether `folder` was made by `new_folder` and its owner is gone."""
    if not folder.name.startswith(_PREFIX):
        return False
    try:
        claimed = os.open(folder / _CLAIM, os.O_RDWR | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
    except OSError:
        return True  # swept already
    try:
        fcntl.flock(claimed, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    finally:
        os.close(claimed)
    return True


def sweep(parent: Path | None, programs: Programs) -> None:
    """Remove the folders of dead owners.

    Removes only folders of our user or of Postgres's user with a claim file that nobody locks. A
    name proves nothing, and a folder without a claim is somebody else's.
    """
    for folder in parent_folder(parent).glob(f"{_PREFIX}*"):
        with contextlib.suppress(OSError):  # its owner or another sweeper may remove it now
            found = folder.lstat()
            if stat.S_ISDIR(found.st_mode) and found.st_uid in (programs.uid, os.geteuid()):
                _sweep_one(folder, programs)


def _sweep_one(folder: Path, programs: Programs) -> None:
    owner = os.open(folder / _CLAIM, os.O_RDWR | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
    try:
        fcntl.flock(owner, fcntl.LOCK_EX | fcntl.LOCK_NB)
        if (server := read_pid_file(folder / "data", programs.uid)) and server.answers():
            # Its watchdog was killed as well, or is just stopping it.
            programs.run(
                "pg_ctl", "stop", "-D", folder / "data", "-m", "immediate", "-w", "-t", "10"
            )
            if server.answers():
                return
        shutil.rmtree(folder, ignore_errors=True)
    finally:
        os.close(owner)


def require_kept(data: Path) -> None:
    """Refuse a data folder under the name of a temporary server's folder.

    Raises:
        ConfigurationError: a folder of the path has a name that `sweep` would remove.
    """
    for folder in (data, *data.parents):
        if folder.name.startswith(_PREFIX):
            raise ConfigurationError(
                f"cannot keep data in {data}: aiodurable removes folders named {_PREFIX}…, which"
                " belong to temporary servers; choose another name"
            )


def require_reachable(data: Path, programs: Programs) -> None:
    """Refuse a data folder that Postgres's user cannot enter: Postgres's own message would be less
    clear.

    Raises:
        ConfigurationError: Postgres's user cannot enter a parent; the message names it.
    """
    if programs.user is None:
        return
    for folder in data.parents:
        found = folder.stat()
        if not found.st_mode & stat.S_IXOTH and found.st_uid != programs.uid:
            raise ConfigurationError(
                f"cannot keep data in {data}: Postgres refuses root and runs as"
                f" {programs.user.pw_name!r}, which cannot enter {folder}; keep the data elsewhere"
            )


def server_options(socket_folder: Path, *, durable: bool, settings: Mapping[str, str]) -> list[str]:
    """The server's options: one socket, TCP only by `settings`, fsync off unless `durable`.

    Over TCP the server requires a password (`Programs.initdb`), which the superuser sets first.
    """
    options = {
        "listen_addresses": "",
        "unix_socket_directories": str(socket_folder),
        "log_min_messages": "warning",
    }
    if not durable:
        options |= {"fsync": "off", "synchronous_commit": "off", "full_page_writes": "off"}
    return [
        part
        for name, value in {**options, **settings}.items()
        for part in ("-c", f"{name}={value}")
    ]
