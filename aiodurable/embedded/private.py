"""Opens and checks files and folders that another user can change, without following links.

If we are root, Postgres runs as a service user, who owns its folders and can put links and pipes of
any name there. So this code trusts no name in them: it opens a file, then checks what it opened.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import stat
from collections.abc import Iterator
from pathlib import Path

from aiodurable.errors import ConfigurationError

__all__ = ["alone_in", "give", "new_file", "read_tail", "require_private"]

_TAIL_BYTES = 64 * 1024


def new_file(path: Path) -> int:
    """Create `path`, which must not exist, not even as a link; return its descriptor."""
    flags = os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
    return os.open(path, flags, 0o600)


@contextlib.contextmanager
def alone_in(folder: Path) -> Iterator[int]:
    """Hold an exclusive lock on `folder` for the body, and yield the descriptor that carries it.

    A child that inherits the descriptor keeps the lock until it ends, even if this process dies.

    Raises:
        OSError: `folder` is a link or not a folder.
    """
    while True:
        opened = _open_folder(folder)
        try:
            fcntl.flock(opened, fcntl.LOCK_EX)
            if os.path.sameopenfile(opened, again := _open_folder(folder)):
                os.close(again)
                yield opened
                return
            os.close(again)  # the folder was replaced while we waited for its lock
        finally:
            os.close(opened)


def _open_folder(path: Path) -> int:
    return os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC)


def give(folder: Path, uid: int, gid: int) -> None:
    """Change the owner of our folder to another user.

    Raises:
        ConfigurationError: it is a link or not a folder, or belongs to a third user.
    """
    try:
        opened = _open_folder(folder)
        try:
            owner = os.fstat(opened).st_uid
            if owner in (os.geteuid(), uid):
                return os.fchown(opened, uid, gid)
        finally:
            os.close(opened)
    except OSError as error:
        raise ConfigurationError(
            f"cannot give {folder} to Postgres's user: {error.strerror or error}; choose another"
            " folder"
        ) from error
    raise ConfigurationError(
        f"cannot give {folder} to Postgres's user: it belongs to user {owner}; choose another"
        " folder"
    )


def require_private(folder: Path, uid: int) -> None:
    """Check that `folder` is a folder of `uid` that nobody else can enter.

    Raises:
        ConfigurationError: it is not; the message says what it is.
    """
    found = folder.lstat()
    if stat.S_ISDIR(found.st_mode) and found.st_uid == uid and stat.S_IMODE(found.st_mode) == 0o700:
        return
    raise ConfigurationError(
        f"cannot use {folder}: it must be a folder of user {uid} with mode 0700, and it is "
        f"{stat.filemode(found.st_mode)} of user {found.st_uid}; remove it"
    )


def read_tail(file: int | Path, uid: int) -> str:
    """The last 64 KiB of a text file that belongs to `uid` or to this process's user.

    Args:
        file: a trusted descriptor; or a path, which is opened without following links.
        uid: the user who may own it besides our own user.

    Raises:
        OSError: it cannot be read, is not a regular file, or belongs to somebody else.
    """
    if isinstance(file, int):
        return _tail_of(file)
    # Without O_NONBLOCK, opening a pipe in the file's place would block for ever.
    opened = os.open(file, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
    try:
        found = os.fstat(opened)
        if (
            not stat.S_ISREG(found.st_mode)
            or found.st_uid not in (uid, os.geteuid())
            or found.st_nlink > 1
        ):
            raise PermissionError(0, "it is not the server's own file")
        return _tail_of(opened)
    finally:
        os.close(opened)


def _tail_of(opened: int) -> str:
    start = max(0, os.fstat(opened).st_size - _TAIL_BYTES)
    return os.pread(opened, _TAIL_BYTES, start).decode(errors="replace")
