"""Which keys this session's waiters want flagged, and which are: level against level, so that no order of events leaks one."""

from __future__ import annotations

__all__ = ["WaitFlags"]


class WaitFlags:
    """A waiter says what it wants; the session raises and lowers what differs, before the tries of the same turn.

    Up and down of one key within a turn cancel out. A flag that could not be raised (a releaser looked at it just then, or
    the lock table is full) is merely missing: its waiter is woken by the tick, and wants it again at its next try.

    Attributes:
        up: what the server has.
    """

    def __init__(self) -> None:
        self.up: set[int] = set()
        self._wanted: dict[int, bool] = {}

    def want(self, key: int, *, up: bool) -> None:
        """Say that somebody waits for `key`, or waits no longer."""
        self._wanted[key] = up

    @property
    def due(self) -> bool:
        """Whether somebody said something since the last `take`."""
        return bool(self._wanted)

    def take(self, most: int) -> tuple[list[int], list[int]]:
        """What to lower and what to raise now, at most so many of each."""
        wanted, self._wanted = self._wanted, {}
        down = [key for key, is_up in wanted.items() if not is_up and key in self.up]
        up = [key for key, is_up in wanted.items() if is_up and key not in self.up]
        self._wanted.update(dict.fromkeys(down[most:], False) | dict.fromkeys(up[most:], True))
        return down[:most], up[:most]

    def settle(self, down: list[int], up: list[int]) -> None:
        """What the server has lowered and raised."""
        self.up.difference_update(down)
        self.up.update(up)
