"""Lock mode `rows`: a lease is a row that names its owner, and one advisory lock says that the owner lives.

The server's lock table has room for some thousands of leases; a table has room for any number. What makes an advisory lock a
lease is kept: the owner's lock is the session's, so it ends with the session, whatever ends that, and then every row of it
is free at once, without a word from anybody. Whoever wants such a key tries the owner's lock and takes the row over.

No statement waits for another: whoever writes a row holds the key's gate for that long, a lock that is only ever tried.
"""

from __future__ import annotations

import asyncio
import secrets
from collections.abc import Mapping, Sequence
from typing import ClassVar, Final

import asyncpg

from aiodurable.locks.capacity import share
from aiodurable.locks.wire import NOT_HELD, Answer, Wire
from aiodurable.postgres.queries import load
from aiodurable.settings import LockMode

__all__ = ["RowWire"]

_SQL = load("rows")

SWEPT: Final = 500
"""Rows of dead owners that an audit takes away at most."""

BRIM_S: Final = 0.05
"""Seconds between two tries to let go while the server's lock table is full; the session's deadline ends them."""


class RowWire(Wire):
    """A connection whose leases are rows.

    Attributes:
        owner: the number in its rows, and that of the lock which says that they are leases.
    """

    mode: ClassVar[LockMode] = "rows"
    leases_take_slots: ClassVar[bool] = False
    # A row is free only when the statement of the releaser who looked at its flag has ended.
    flag_waits_s: ClassVar[Sequence[float]] = (0.0, 0.0, 0.001, 0.002, 0.004, 0.008, 0.016)
    statements: ClassVar[Mapping[str, str]] = {
        **{name: _SQL[name] for name in ("acquire", "acquire_one", "release", "release_one", "undo", "audit")},
        **{name: Wire.statements[name] for name in ("flags",)},
    }

    owner: int = 0
    _most: int = 1
    _unsettled: frozenset[int] | set[int] = frozenset()

    async def _come_alive(self) -> None:
        await self._connection.fetch(_SQL["configure"])
        self.owner = secrets.randbits(64) - (1 << 63)
        await self._connection.fetch(_SQL["live"], self.owner)

    async def batch(self, releases: Sequence[int], acquires: Sequence[int], tokens: int) -> Answer:
        """Let go, then try: a statement for each, in as many parts as the lock table bears gates for. A single key has a
        statement of its own, for the sake of its latency. Each proves that our own lock is held, a heartbeat too.

        Raises:
            asyncpg.InterfaceError: it is gone: these rows are leases no longer.
        """
        if len(acquires) == 1 and not releases and not tokens:
            return await self._try_one(acquires[0])
        if len(releases) == 1 and not acquires and not tokens:
            answer = await self._release_one(releases[0])
            if answer is not None:
                return answer
        became: dict[int, int] = {}
        left = list(releases)
        self._unsettled = set(releases)
        while left:
            # Each takes a gate and a flag. A gate is closed for the length of somebody's statement, then it is our turn.
            part = max(1, self._most // 2)
            pid, lives, closed, gone, told = await self._statements["release"].fetchrow(self.owner, left[:part])
            if self._moved(pid, lives):
                return Answer(pid, (), (), ())
            became.update(zip(gone or (), told or (), strict=True))
            left = [*closed, *left[part:]]
            self._unsettled.intersection_update(left)
        taken: dict[int, int] = {}
        spare: Sequence[int] = ()
        # With nothing to do at all it is a heartbeat, which has to reach the server.
        for at in range(0, len(acquires) or bool(tokens or not releases), self._most):
            pid, lives, keys, theirs, new = await self._statements["acquire"].fetchrow(
                self.owner, acquires[at : at + self._most], 0 if at else tokens
            )
            if self._moved(pid, lives):
                return Answer(pid, (), (), ())
            taken.update(zip(keys or (), theirs or (), strict=True))
            self._unsettled.update(keys or ())
            spare = spare or new
        return Answer(
            self.pid, [became.get(key, NOT_HELD) for key in releases], [taken.get(key) for key in acquires], spare
        )

    async def _try_one(self, key: int) -> Answer:
        self._unsettled = frozenset()
        pid, lives, token = await self._statements["acquire_one"].fetchrow(self.owner, key)
        return Answer(pid, (), (), ()) if self._moved(pid, lives) else Answer(pid, (), (token,), ())

    async def _release_one(self, key: int) -> Answer | None:
        """None: its gate is closed."""
        self._unsettled = {key}
        pid, lives, passed, became = await self._statements["release_one"].fetchrow(self.owner, key)
        if self._moved(pid, lives):
            return Answer(pid, (), (), ())
        return Answer(pid, (NOT_HELD if became is None else became,), (), ()) if passed else None

    def _moved(self, pid: int, lives: bool) -> bool:
        """Whether another backend answered, which holds nothing of ours."""
        if pid == self.pid and not lives:
            raise asyncpg.InterfaceError("the lock that says that this session's rows are leases is gone")
        return pid != self.pid

    async def undo(self, keys: Sequence[int], flags: Sequence[int] = ()) -> None:
        """Let go of what the statements of a batch took before one of them failed, which itself did nothing, and of what they
        did not come to let go of. To delete takes a slot of the lock table too: until there is one, this waits."""
        if flags:
            await self._statements["flags"].fetch(flags, ())
        while rows := [key for key in keys if key in self._unsettled]:
            try:
                await self._statements["undo"].fetch(self.owner, rows)
            except asyncpg.OutOfMemoryError:
                await asyncio.sleep(BRIM_S)
            else:
                break

    async def audit(self, held: int) -> tuple[int, Sequence[int] | None, int, int]:
        """As with advisory locks. Rows whose owners are gone are taken away in passing.

        Raises:
            asyncpg.InterfaceError: our own lock is gone: these rows are leases no longer.
        """
        pid, keys, slots, sessions, lives = await self._statements["audit"].fetchrow(self.owner, held, SWEPT)
        self._moved(pid, lives)
        self._most = share(slots, sessions)
        return pid, keys, slots, sessions
