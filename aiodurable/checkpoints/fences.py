"""The fence of a thread: a token in `aiodurable_fences` that grows with every lease, and that every write must show.

The rows are never deleted: a token that started again at 1 would let an old zombie's write pass.
"""

from __future__ import annotations

import asyncio
import random
import time
from collections.abc import Sequence
from datetime import datetime
from typing import NamedTuple

from asyncpg import DeadlockDetectedError, LockNotAvailableError
from psycopg.errors import DeadlockDetected, LockNotAvailable

from aiodurable.errors import LeaseLostError, LockTimeoutError
from aiodurable.postgres.connections import Database
from aiodurable.postgres.links import Links
from aiodurable.postgres.queries import load

__all__ = ["FENCE_KEY", "Fence", "Fences", "Finished", "bump", "bump_free", "read_token"]

FENCE_KEY = "__pregel_aiodurable_fence"
"""Where a run puts its `Fence` in `config["configurable"]`.

LangGraph keeps keys that begin with two underscores out of the metadata, and those that begin with
`__pregel_` out of the configs that it streams.
"""

_SQL = load("checkpoints")


class Finished(NamedTuple):
    """A checkpoint of the root graph after which nothing is left to do, as its own row says it."""

    checkpoint_id: str
    step: int
    written_at: datetime


class Fence:
    """The right to write one thread, as this process believes it. Postgres has the last word.

    Attributes:
        thread_id: the thread.
        token: what its row in `aiodurable_fences` held when the lease was taken.
        revoked: this process has given the right up; nothing more is sent under it.
        first: nothing was known of the thread when the token was raised: no lease, no checkpoint, no run.
        blank: the thread was seen to have no checkpoint a moment ago: the first read of its newest one need not ask. Over
            with that read, or with the first write.
        finished: the newest checkpoint of the root graph that was written under it, if nothing is left to do after it.
    """

    __slots__ = ("blank", "finished", "first", "revoked", "thread_id", "token")

    def __init__(self, thread_id: str, token: int, *, first: bool = False) -> None:
        self.thread_id = thread_id
        self.token = token
        self.first = first
        self.revoked = False
        self.blank = False
        self.finished: Finished | None = None

    def __repr__(self) -> str:
        return f"Fence({self.thread_id!r}, {self.token}{', revoked' if self.revoked else ''})"

    def revoke(self) -> None:
        """Give the right up in this process. For good: a new lease has a new fence."""
        self.revoked = True

    def check(self) -> None:
        """Raise `LeaseLostError` if the right was given up."""
        if self.revoked:
            raise self.lost()

    def lost(self, found: int | None = None) -> LeaseLostError:
        """The error of a write that came too late. `found`: the token in the database, where it was looked at."""
        instead = "found it given up in this process" if found is None else f"found {found}"
        return LeaseLostError(
            f"wanted to write thread {self.thread_id!r} under fencing token {self.token}, {instead}: nothing was written; "
            "whoever holds the lease now goes on from the last checkpoint",
            thread_id=self.thread_id,
        )


class Fences:
    """The fences held in this process, one a thread: for writes whose config does not carry theirs."""

    def __init__(self) -> None:
        self._held: dict[str, Fence] = {}

    def hold(self, fence: Fence) -> None:
        """Have writes of the fence's thread checked against it from now on. A newer fence takes an older one's place."""
        held = self._held.get(fence.thread_id)
        if held is None or held.token <= fence.token:
            self._held[fence.thread_id] = fence

    def drop(self, fence: Fence) -> None:
        """Forget this very fence; another one of the same thread stays."""
        if self._held.get(fence.thread_id) is fence:
            del self._held[fence.thread_id]

    def of(self, thread_id: str) -> Fence | None:
        """The fence this process holds for the thread, if any."""
        return self._held.get(thread_id)


async def bump(database: Database, thread_id: str, *, timeout_s: float = 30.0) -> int:
    """Raise the thread's token, under its lock, and return it. From then on every older token writes nothing.

    It waits for writes in flight. A client that died between taking a fence and its commit leaves a backend that keeps
    the row and that no timeout of Postgres ends; only keepalives do. So the wait is cut every second and tried again.

    Args:
        database: where the fence is.
        thread_id: the thread.
        timeout_s: seconds until it gives up.

    Raises:
        LockTimeoutError: somebody kept the row for `timeout_s`; the token is unchanged.
        PostgresUnavailableError: Postgres is away.
    """
    deadline = time.monotonic() + timeout_s
    while True:
        try:
            _, rows = await database.fetch_in_turn((_SQL["patience"], ()), (_SQL["bump"], ([thread_id],)))
            return rows[0]["token"]
        except (LockNotAvailable, DeadlockDetected) as error:
            if time.monotonic() > deadline:
                raise LockTimeoutError(
                    f"wanted the fence of thread {thread_id!r} raised within {timeout_s:g} s, found its row locked all that "
                    "time: look in pg_stat_activity for a backend that is idle in a transaction, and end it",
                    thread_id=thread_id,
                ) from error
        await asyncio.sleep(random.uniform(0.01, 0.05))


async def bump_free(links: Links, thread_ids: Sequence[str]) -> dict[str, tuple[int, bool]]:
    """Raise the tokens of those threads whose fences nobody has locked at this moment, in one statement.

    Args:
        links: to where the fences are. A statement that is run twice raises a token twice, which does no harm.
        thread_ids: the threads, each once.

    Returns:
        The tokens, and whether nothing was known of the thread; see `Fence.first`.
    """
    try:
        rows = await links.fetch(_SQL["bump_free"], list(thread_ids))
    except (LockNotAvailableError, DeadlockDetectedError):  # somebody is making the same fence and does not commit
        return {}
    return {row["thread_id"]: (row["token"], row["first"]) for row in rows}


async def read_token(database: Database, thread_id: str) -> int | None:
    """The thread's token as it stands; None: it was never leased. Asked also while the circuit is open: leases hang on it."""
    row = await database.fetch_one(_SQL["token"], thread_id, urgent=True)
    return None if row is None else row["token"]
