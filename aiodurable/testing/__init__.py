"""For the tests of applications, with real processes and a real Postgres: a mock cannot show what
happens when a process dies.
"""

from __future__ import annotations

from aiodurable.testing.clock import advance
from aiodurable.testing.crash import CrashOptions, acrash_everywhere, crash_everywhere
from aiodurable.testing.crash_report import CrashReport, NodeReport, NodeVerdict, PointReport
from aiodurable.testing.created import CreatedFilters, assert_created, refute_created
from aiodurable.testing.drain import DrainReport, drain_queue

__all__ = [
    "CrashOptions",
    "CrashReport",
    "CreatedFilters",
    "DrainReport",
    "NodeReport",
    "NodeVerdict",
    "PointReport",
    "acrash_everywhere",
    "advance",
    "assert_created",
    "crash_everywhere",
    "drain_queue",
    "refute_created",
]
