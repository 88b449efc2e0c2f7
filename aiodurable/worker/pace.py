"""How often a worker looks for what there is to do: workers that would see the same share it."""

from __future__ import annotations

import random
import time
from typing import Final

__all__ = ["LookPace"]

_LOOK_S: Final = (0.25, 0.5)
"""Seconds between two looks, of one worker or of another of those that share them."""
_MOST: Final = 8
"""Workers that share the looks; each looks once in three seconds then, and what a single worker
serves is not left for longer.
"""


class LookPace:
    """When one worker looks next.

    Of n workers with the same queues and graphs, one looks each `_LOOK_S` or so, each in its slot
    of the wall clock. Where their clocks differ, or one has died, some looks are further apart: for
    each worker that died at once, by one slot.
    """

    def __init__(self) -> None:
        self._rank, self._sharing = 0, 1

    def share(self, rank: int, others: int) -> None:
        """Look beside so many others, `rank` of which come first."""
        self._sharing = min(others + 1, _MOST)
        self._rank = rank % self._sharing

    def wait_s(self, now: float | None = None) -> float:
        """Seconds until the next look.

        Args:
            now: seconds of the wall clock; None: what it says.
        """
        if self._sharing == 1:
            return random.uniform(*_LOOK_S)
        slot_s = sum(_LOOK_S) / 2
        round_s = slot_s * self._sharing
        at = ((time.time() if now is None else now) - self._rank * slot_s) % round_s
        # Half a slot: a look that came a little early is not made again.
        wait_s = round_s - at
        return wait_s if wait_s > slot_s / 2 else wait_s + round_s
