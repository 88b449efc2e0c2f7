"""How long the library waits before it tries something again: one named policy for each thing that
is tried again.

The loops stay where they are, for each has its own end: a deadline, a lease's grace, the end of a
session. A loop that waits for the server's start is stamina's (`startup.py`); these are not, for
stamina's switches (`set_active`, `set_testing`) are those of the whole process: an application that
turns retries off in its tests must not keep a lock session from coming back.
"""

from __future__ import annotations

import asyncio
import random
from dataclasses import dataclass
from typing import Final

__all__ = [
    "GROUP_COMMIT",
    "LEASE_RECOVERY",
    "LOCKED_ROW",
    "MIGRATION_LOCK",
    "POOL_RECONNECT",
    "QUEUE_ROW",
    "RUN_START",
    "SESSION_RECONNECT",
    "SETUP_RACE",
    "STATEMENT",
    "Backoff",
]


@dataclass(frozen=True, slots=True)
class Backoff:
    """Pauses that double from `first_s` up to `max_s`.

    Attributes:
        first_s: seconds after the first failure, before jitter.
        max_s: seconds that no pause exceeds.
        jitter: the share of each pause of which a random part is taken off, from 0 to 1: processes
            that failed together do not try again together.
    """

    first_s: float
    max_s: float
    jitter: float = 0.5

    def pause_s(self, failures: int = 1) -> float:
        """Seconds to wait after the given number of failures in a row; 0 where there were none."""
        if failures < 1:
            return 0.0
        # 2 ** 1024 overflows a float
        longest = min(self.max_s, self.first_s * 2 ** min(failures - 1, 30))
        return longest * random.uniform(1 - self.jitter, 1)

    async def pause(self, failures: int = 1) -> None:
        """Wait for `pause_s(failures)`; a cancellation ends it at once."""
        await asyncio.sleep(self.pause_s(failures))


POOL_RECONNECT: Final = Backoff(0.3, 0.3, jitter=2 / 3)
"""A connection of the psycopg pool. Constant: a run that lost its lock has `recovery_grace_s` to
come back.
"""

SESSION_RECONNECT: Final = Backoff(0.05, 2.0)
"""A lock session, until the manager closes."""

STATEMENT: Final = Backoff(0.02, 0.5)
"""A statement whose connection was dead. The first try again waits for nothing: most often the
connection died idle.
"""

GROUP_COMMIT: Final = Backoff(0.04, 1.0)
"""A batch of checkpoints, while Postgres is away."""

LEASE_RECOVERY: Final = Backoff(0.1, 0.1, jitter=0.8)
"""A lost lease: the server may hold the dead session's lock for a moment, be starting, or be short
of lock slots.
"""

LOCKED_ROW: Final = Backoff(0.05, 0.05, jitter=0.8)
"""A row of a fence, a run or a thread that another transaction has locked or changed."""

QUEUE_ROW: Final = Backoff(0.02, 0.5)
"""The row of a queue with limits, from which another worker claims at this moment."""

RUN_START: Final = Backoff(0.02, 0.02)
"""The start of a run whose fence another transaction has locked."""

MIGRATION_LOCK: Final = Backoff(0.1, 0.1, jitter=0.8)
"""The lock that serialises migrations; only ever tried, for a session that waits for it would block
a migration.
"""

SETUP_RACE: Final = Backoff(0.2, 0.2, jitter=0.75)
"""LangGraph's own `setup()`, which fails where two processes run it at once."""
