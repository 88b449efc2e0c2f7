"""How many locks a session may take: the server's lock table is one for the whole cluster, and full it is everybody's outage.

At the brim new connections, writes, schema changes and NOTIFY fail too, with 53200 (out_of_memory). So aiodurable takes at
most half of the table's nominal size, `max_locks_per_transaction × (max_connections + max_prepared_transactions)` (Postgres
itself adds some slack to that), and all lock sessions of the cluster, of whatever database, share this half equally.
Sessions of another role count up to as many as our own role has: any role that may connect can open some under our name.
The price: shares of roles with different numbers of sessions add up to more than the half (two roles to at most 1.5 times
the half, three to 1.9 times).

Waiters' flags are locks too. They come on top, a quarter of the share at most; who gets none is woken by the tick alone.

A session learns its share when it connects and every half minute or so. A newcomer lowers the shares of those before it,
but takes nothing from them: what they hold beyond it goes down as they release. However many come of one role, the sum stays
below twice the half, so even then the table is not full.
"""

from __future__ import annotations

from typing import Final

from aiodurable.errors import LockCapacityError

__all__ = ["FLAGS_OF_SHARE", "beyond", "full", "share"]

FLAGS_OF_SHARE: Final = 4
"""Flags take at most one of so many parts of a session's share, beside its locks."""

_ADVICE = "hold fewer locks at a time, or raise max_locks_per_transaction and restart Postgres"


def share(slots: int, sessions: int) -> int:
    """Locks that one of `sessions` lock sessions may hold on a server with `slots`; at least one."""
    return max(1, slots // 2 // max(1, sessions))


def beyond(share: int) -> LockCapacityError:
    """What to say before a lock beyond the share is asked for."""
    return LockCapacityError(
        f"wanted one more lock, found that this lock session has its share of {share}, half of the server's lock table "
        f"divided by all lock sessions: {_ADVICE}"
    )


def full(cause: BaseException) -> LockCapacityError:
    """What to say when the server refused for want of room."""
    error = LockCapacityError(f"wanted one more lock, found the server's lock table full: {_ADVICE}")
    error.__cause__ = cause
    return error
