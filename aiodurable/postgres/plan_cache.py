"""When a connection discards its plans.

Postgres plans a prepared statement once. A plan made while a table was empty may read all of it,
and Postgres keeps that plan until the table is analysed: for a minute or more, in which the table
may have grown a lot.
"""

from __future__ import annotations

import time
from typing import Final

from aiodurable.postgres.sql import load

__all__ = ["PlanCache"]

_FIRST_S: Final = 1.0
_LAST_S: Final = 600.0


class PlanCache:
    """The plans of one connection: due after one second, then after two, four and so on, at most
    every ten minutes.

    Args:
        grown: whether the tables had grown before the first plan. Then only every ten minutes: to
            plan again takes Postgres a millisecond a statement, and finds the same.
    """

    DISCARD: Final = load("direct")["discard_plans"]
    """The statement that discards them."""

    def __init__(self, *, grown: bool = False) -> None:
        self._interval_s = _LAST_S if grown else _FIRST_S
        self._due = time.monotonic() + self._interval_s

    def due_for_discard(self) -> bool:
        """Whether to run `DISCARD` now. True starts the next interval: the caller runs it."""
        if time.monotonic() < self._due:
            return False
        self._interval_s = min(self._interval_s * 2, _LAST_S)
        self._due = time.monotonic() + self._interval_s
        return True
