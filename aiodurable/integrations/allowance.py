"""An allowance: so many a second, and no more."""

from __future__ import annotations

import time
from typing import Final

__all__ = ["Allowance"]


class Allowance:
    """A token bucket that holds a second's worth, and at least one.

    Args:
        per_s: how many a second; `math.inf`: as many as there are, 0: none.
    """

    def __init__(self, per_s: float) -> None:
        self._per_s: Final = per_s
        self._most: Final = max(per_s, 1.0) if per_s > 0 else 0.0
        self._left = self._most
        self._at = time.monotonic()

    def take(self) -> bool:
        """Take one, if there is one."""
        now = time.monotonic()
        self._left = min(self._most, self._left + (now - self._at) * self._per_s)
        self._at = now
        if self._left < 1.0:
            return False
        self._left -= 1.0
        return True
