"""How many locks a session may hold: the whole cluster shares the server's lock table.

When the table is full, new connections, writes, schema changes and NOTIFY of everybody fail with
53200 (out_of_memory). So aiodurable uses at most half of the table's nominal size,
`max_locks_per_transaction × (max_connections + max_prepared_transactions)` (Postgres itself adds
some slack to that), and all lock sessions of the cluster, of whatever database, share this half
equally.

Sessions of another role count up to as many as our own role has: any role that may connect can open
some under our name. The price: the shares of roles with different numbers of sessions add up to
more than the half (two roles to at most 1.5 times the half, three to 1.9 times).

Waiters' flags are locks too. They come on top, at most a quarter of the share; a waiter without a
flag is woken by the tick alone.

A session learns its share when it connects, and at each audit. A new session lowers the shares of
the others and revokes nothing: what they hold beyond their share goes down as they release. However
many sessions of one role come, the sum stays below twice the half, so even then the table is not
full.
"""

from __future__ import annotations

from typing import Final

from aiodurable.errors import LockCapacityError

__all__ = ["FLAGS_OF_SHARE", "beyond", "full", "share"]

FLAGS_OF_SHARE: Final = 4
"""Flags take at most this fraction (1/4) of a session's share, beside its locks."""

_ADVICE = "Hold fewer locks at a time, or raise max_locks_per_transaction and restart Postgres"


def share(slots: int, sessions: int) -> int:
    """Locks that one of `sessions` lock sessions may hold on a server with `slots`; at least 1."""
    return max(1, slots // 2 // max(1, sessions))


def beyond(share: int) -> LockCapacityError:
    """The error for a lock beyond the session's share."""
    return LockCapacityError(
        f"cannot hold one more lock: this lock session has its share of {share}, which is half of"
        f" the server's lock table divided by all lock sessions. {_ADVICE}"
    )


def full(cause: BaseException) -> LockCapacityError:
    """The error for a lock that the server refused because its lock table is full."""
    error = LockCapacityError(
        f"cannot hold one more lock: the server's lock table is full. {_ADVICE}"
    )
    error.__cause__ = cause
    return error
