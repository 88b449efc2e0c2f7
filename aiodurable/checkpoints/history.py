"""What Postgres has acknowledged to a lease, so that its loss is noticed.

A failover to a standby that lags behind, or a crash under synchronous_commit = off, undoes commits
that were acknowledged: the newest ones, for a log is cut off at its end. So where the newest commit
of a run is there, all of them are. The next write of a run proves it, in its own statement, unless
the server is known to be the same: the connection is that of the newest commit, or it leads to the
same server and is older than that commit (a server that crashes ends all its connections).
"""

from __future__ import annotations

from typing import NamedTuple

from aiodurable.postgres.direct import Origin

__all__ = ["History", "Mark"]


class Mark(NamedTuple):
    """The row that shows a commit is there: a checkpoint, what a task wrote, or a run in the
    ledger.
    """

    checkpoint_ns: str | None = None
    checkpoint_id: str | None = None
    task_id: str | None = None
    idx: int | None = None
    run_id: str | None = None


class History:
    """What a run remembers of its newest acknowledged commit.

    Attributes:
        mark: the row that shows it; None: nothing was acknowledged under this lease.
    """

    __slots__ = ("_origin", "_sent", "mark")

    def __init__(self) -> None:
        self.mark: Mark | None = None
        self._origin: Origin | None = None
        self._sent = 0.0

    def acknowledge(self, mark: Mark, origin: Origin | None, sent: float) -> None:
        """A commit was acknowledged.

        Args:
            mark: the row that shows it.
            origin: the connection that it went through; None: unknown.
            sent: `time.monotonic` at which its statement was sent, or a moment before.
        """
        self.mark = mark
        self._origin = origin
        self._sent = sent

    def doubt(self) -> None:
        """The server may have changed: the next write proves that the newest commit is there."""
        self._origin = None

    def forget(self) -> None:
        """The row that shows the newest commit was removed under the lease itself."""
        self.mark = None

    def unproven(self, origin: Origin) -> bool:
        """Whether a write through this connection has to prove that the newest commit is there."""
        known = self._origin
        if self.mark is None or known is origin:
            return False
        if known is None or known.server is None:
            return True
        return known.server != origin.server or origin.since >= self._sent
