"""Remembers the newest commit that Postgres acknowledged to a lease, to notice when it is lost.

A failover to a standby that lags behind, or a crash under synchronous_commit = off, undoes
acknowledged commits: the newest ones, because the WAL is cut off at its end. So if the newest
commit of a run still exists, all of them do. The next write of a run proves that, in its own
statement, unless the server is known to be the same: its connection is the one of the newest
commit, or leads to the same server and is older than that commit (a crash ends all connections).
"""

from __future__ import annotations

from typing import NamedTuple

from aiodurable.postgres.direct import Origin

__all__ = ["History", "Mark"]


class Mark(NamedTuple):
    """A row that proves a commit: of a checkpoint, of a task's write, or of a run in the ledger."""

    checkpoint_ns: str | None = None
    checkpoint_id: str | None = None
    task_id: str | None = None
    idx: int | None = None
    run_id: str | None = None


class History:
    """The newest acknowledged commit of a run.

    Attributes:
        mark: the row that proves it; None: nothing was acknowledged under this lease.
    """

    __slots__ = ("_origin", "_sent", "mark")

    def __init__(self) -> None:
        self.mark: Mark | None = None
        self._origin: Origin | None = None
        self._sent = 0.0

    def acknowledge(self, mark: Mark, origin: Origin | None, sent: float) -> None:
        """Record an acknowledged commit.

        Args:
            mark: the row that proves it.
            origin: its connection; None: unknown.
            sent: `time.monotonic()` when its statement was sent, or a moment before.
        """
        self.mark = mark
        self._origin = origin
        self._sent = sent

    def doubt(self) -> None:
        """Make the next write prove the newest commit: the server may have changed."""
        self._origin = None

    def forget(self) -> None:
        """Forget the mark: its row was removed under this lease."""
        self.mark = None

    def unproven(self, origin: Origin) -> bool:
        """Whether a write through this connection has to prove the newest commit."""
        known = self._origin
        if self.mark is None or known is origin:
            return False
        if known is None or known.server is None:
            return True
        return known.server != origin.server or origin.since >= self._sent
