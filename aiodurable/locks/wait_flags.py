"""Which keys the waiters of a session want flagged on the server, and which are.

The session compares the wanted state with the actual one, so no order of events leaks a flag.
"""

from __future__ import annotations

__all__ = ["WaitFlags"]


class WaitFlags:
    """A waiter says what it wants; the session raises and lowers what differs, before its next
    batch.

    Raising and lowering the same flag between two statements cancel out. A flag that could not be
    raised (a releaser probed it in that moment, or the lock table is full) is merely missing: the
    tick wakes its waiter, which wants the flag again at its next try.

    Attributes:
        up: the flags that the server has.
    """

    def __init__(self) -> None:
        self.up: set[int] = set()
        self._wanted: dict[int, bool] = {}

    def want(self, key: int, *, up: bool) -> None:
        """Want the flag of `key` up or down."""
        self._wanted[key] = up

    @property
    def due(self) -> bool:
        """Whether somebody wanted something since the last `take`."""
        return bool(self._wanted)

    def take(self, limit: int) -> tuple[list[int], list[int]]:
        """The flags to lower and to raise now, at most `limit` of each."""
        wanted, self._wanted = self._wanted, {}
        down = [key for key, is_up in wanted.items() if not is_up and key in self.up]
        up = [key for key, is_up in wanted.items() if is_up and key not in self.up]
        self._wanted.update(dict.fromkeys(down[limit:], False) | dict.fromkeys(up[limit:], True))
        return down[:limit], up[:limit]

    def settle(self, down: list[int], up: list[int]) -> None:
        """Note which flags the server has lowered and raised."""
        self.up.difference_update(down)
        self.up.update(up)
