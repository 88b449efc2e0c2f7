"""What a run remembers between its writes: beside the fence, which says that it may write at
all.
"""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime
from typing import Any, NamedTuple

from aiodurable.checkpoints.fences import Fence
from aiodurable.checkpoints.history import History, Mark
from aiodurable.errors import HistoryLostError, LeaseLostError
from aiodurable.postgres.direct import Origin

__all__ = ["SESSION_KEY", "Finished", "WriteSession", "WriteSessions"]

SESSION_KEY = "__pregel_aiodurable_session"
"""Where a run puts its `WriteSession` in `config["configurable"]`.

LangGraph keeps keys that begin with two underscores out of the metadata, and those that begin with
`__pregel_` out of the configs that it streams.
"""


class Finished(NamedTuple):
    """A checkpoint of the root graph after which nothing is left to do, as its own row says it."""

    checkpoint_id: str
    step: int
    written_at: datetime


class WriteSession:
    """The writes of one attempt under a fence; or, before the first attempt, of its lease.

    Attributes:
        fence: the right to write.
        thread_id: its thread.
        history: what was acknowledged under the fence; the sessions of one lease share it.
        blank: the thread was seen to have no checkpoint a moment ago: the first read of its newest
            one need not query. Over with that read, or with the first write.
        head: the row of the thread's newest checkpoint, where it was read a moment ago: its next
            read need not query. Over like `blank`.
        finished: the newest checkpoint of the root graph that was written here, if nothing is left
            to do after it.
        untaken: the run whose input no checkpoint has taken yet; its first one says so in the
            ledger, in the same commit.
    """

    __slots__ = ("blank", "fence", "finished", "head", "history", "thread_id", "untaken")

    def __init__(self, fence: Fence, history: History | None = None) -> None:
        self.fence = fence
        self.thread_id = fence.thread_id
        self.history = History() if history is None else history
        self.blank = False
        self.head: Mapping[str, Any] | None = None
        self.finished: Finished | None = None
        self.untaken: str | None = None

    def of_attempt(self, *, untaken: str | None, blank: bool) -> WriteSession:
        """The session of the next attempt under the same fence.

        Args:
            untaken, blank: see the class.
        """
        session = WriteSession(self.fence, self.history)
        session.untaken, session.blank, session.head = untaken, blank, self.head
        return session

    def acknowledge(self, run_id: str, origin: Origin | None, sent: float) -> None:
        """The ledger has the attempt of a run; see `History.acknowledge`."""
        self.history.acknowledge(Mark(run_id=run_id), origin, sent)

    def forget_rows(self) -> None:
        """What was read of the thread a moment ago holds no longer."""
        self.blank, self.head = False, None

    def history_lost(self) -> LeaseLostError:
        """Revoke the fence, for the newest commit acknowledged under it is gone; the error."""
        mark = self.history.mark
        missing = (
            "the run in its ledger"
            if mark is None or mark.checkpoint_id is None
            else (
                f"checkpoint {mark.checkpoint_id}"
                if mark.task_id is None
                else f"what a task wrote after checkpoint {mark.checkpoint_id}"
            )
        )
        self.fence.revoke(
            HistoryLostError(
                f"cannot go on with thread {self.thread_id!r}: the database has acknowledged "
                f"{missing} and no longer has it, so it has lost commits (a failover to a standby "
                "that lagged behind, or a crash without synchronous_commit). Run the thread again: "
                "it goes on from the checkpoint that is there",
                thread_id=self.thread_id,
                taken_over=False,
                checkpoint_id=None if mark is None else mark.checkpoint_id,
            )
        )
        return self.fence.lost()


class WriteSessions:
    """The sessions of this process, one a leased thread: for writes whose config carries none."""

    def __init__(self) -> None:
        self._held: dict[str, WriteSession] = {}

    def hold(self, session: WriteSession) -> None:
        """Check writes of the session's thread against its fence from now on.

        A newer fence takes an older one's place, and so does a newer session of the same fence.
        """
        held = self._held.get(session.thread_id)
        if held is None or held.fence.revoked or held.fence.token <= session.fence.token:
            self._held[session.thread_id] = session

    def drop(self, fence: Fence) -> None:
        """Forget the session of this very fence; one of another fence of the thread stays."""
        held = self._held.get(fence.thread_id)
        if held is not None and held.fence is fence:
            del self._held[fence.thread_id]

    def of(self, thread_id: str) -> WriteSession | None:
        """The session that this process holds for the thread, if any."""
        return self._held.get(thread_id)

    def all(self) -> tuple[WriteSession, ...]:
        """All that are held."""
        return tuple(self._held.values())
