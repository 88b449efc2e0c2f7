"""For the tests of applications, with real processes and a real Postgres: a mock cannot show what
happens when a process dies.
"""

from __future__ import annotations

from aiodurable.testing.clock import advance
from aiodurable.testing.created import CreatedFilters, assert_created, refute_created
from aiodurable.testing.drain import DrainReport, drain_queue

__all__ = [
    "CreatedFilters",
    "DrainReport",
    "advance",
    "assert_created",
    "drain_queue",
    "refute_created",
]
