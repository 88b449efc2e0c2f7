"""When the plans of a connection are made anew.

A prepared statement is planned once. A plan that was made while a table was empty may read all of it, and Postgres keeps it
until the table is analysed: for a minute or more, in which the table may have grown a lot.
"""

from __future__ import annotations

import time
from typing import Final

from aiodurable.postgres.sql import load

__all__ = ["PlanCache"]

_FIRST_S: Final = 1.0
_LAST_S: Final = 600.0


class PlanCache:
    """The plans of one connection: given up after a second, then after two, four and so on, at last every ten minutes."""

    FORGET: Final = load("direct")["plan_anew"]
    """The statement that gives them up."""

    def __init__(self) -> None:
        self._for_s = _FIRST_S
        self._until = time.monotonic() + self._for_s

    def stale(self) -> bool:
        """Whether to run `FORGET` now; asked again, no: it is taken for done."""
        if time.monotonic() < self._until:
            return False
        self._for_s = min(self._for_s * 2, _LAST_S)
        self._until = time.monotonic() + self._for_s
        return True
