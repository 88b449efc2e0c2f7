"""The fence of a thread: its row in `aiodurable_fences`, which every write must match.

The row holds a token, which grows with every lease, and the id of the newest lease, a random number
drawn for it. A token that a crash or a failover undoes and gives out again, or that starts again
after its row was removed, lets no earlier holder in.
"""

from __future__ import annotations

import copy
import secrets
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

from asyncpg import DeadlockDetectedError, LockNotAvailableError
from psycopg.errors import DeadlockDetected, LockNotAvailable

from aiodurable.errors import HistoryLostError, LeaseLostError, LockTimeoutError
from aiodurable.postgres.direct import DirectPool
from aiodurable.postgres.pool import PsycopgPool
from aiodurable.postgres.retry import LOCKED_ROW
from aiodurable.postgres.sql import load

__all__ = ["Fence", "Revocation", "Standing", "bump", "bump_free", "new_lease_id", "read_standing"]

_SQL = load("checkpoints")


class Standing(NamedTuple):
    """What the row of a thread's fence holds: the token and the id of its newest lease, or of its
    removal.
    """

    token: int
    lease_id: int


class Revocation:
    """Whether this process has given a fence up, and why. The one part of a fence that changes.

    Attributes:
        revoked: it has; nothing more is sent under the fence.
        why: the error for what comes after; None: the lease was released.
        deleted: it has, because the thread was deleted under this very lease.
        on_revoked: called once, at that moment; None: nothing is.
    """

    __slots__ = ("deleted", "on_revoked", "revoked", "why")

    def __init__(self) -> None:
        self.revoked = False
        self.why: LeaseLostError | None = None
        self.deleted = False
        self.on_revoked: Callable[[], None] | None = None


@dataclass(frozen=True, slots=True)
class Fence:
    """The right to write one thread, as this process believes it. Postgres has the last word.

    Attributes:
        thread_id: the thread.
        token: what its row in `aiodurable_fences` held when the lease was acquired.
        lease_id: the random number drawn for this lease, which that row holds too.
        standing: both: what the row must hold for a write to be accepted.
        revocation: whether this process has given the right up.
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
        """Whether this process has given the right up."""
        return self.revocation.revoked

    @property
    def deleted(self) -> bool:
        """Whether it has because the thread was deleted under this very lease."""
        return self.revocation.deleted

    def on_revoked(self, callback: Callable[[], None] | None) -> None:
        """Call `callback` once when the fence is revoked, and nothing else; None: nothing."""
        self.revocation.on_revoked = callback

    def revoke(self, why: LeaseLostError | None = None) -> None:
        """Give the right up in this process. For good: a new lease has a new fence. The first
        reason stands.
        """
        revocation = self.revocation
        if revocation.revoked:
            return
        revocation.revoked = True
        revocation.why = why
        if revocation.on_revoked is not None:
            revocation.on_revoked()

    def check(self) -> None:
        """Raise `LeaseLostError` if the right was given up."""
        if self.revocation.revoked:
            raise self.lost()

    def lost(self) -> LeaseLostError:
        """The error of whatever comes after the right was given up: why it was."""
        if (why := self.revocation.why) is not None:
            return copy.copy(why)  # several callers raise it, each with a traceback of its own
        return LeaseLostError(
            f"cannot write thread {self.thread_id!r} under fencing token {self.token}: this process"
            " has given up the lease. Nothing was written; run the thread again, it goes on from"
            " its last checkpoint",
            thread_id=self.thread_id,
        )

    def delete(self) -> None:
        """Revoke it: the thread was deleted under it, and what is written from now on would be no
        whole thread.
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
        """Revoke it, for its thread's row holds something else (None: there is no such row), and
        return the error.
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
                " failover or a restored backup). Nothing was written; run the thread again, it"
                " goes on from the checkpoint that is there",
                thread_id=self.thread_id,
            )
        elif found.lease_id < 0:
            error = LeaseLostError(
                f"{cannot}the thread was removed, or a part of it. Nothing was written; run it"
                " again to begin it again",
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


def new_lease_id() -> int:
    """A number for one lease. From the system's randomness: a seeded generator would give two
    processes the same.
    """
    return secrets.randbits(62) + 1  # a row that no lease of this kind has raised holds 0


async def bump(database: PsycopgPool, thread_id: str, *, timeout_s: float = 30.0) -> Standing:
    """Raise the thread's token, under its lock. From then on no older lease writes anything.

    It waits for writes in flight. A client that died between taking a fence and its commit leaves a
    backend that keeps the row and that no timeout of Postgres ends; only keepalives do. So the wait
    is cut every second and tried again.

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
                    f"cannot raise the fence of thread {thread_id!r} within {timeout_s:g} s:"
                    " another transaction locks its row; look in pg_stat_activity for a backend"
                    " that is idle in a transaction, and end it",
                    thread_id=thread_id,
                ) from error
        await LOCKED_ROW.pause()


async def bump_free(
    direct: DirectPool, thread_ids: Sequence[str]
) -> dict[str, tuple[Standing, bool]]:
    """Raise the tokens of those threads whose fences nobody has locked at this moment, in one
    statement.

    Args:
        direct: to where the fences are. A statement that is run twice changes nothing the second
            time.
        thread_ids: the threads, each once.

    Returns:
        What the fences hold now, and whether nothing was known of the thread; see `Raised.first`.
    """
    try:
        rows = await direct.fetch(
            _SQL["bump_free"], list(thread_ids), [new_lease_id() for _ in thread_ids]
        )
    except (
        LockNotAvailableError,
        DeadlockDetectedError,
    ):  # somebody is making the same fence and does not commit
        return {}
    return {
        row["thread_id"]: (Standing(row["token"], row["lease_id"]), row["first"]) for row in rows
    }


async def read_standing(database: PsycopgPool, thread_id: str) -> Standing | None:
    """What the thread's fence holds; None: it was never leased. Asked also while the circuit is
    open: leases hang on it.
    """
    row = await database.fetch_one(_SQL["token"], thread_id, urgent=True)
    return None if row is None else Standing(row["token"], row["lease_id"])
