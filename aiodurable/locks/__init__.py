"""Locks: many leases on a few connections.

The server holds the locks; the holder gives them up before the server frees them. A lease is a
session-level advisory lock on a 64-bit key, with a token that grows from lease to lease.

    PostgresLockManager     manager.py        opens, closes, acquires, reports
      Acquirer              acquire.py        acquires and waits
        Releaser            release.py        releases, or hands over within the process
        LocalQueue          local_queue.py    one task of this process at a time for each key
        KeyWaiters          waiters.py        wakes tasks that wait for another process
        HolderLookup        holders.py        who holds a busy lock
      SessionSupervisor     supervisor.py     connects a session, checks it, replaces it
        check               selfcheck.py      whether locks exclude on a connection
        Sender              sender.py         the task that sends: batches, flags, audits
        LockSession         session.py        leases on one connection
          SessionClock      session_clock.py  heartbeat and deadline
          RequestQueue      requests.py       what the next statement carries
          LoneRequest       lone.py           one key, sent at once while nobody else wants to send
          WaitFlags         wait_flags.py     what the server knows of waiters
          LockStatements    statements.py     the connection and its SQL
          Lease             lease.py          HELD → RELEASED or LOST
    HeldLock, cancel_on_lost    scope.py      the body that runs under a lease

Each owns what is indented below it. A lease has only a callable that releases it.

- Requests that arrive in one iteration of the event loop travel as one statement. A session that
  has nothing else to do sends the first one at once. No statement blocks or is cancelled: callers
  wait for futures, and a lock granted to a caller that has left is released.
- The key of a thread is locked, and its token raised, in one statement, which does not wait for the
  disk. Bare locks have their tokens from a sequence.
- A key is one task's at a time within the process: Postgres grants it to one session twice.
- Waiting happens in the client. A waiter's flag, a shared lock beside the key, makes a releaser
  notify it, and a tick finds the keys of holders that died.
- A session is trusted until a moment before the server can possibly have freed its locks
  (`lease_timing.py`). No answer until then, a connection that ends, another backend that answers, a
  lock that is missing when it is unlocked: the session is over, and all its leases are lost.
  Unknown means lost. A session that is over never comes back, and a lost lease stays lost.
- While a session is used, its audit compares what it believes to hold with `pg_locks`, and the
  server's lock table bounds how much it may hold (`capacity.py`).
- A forked child loses the sessions of its parent (`fork_safety.py`).
"""

from aiodurable.locks.health import LocksHealth, SessionHealth
from aiodurable.locks.lease import Lease, LeaseState
from aiodurable.locks.manager import PostgresLockManager, create_lock_manager_with_retry
from aiodurable.locks.scope import CancelOnLost, cancel_on_lost
from aiodurable.locks.signals import close_on_signals

__all__ = [
    "CancelOnLost",
    "Lease",
    "LeaseState",
    "LocksHealth",
    "PostgresLockManager",
    "SessionHealth",
    "cancel_on_lost",
    "close_on_signals",
    "create_lock_manager_with_retry",
]
