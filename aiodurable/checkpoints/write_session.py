"""The write session of a run: its fence, and the facts it remembers between writes."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime
from typing import TYPE_CHECKING, Any, Final, NamedTuple

from langchain_core.runnables import RunnableConfig

from aiodurable.checkpoints.fences import Fence
from aiodurable.checkpoints.finished import Finished
from aiodurable.checkpoints.history import History, Mark
from aiodurable.errors import HistoryLostError, LeaseLostError
from aiodurable.postgres.direct import Origin

if TYPE_CHECKING:
    from aiodurable.checkpoints.encoding import Rows

__all__ = ["SESSION_KEY", "Completed", "WriteSession", "WriteSessions", "session_in"]

SESSION_KEY = "__pregel_aiodurable_session"
"""Where a run puts its `WriteSession` in `config["configurable"]`.

LangGraph keeps keys that begin with two underscores out of the metadata, and those that begin with
`__pregel_` out of the configs that it streams.
"""


def session_in(config: RunnableConfig | None) -> WriteSession | None:
    """The session that a config carries; None: none."""
    return None if config is None else config.get("configurable", {}).get(SESSION_KEY)


_MOST_NAMESPACES: Final = 1000


class Completed(NamedTuple):
    """The end of a run that was committed together with its last checkpoint.

    Attributes:
        checkpoint_id: that checkpoint.
        finished_at: when.
        awaited: whether a queued run waited for it.
    """

    checkpoint_id: str
    finished_at: datetime
    awaited: bool


class WriteSession:
    """The write session of one attempt, or of its lease before the first attempt.

    Attributes:
        fence: the right to write.
        thread_id: its thread.
        history: the newest acknowledged commit; the sessions of one lease share it.
        blank: the thread is known to have no checkpoint, so the first read of its newest one needs
            no query. Reset by that read and by the first write.
        head: the row of the thread's newest checkpoint, if it was just read, so its next read needs
            no query. Reset like `blank`.
        finished: the newest root checkpoint that this session wrote, if no work is left after it.
        unconsumed: the run whose input no checkpoint has consumed yet. Its first checkpoint records
            the consumption in the ledger, in the same commit.
        holds_input: no code of the user runs between the checkpoint of an input and the next write,
            and the ledger has the input: that checkpoint waits in `held` for the next write and
            goes with it, which spares a commit.
        held: the rows that wait.
        completes: the run that is complete with a checkpoint after which no work is left. None:
            such a checkpoint may be one in the middle of the run, or there is no run.
        completed: the end of that run, if its last checkpoint has recorded it.
        closed: its attempt is over before its graph is: what that still writes is refused.
    """

    __slots__ = (
        "_smooth",
        "blank",
        "closed",
        "completed",
        "completes",
        "fence",
        "finished",
        "head",
        "held",
        "history",
        "holds_input",
        "thread_id",
        "unconsumed",
    )

    def __init__(self, fence: Fence, history: History | None = None) -> None:
        self.fence = fence
        self.thread_id = fence.thread_id
        self.history = History() if history is None else history
        self.blank = False
        self.head: Mapping[str, Any] | None = None
        self.finished: Finished | None = None
        self.unconsumed: str | None = None
        self.holds_input = False
        self.held: Rows | None = None
        self.completes: str | None = None
        self.completed: Completed | None = None
        self.closed = False
        self._smooth: dict[str, str] = {}

    def check(self) -> None:
        """Raise `LeaseLostError` if nothing may be written through it any more."""
        self.fence.check()
        if self.closed:
            raise LeaseLostError(
                f"cannot write thread {self.thread_id!r}: the attempt that writes is over, because"
                " it was cancelled or its stream was closed. Nothing was written; run the thread"
                " again, it goes on from its last checkpoint",
                thread_id=self.thread_id,
            )

    def begin_step(self, namespace: str, checkpoint_id: str, parent_id: str | None) -> bool:
        """Note the checkpoint after which a step begins.

        Returns whether the step before it, after `parent_id`, began in this session and had no
        error, question or answer. Of any other step somebody may have read the writes.
        """
        smooth = parent_id is not None and self._smooth.get(namespace) == parent_id
        if len(self._smooth) >= _MOST_NAMESPACES:  # a subgraph has one for each of its calls
            self._smooth.clear()
        self._smooth[namespace] = checkpoint_id
        return smooth

    def disturb_step(self, namespace: str) -> None:
        """Note an error, a question or an answer in the step of this namespace."""
        self._smooth.pop(namespace, None)

    def of_attempt(
        self,
        *,
        unconsumed: str | None,
        blank: bool,
        holds_input: bool = False,
        completes: str | None = None,
    ) -> WriteSession:
        """The session of the next attempt under the same fence.

        Args:
            unconsumed, blank, holds_input, completes: see the class.
        """
        session = WriteSession(self.fence, self.history)
        session.unconsumed, session.blank, session.head = unconsumed, blank, self.head
        session.holds_input, session.completes = holds_input, completes
        return session

    def acknowledge(self, run_id: str, origin: Origin | None, sent: float) -> None:
        """Record that the ledger has the attempt of a run; see `History.acknowledge`."""
        self.history.acknowledge(Mark(run_id=run_id), origin, sent)

    def forget_rows(self) -> None:
        """Forget the rows that were just read: they have changed."""
        self.blank, self.head = False, None

    def history_lost(self) -> LeaseLostError:
        """Revoke the fence because its newest acknowledged commit is gone, and return the error."""
        mark = self.history.mark
        missing = (
            "the run in its ledger"
            if mark is None or mark.checkpoint_id is None
            else (
                f"checkpoint {mark.checkpoint_id}"
                if mark.task_id is None
                else f"a write of a task after checkpoint {mark.checkpoint_id}"
            )
        )
        self.fence.revoke(
            HistoryLostError(
                f"cannot go on with thread {self.thread_id!r}: the database has acknowledged "
                f"{missing} and no longer has it, so it has lost commits (a failover to a standby "
                "that lagged behind, or a crash without synchronous_commit). Run the thread again, "
                "it goes on from the last checkpoint that exists",
                thread_id=self.thread_id,
                taken_over=False,
                checkpoint_id=None if mark is None else mark.checkpoint_id,
            )
        )
        return self.fence.lost()


class WriteSessions:
    """The sessions of this process, one per leased thread, for writes whose config carries none."""

    def __init__(self) -> None:
        self._held: dict[str, WriteSession] = {}

    def hold(self, session: WriteSession) -> None:
        """Use this session for its thread from now on.

        It replaces a session of an older fence, or an older session of the same fence.
        """
        held = self._held.get(session.thread_id)
        if held is None or held.fence.revoked or held.fence.token <= session.fence.token:
            self._held[session.thread_id] = session

    def drop(self, fence: Fence) -> None:
        """Forget the session of this very fence, but not of another fence of the thread."""
        held = self._held.get(fence.thread_id)
        if held is not None and held.fence is fence:
            del self._held[fence.thread_id]

    def of(self, thread_id: str) -> WriteSession | None:
        """The session of the thread in this process, if any."""
        return self._held.get(thread_id)

    def __len__(self) -> int:
        return len(self._held)

    def all(self) -> tuple[WriteSession, ...]:
        """All sessions."""
        return tuple(self._held.values())
