"""The fence of a thread: its row in `aiodurable_fences`, which every write must match.

The row holds a token, which grows with every lease, and the newest lease's id, a random number. A
crash, a failover or a removal of the row can make a token repeat; the id never repeats, so an
earlier holder with the same token still cannot write.

A token is raised in the statement that takes the thread's lock, whose commit does not wait for the
disk. Postgres writes its log in order, so the first commit under the lease that does wait takes the
token along. Until then a crash may undo it, and give the next lease the same one. Both did not
write: the first has committed nothing, or its token would be there, and what it sends later finds
another lease id.
"""

from __future__ import annotations

import copy
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import NamedTuple

from aiodurable.errors import (
    HistoryLostError,
    LeaseLostError,
)
from aiodurable.lock_keys import new_lease_id
from aiodurable.postgres.direct import DirectPool
from aiodurable.postgres.locked_rows import patiently
from aiodurable.postgres.pool import PsycopgPool
from aiodurable.postgres.sql import load

__all__ = ["Fence", "Revocation", "Standing", "bump", "read_standing", "wait_for_disk"]

_SQL = load("checkpoints")


class Standing(NamedTuple):
    """The contents of a fence row: the token and the id of the newest lease, or of the thread's
    removal.
    """

    token: int
    lease_id: int


class Revocation:
    """Whether and why this process has given up a fence. The only part of a fence that changes.

    Attributes:
        revoked: whether it has. Nothing more is sent under the fence.
        why: the error for later writes; None: the lease was released.
        deleted: whether the thread was deleted under this very lease.
        on_revoked: a callback for that moment, called once; None: no callback.
    """

    __slots__ = ("deleted", "on_revoked", "revoked", "why")

    def __init__(self) -> None:
        self.revoked = False
        self.why: LeaseLostError | None = None
        self.deleted = False
        self.on_revoked: Callable[[], None] | None = None


@dataclass(frozen=True, slots=True)
class Fence:
    """The right to write one thread, as far as this process knows. Postgres decides.

    Attributes:
        thread_id: the thread.
        token: the token of this lease.
        lease_id: the random number of this lease.
        standing: both; Postgres accepts a write only if the fence row holds them.
        revocation: whether this process has given up the right.
    """

    thread_id: str
    token: int
    lease_id: int = 0
    standing: Standing = field(init=False, compare=False, repr=False)
    revocation: Revocation = field(init=False, compare=False, repr=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "standing", Standing(self.token, self.lease_id))
        object.__setattr__(self, "revocation", Revocation())

    @property
    def revoked(self) -> bool:
        """Whether this process has given up the right."""
        return self.revocation.revoked

    @property
    def deleted(self) -> bool:
        """Whether the thread was deleted under this very lease."""
        return self.revocation.deleted

    def on_revoked(self, callback: Callable[[], None] | None) -> None:
        """Set the only callback for the revocation of the fence; None: no callback."""
        self.revocation.on_revoked = callback

    def revoke(self, why: LeaseLostError | None = None) -> None:
        """Give up the right in this process, for good: a new lease has a new fence. Only the first
        reason is kept.
        """
        revocation = self.revocation
        if revocation.revoked:
            return
        revocation.revoked = True
        revocation.why = why
        if revocation.on_revoked is not None:
            revocation.on_revoked()

    def check(self) -> None:
        """Raise `LeaseLostError` if this process has given up the right."""
        if self.revocation.revoked:
            raise self.lost()

    def lost(self) -> LeaseLostError:
        """The error for a write after the right was given up."""
        if (why := self.revocation.why) is not None:
            return copy.copy(why)  # each caller raises its own copy, with its own traceback
        return LeaseLostError(
            f"cannot write thread {self.thread_id!r} under fencing token {self.token}: this process"
            " has given up the lease. Nothing was written; run the thread again, it goes on from"
            " its last checkpoint",
            thread_id=self.thread_id,
        )

    def delete(self) -> None:
        """Revoke the fence because the thread was deleted under it: later writes would make an
        incomplete thread.
        """
        self.revocation.deleted = True
        self.revoke(
            LeaseLostError(
                f"cannot write thread {self.thread_id!r}: it was deleted under this lease, which"
                " ended with it. Nothing was written; to start the thread again, run it again",
                thread_id=self.thread_id,
            )
        )

    def overtaken(self, found: Standing | None) -> LeaseLostError:
        """Revoke the fence because its row holds other values (None: it does not exist), and return
        the error.
        """
        cannot = f"cannot write thread {self.thread_id!r} under fencing token {self.token}: "
        if found is None:
            error = LeaseLostError(
                f"{cannot}its fence is gone, because the thread was removed or the server lost"
                " what it had committed. Nothing was written; run the thread again",
                thread_id=self.thread_id,
            )
        elif found.token < self.token:  # tokens only grow
            error = HistoryLostError(
                f"{cannot}the database is back at token {found.token}, so it has lost commits (a"
                " crash as the lease began, a failover or a restored backup). Nothing was written;"
                " run the thread again, it goes on from the last checkpoint that exists",
                thread_id=self.thread_id,
            )
        elif found.lease_id < 0:
            error = LeaseLostError(
                f"{cannot}the thread was removed, or a part of it. Nothing was written; run the"
                " thread again",
                thread_id=self.thread_id,
            )
        else:
            error = LeaseLostError(
                f"{cannot}its fence is at token {found.token} now, raised by another lease of"
                " the thread. Nothing was written; get_checkpoint_status(thread_id) says where the"
                " thread stands",
                thread_id=self.thread_id,
                taken_over=True,
            )
        self.revoke(error)
        return self.lost()


async def bump(database: PsycopgPool, thread_id: str, *, timeout_s: float = 30.0) -> Standing:
    """Raise the thread's token, under its lock. Afterwards no older lease can write.

    It waits for writes in flight. If a client dies between locking a fence and committing, its
    backend keeps the row locked, and no timeout of Postgres ends it, only keepalives. So the wait
    stops every second and starts again.

    Args:
        database: where the fence is.
        thread_id: the thread.
        timeout_s: seconds to wait at most.

    Raises:
        LockTimeoutError: somebody locked the row for `timeout_s`; the token is unchanged.
        PostgresUnavailableError: Postgres cannot be reached.
    """

    async def write() -> Standing:
        raising = (_SQL["raise_token"], ([thread_id], [new_lease_id()]))
        _, rows = await database.fetch_in_turn((_SQL["short_lock_timeout"], ()), raising)
        return Standing(rows[0]["token"], rows[0]["lease_id"])

    what = f"raise the token of thread {thread_id!r}"
    return await patiently(write, what, thread_id, row="its fence", timeout_s=timeout_s)


async def wait_for_disk(direct: DirectPool, fence: Fence) -> None:
    """Return when the raising of the fence's token is on disk: no crash of the server undoes it.

    Raises:
        LeaseLostError: a crash has undone it, or the thread was removed.
        LockTimeoutError: somebody locked the row for 10 seconds.
        PostgresUnavailableError: Postgres cannot be reached.
    """
    asked = (fence.thread_id, *fence.standing)
    found = await patiently(
        lambda: direct.fetch(_SQL["token_on_disk"], *asked),
        f"wait until the token of thread {fence.thread_id!r} is on disk",
        fence.thread_id,
        row="its fence",
    )
    if not found:
        rows = await direct.fetch(_SQL["token"], fence.thread_id)
        raise fence.overtaken(Standing(*rows[0].values()) if rows else None)


async def read_standing(database: PsycopgPool, thread_id: str) -> Standing | None:
    """Read the thread's fence; None: it was never leased. Reads even while the circuit is open,
    because leases depend on it.
    """
    row = await database.fetch_one(_SQL["token"], thread_id, urgent=True)
    return None if row is None else Standing(row["token"], row["lease_id"])
