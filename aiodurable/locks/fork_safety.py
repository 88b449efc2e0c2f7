"""A forked child must not keep a lock session alive.

It inherits the socket: after the parent was killed the connection, and with it every lock, would live as long as the child.
"""

from __future__ import annotations

import os
import weakref
from typing import Protocol

__all__ = ["close_in_child"]


class Forkable(Protocol):
    """What has a socket that a child must not have."""

    def fileno(self) -> int:
        """The socket's file descriptor, -1 once it is closed."""
        ...

    def inherited(self) -> None:
        """Called in the child."""
        ...


_open: weakref.WeakSet[Forkable] = weakref.WeakSet()


def close_in_child(session: Forkable) -> None:
    """In every child that is forked from now on, the session's socket leads nowhere and its leases are lost."""
    _open.add(session)


def _in_child() -> None:
    # Not closed: the number would be given to the child's next file, and the inherited transport would read that.
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
