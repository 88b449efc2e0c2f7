"""The fence of a thread: its row in `aiodurable_fences`, which every write must match.

The row holds a token, which grows with every lease, and the id of the newest lease, a random number
drawn for it. A token that a crash or a failover undoes and gives out again, or that starts again
after its row was removed, lets no earlier holder in.
"""

from __future__ import annotations

import copy
import secrets
import time
from collections.abc import Callable, Mapping, Sequence
from datetime import datetime
from typing import Any, NamedTuple

from asyncpg import DeadlockDetectedError, LockNotAvailableError
from psycopg.errors import DeadlockDetected, LockNotAvailable

from aiodurable.checkpoints.history import History
from aiodurable.errors import HistoryLostError, LeaseLostError, LockTimeoutError
from aiodurable.postgres.direct import DirectPool
from aiodurable.postgres.pool import PsycopgPool
from aiodurable.postgres.retry import LOCKED_ROW
from aiodurable.postgres.sql import load

__all__ = ["FENCE_KEY", "Fence", "Fences", "Finished", "Standing", "bump", "bump_free", "new_lease_id", "read_standing"]

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


class Standing(NamedTuple):
    """What the row of a thread's fence holds: the token and the id of its newest lease, or of its removal."""

    token: int
    lease_id: int


class Fence:
    """The right to write one thread, as this process believes it. Postgres has the last word.

    Attributes:
        thread_id: the thread.
        token: what its row in `aiodurable_fences` held when the lease was taken.
        lease_id: the random number drawn for this lease, which that row holds too.
        revoked: this process has given the right up; nothing more is sent under it.
        deleted: it has, because the thread was deleted under this very lease.
        first: nothing was known of the thread when the token was raised: no lease, no checkpoint, no run.
        blank: the thread was seen to have no checkpoint a moment ago: the first read of its newest one need not ask. Over
            with that read, or with the first write.
        head: the row of the thread's newest checkpoint, where it was read a moment ago: its next read need not ask. Over
            like `blank`.
        finished: the newest checkpoint of the root graph that was written under it, if nothing is left to do after it.
        history: what was acknowledged under it.
        on_revoked: called once when it is revoked, None: nothing is.
        untaken: the run whose input no checkpoint has taken yet; its first one says so in the ledger, in the same commit.
    """

    __slots__ = (
        "_why",
        "blank",
        "deleted",
        "finished",
        "first",
        "head",
        "history",
        "lease_id",
        "on_revoked",
        "revoked",
        "thread_id",
        "token",
        "untaken",
    )

    def __init__(self, thread_id: str, token: int, lease_id: int = 0, *, first: bool = False) -> None:
        self.thread_id = thread_id
        self.token = token
        self.lease_id = lease_id
        self.first = first
        self.revoked = False
        self.deleted = False
        self.blank = False
        self.head: Mapping[str, Any] | None = None
        self.finished: Finished | None = None
        self.history = History()
        self.on_revoked: Callable[[], None] | None = None
        self.untaken: str | None = None
        self._why: LeaseLostError | None = None

    def __repr__(self) -> str:
        return f"Fence({self.thread_id!r}, {self.token}{', revoked' if self.revoked else ''})"

    @property
    def standing(self) -> Standing:
        """What the thread's row must hold for a write to be accepted."""
        return Standing(self.token, self.lease_id)

    def revoke(self, why: LeaseLostError | None = None) -> None:
        """Give the right up in this process. For good: a new lease has a new fence. The first reason stands."""
        if self.revoked:
            return
        self.revoked = True
        self._why = why
        if self.on_revoked is not None:
            self.on_revoked()

    def check(self) -> None:
        """Raise `LeaseLostError` if the right was given up."""
        if self.revoked:
            raise self.lost()

    def lost(self) -> LeaseLostError:
        """The error of whatever comes after the right was given up: why it was."""
        if self._why is not None:
            return copy.copy(self._why)  # several callers raise it, each with a traceback of its own
        return LeaseLostError(
            f"could not write thread {self.thread_id!r} under fencing token {self.token}: this process has given the lease "
            "up. Nothing was written; the thread goes on from its last checkpoint with the next call",
            thread_id=self.thread_id,
        )

    def delete(self) -> None:
        """Revoke it: the thread was deleted under it, and what is written from now on would be no whole thread."""
        self.deleted = True
        self.revoke(
            LeaseLostError(
                f"could not write thread {self.thread_id!r}: it was deleted under this lease, which ended with it. "
                "Nothing was written; to begin the thread again, run it again",
                thread_id=self.thread_id,
            )
        )

    def overtaken(self, found: Standing | None) -> LeaseLostError:
        """Revoke it, for its thread's row holds something else (None: there is no such row), and return the error."""
        could_not = f"could not write thread {self.thread_id!r} under fencing token {self.token}: "
        if found is None:
            error = LeaseLostError(
                f"{could_not}its fence is gone, because the thread was removed or the server lost what it had committed. "
                "Nothing was written; run the thread again",
                thread_id=self.thread_id,
            )
        elif found.token < self.token:  # tokens only grow
            error = HistoryLostError(
                f"{could_not}the database is back at token {found.token}, so it has lost commits (a failover or a restored "
                "backup). Nothing was written; run the thread again, it goes on from the checkpoint that is there",
                thread_id=self.thread_id,
            )
        elif found.lease_id < 0:
            error = LeaseLostError(
                f"{could_not}the thread was removed, or a part of it. Nothing was written; run it again to begin it again",
                thread_id=self.thread_id,
            )
        else:
            error = LeaseLostError(
                f"{could_not}its fence is at token {found.token} now, raised by another lease of the thread. "
                "Nothing was written; get_checkpoint_status(thread_id) says where the thread stands",
                thread_id=self.thread_id,
                taken_over=True,
            )
        self.revoke(error)
        return self.lost()

    def forgotten(self) -> LeaseLostError:
        """Revoke it, for the newest commit acknowledged under it is gone, and return the error."""
        mark = self.history.mark
        missing = (
            "the run in its ledger"
            if mark is None or mark.checkpoint_id is None
            else f"checkpoint {mark.checkpoint_id}"
            if mark.task_id is None
            else f"what a task wrote after checkpoint {mark.checkpoint_id}"
        )
        self.revoke(
            HistoryLostError(
                f"could not go on with thread {self.thread_id!r}: the database has acknowledged {missing} and no longer "
                "has it, so it has lost commits (a failover to a standby that lagged behind, or a crash without "
                "synchronous_commit). Run the thread again: it goes on from the checkpoint that is there",
                thread_id=self.thread_id,
                taken_over=False,
                checkpoint_id=None if mark is None else mark.checkpoint_id,
            )
        )
        return self.lost()


def new_lease_id() -> int:
    """A number for one lease. From the system's randomness: a seeded generator would give two processes the same."""
    return secrets.randbits(62) + 1  # a row that no lease of this kind has raised holds 0


class Fences:
    """The fences held in this process, one a thread: for writes whose config does not carry theirs."""

    def __init__(self) -> None:
        self._held: dict[str, Fence] = {}

    def hold(self, fence: Fence) -> None:
        """Have writes of the fence's thread checked against it from now on. A newer fence takes an older one's place."""
        held = self._held.get(fence.thread_id)
        if held is None or held.revoked or held.token <= fence.token:
            self._held[fence.thread_id] = fence

    def drop(self, fence: Fence) -> None:
        """Forget this very fence; another one of the same thread stays."""
        if self._held.get(fence.thread_id) is fence:
            del self._held[fence.thread_id]

    def of(self, thread_id: str) -> Fence | None:
        """The fence this process holds for the thread, if any."""
        return self._held.get(thread_id)


async def bump(database: PsycopgPool, thread_id: str, *, timeout_s: float = 30.0) -> Standing:
    """Raise the thread's token, under its lock. From then on no older lease writes anything.

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
            raising = (_SQL["bump"], ([thread_id], [new_lease_id()]))
            _, rows = await database.fetch_in_turn((_SQL["patience"], ()), raising)
            return Standing(rows[0]["token"], rows[0]["lease_id"])
        except (LockNotAvailable, DeadlockDetected) as error:
            if time.monotonic() > deadline:
                raise LockTimeoutError(
                    f"wanted the fence of thread {thread_id!r} raised within {timeout_s:g} s, found its row locked all that "
                    "time: look in pg_stat_activity for a backend that is idle in a transaction, and end it",
                    thread_id=thread_id,
                ) from error
        await LOCKED_ROW.pause()


async def bump_free(links: DirectPool, thread_ids: Sequence[str]) -> dict[str, tuple[Standing, bool]]:
    """Raise the tokens of those threads whose fences nobody has locked at this moment, in one statement.

    Args:
        links: to where the fences are. A statement that is run twice changes nothing the second time.
        thread_ids: the threads, each once.

    Returns:
        What the fences hold now, and whether nothing was known of the thread; see `Fence.first`.
    """
    try:
        rows = await links.fetch(_SQL["bump_free"], list(thread_ids), [new_lease_id() for _ in thread_ids])
    except (LockNotAvailableError, DeadlockDetectedError):  # somebody is making the same fence and does not commit
        return {}
    return {row["thread_id"]: (Standing(row["token"], row["lease_id"]), row["first"]) for row in rows}


async def read_standing(database: PsycopgPool, thread_id: str) -> Standing | None:
    """What the thread's fence holds; None: it was never leased. Asked also while the circuit is open: leases hang on it."""
    row = await database.fetch_one(_SQL["token"], thread_id, urgent=True)
    return None if row is None else Standing(row["token"], row["lease_id"])
