"""A forked child must not keep a lock session alive.

It inherits the socket: if the parent is killed, the connection, and every lock on it, would live as
long as the child.
"""

from __future__ import annotations

import os
import weakref
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from aiodurable.locks.session import LockSession

__all__ = ["close_in_child"]

_open: weakref.WeakSet[LockSession] = weakref.WeakSet()


def close_in_child(session: LockSession) -> None:
    """In every child forked from now on, disconnect the session's socket and lose its leases."""
    _open.add(session)


def _in_child() -> None:
    # The socket is replaced, not closed: the child's next file would get its number, and the
    # inherited transport would read that file.
    nowhere = os.open(os.devnull, os.O_RDWR)
    try:
        for session in list(_open):
            if (number := session.fileno()) >= 0:
                os.dup2(nowhere, number)
            session.inherited()
        _open.clear()
    finally:
        os.close(nowhere)


if hasattr(os, "register_at_fork"):  # not on Windows, which does not fork either
    os.register_at_fork(after_in_child=_in_child)
