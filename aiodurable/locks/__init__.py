"""Locks: many leases on a few connections, held by the server, given up by the holder before the server gives them away.

A lease is a session-level advisory lock on a 64-bit key, with a token that grows from lease to lease. All leases of a
process live on a few dedicated connections (`session.py`). What tasks ask for in one turn of the event loop travels as one
statement, and none of these ever blocks or is cancelled: callers wait for futures, and a lock granted to a caller that
has left goes back.

- Within the process a key is one task's at a time (`turns.py`), for Postgres would say yes to one session twice.
- A waiter waits here, not in the server (`waiting.py`): its flag, a shared lock beside the key, makes a releaser notify it,
  and a tick finds the keys of those who died.
- A lease is HELD until it is RELEASED or LOST (`lease.py`). Losing cancels the body under it (`scope.py`).
- A session is trusted until a moment that lies before the server can possibly have freed its locks (`terms.py`). No answer
  until then, a connection that ends, another backend that answers, a lock that is not there when it is unlocked: the
  session is over, and all its leases with it. Unknown means lost.
- Before a session is used it is checked that its locks exclude (`selfcheck.py`); while it is used, what it believes to hold
  is compared with `pg_locks` (its audit), and how much it may hold is bounded (`capacity.py`).
- A session that is over never comes back; another takes its place (`keeper.py`). A lost lease stays lost.
"""

from aiodurable.locks.health import LocksHealth, SessionHealth
from aiodurable.locks.lease import Lease
from aiodurable.locks.manager import PostgresLockManager
from aiodurable.locks.retry import create_lock_manager_with_retry
from aiodurable.locks.scope import CancelOnLost, cancel_on_lost
from aiodurable.locks.signals import close_on_signals

__all__ = [
    "CancelOnLost",
    "Lease",
    "LocksHealth",
    "PostgresLockManager",
    "SessionHealth",
    "cancel_on_lost",
    "close_on_signals",
    "create_lock_manager_with_retry",
]
