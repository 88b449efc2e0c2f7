"""The words of aiodurable as values: what a thread, a run and a lock holder look like from
outside.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from enum import StrEnum
from typing import Any, Literal

__all__ = [
    "NEEDS_ATTENTION",
    "UNFINISHED",
    "ClaimState",
    "EarlierAttempt",
    "LockHolder",
    "PauseReason",
    "PlatformRunStatus",
    "PlatformThreadStatus",
    "RunRecord",
    "RunStatus",
    "StoredObject",
    "ThreadStatus",
    "WorkflowCheckpoint",
]

PlatformThreadStatus = Literal["idle", "busy", "interrupted", "error"]
"""`ThreadStatus` of LangGraph's own SDK (`langgraph_sdk.schema`), as LangGraph Platform reports
it.
"""

PlatformRunStatus = Literal["pending", "running", "success", "error", "timeout", "interrupted"]
"""`RunStatus` of LangGraph's own SDK."""


class ThreadStatus(StrEnum):
    """Where a thread stands, by LangGraph's tables, the ledger and the live lock."""

    NEW = "new"
    """Nothing is known of it."""
    RUNNING = "running"
    """Somebody holds its lease now."""
    CRASHED = "crashed"
    """Work is left, nobody holds the lease and no error was recorded: its process is gone."""
    FAILED = "failed"
    """A node raised; a resumption tries that node again."""
    INTERRUPTED = "interrupted"
    """A node asked a question and waits for the answer."""
    PAUSED = "paused"
    """Stopped on purpose with work left: a static breakpoint, the recursion limit, a drain, a
    cancellation.
    """
    COMPLETE = "complete"
    """Nothing is left to do."""
    QUEUED = "queued"
    """Accepted, waiting for a worker."""
    QUARANTINED = "quarantined"
    """Failed too often to be tried again without a person."""

    @property
    def unfinished(self) -> bool:
        """Whether a call without an answer from a person would go on with it."""
        return self in UNFINISHED

    @property
    def platform(self) -> PlatformThreadStatus:
        """The same in the words of LangGraph Platform, which has four for our nine."""
        return _PLATFORM_THREADS[self]


UNFINISHED = (ThreadStatus.CRASHED, ThreadStatus.FAILED, ThreadStatus.PAUSED)
"""The statuses of threads that a call without an answer would go on with."""

NEEDS_ATTENTION = (
    ThreadStatus.FAILED,
    ThreadStatus.CRASHED,
    ThreadStatus.INTERRUPTED,
    ThreadStatus.QUARANTINED,
)
"""The statuses of threads that need a person or a resumption."""

_PLATFORM_THREADS: dict[ThreadStatus, PlatformThreadStatus] = {
    ThreadStatus.NEW: "idle",
    ThreadStatus.COMPLETE: "idle",
    ThreadStatus.RUNNING: "busy",
    ThreadStatus.QUEUED: "busy",
    ThreadStatus.INTERRUPTED: "interrupted",
    ThreadStatus.PAUSED: "interrupted",
    ThreadStatus.CRASHED: "error",
    ThreadStatus.FAILED: "error",
    ThreadStatus.QUARANTINED: "error",
}


class PauseReason(StrEnum):
    """Why a run was paused. A `reason` may also be another text: that of a fork names its
    source.
    """

    BREAKPOINT = "breakpoint"
    """At a gate: `interrupt_before` or `interrupt_after`."""
    RECURSION_LIMIT = "recursion limit"
    """LangGraph's `recursion_limit` was reached."""
    DRAINED = "drained"
    """Its process asked for a stop at the next superstep, as at a shutdown; anybody may go on with
    it.
    """
    CANCELLED = "cancelled"
    """The call was cancelled."""
    STREAM_CLOSED = "stream closed"
    """The caller left the stream early."""


class RunStatus(StrEnum):
    """What the ledger says of one run. `running` with nobody holding the lease means crashed."""

    QUEUED = "queued"
    RUNNING = "running"
    COMPLETE = "complete"
    FAILED = "failed"
    INTERRUPTED = "interrupted"
    PAUSED = "paused"
    REJECTED = "rejected"
    """The graph refused the input before its first checkpoint: nothing was accepted."""
    SUPERSEDED = "superseded"
    """Given up for a new start (`on_unfinished="restart"`)."""
    QUARANTINED = "quarantined"

    @property
    def platform(self) -> PlatformRunStatus:
        """The same in the words of LangGraph Platform; never `timeout`, for runs have no time
        limit.
        """
        return _PLATFORM_RUNS[self]


_PLATFORM_RUNS: dict[RunStatus, PlatformRunStatus] = {
    RunStatus.QUEUED: "pending",
    RunStatus.RUNNING: "running",
    RunStatus.COMPLETE: "success",
    RunStatus.FAILED: "error",
    RunStatus.REJECTED: "error",
    RunStatus.QUARANTINED: "error",
    RunStatus.INTERRUPTED: "interrupted",
    RunStatus.PAUSED: "interrupted",
    RunStatus.SUPERSEDED: "interrupted",
}


_SETTLED = (
    RunStatus.COMPLETE,
    RunStatus.REJECTED,
    RunStatus.SUPERSEDED,
    RunStatus.QUARANTINED,
)


class ClaimState(StrEnum):
    """What a worker may do with a run that is in a queue."""

    READY = "ready"
    """A worker may claim it now."""
    SCHEDULED = "scheduled"
    """Not before its `scheduled_at`: a delay, or the backoff before another attempt."""
    BLOCKED = "blocked"
    """An earlier run of its thread is not over."""
    LIMITED = "limited"
    """Its queue, or its concurrency key, is at its limit."""
    CLAIMED = "claimed"
    """A worker is about to begin it."""


@dataclass(frozen=True, slots=True)
class LockHolder:
    """Who holds a lock, according to `pg_locks` and `pg_stat_activity`.

    Any role that may connect can take a lock and can call its connection what it likes. Only a role
    that may take leases (USAGE on `aiodurable_lock_tokens`) is believed: see `authorized`.

    Attributes:
        key: the 64-bit lock key.
        pid: process id of the Postgres backend that holds it.
        application: the holder's `application_name`; aiodurable's names its host and process.
        client: the client's address; None for a unix socket, or if the role that reads may not see
            it.
        since: when the holding connection was opened, where the role that reads may see it;
            Postgres does not record when it took the lock.
        role: the holder's role; None if it is the role that reads.
        authorized: whether the holder's role is the role that reads, or may take leases. If not,
            `application` is only what the holder calls itself.
    """

    key: int
    pid: int
    application: str
    client: str | None
    since: datetime | None
    role: str | None = None
    authorized: bool = True

    @property
    def process(self) -> str | None:
        """`host:pid` of the aiodurable process that holds it; None if it is not known to be one."""
        name = re.fullmatch(r"aiodurable:\w+@(.+:\d+)", self.application)
        return name[1] if name and self.authorized else None

    def __str__(self) -> str:
        where = f" from {self.client}" if self.client else ""
        if not self.authorized:
            claim = f", calls itself {self.application!r}" if self.application else ""
            return (
                f"role {self.role!r}, which may take no leases{where} (backend {self.pid}{claim})"
            )
        role = "" if self.role is None else f", role {self.role!r}"
        return f"{self.application}{where} (backend {self.pid}{role})"


@dataclass(frozen=True, slots=True)
class WorkflowCheckpoint:
    """The status of one thread.

    Attributes:
        thread_id: the thread.
        status: where it stands.
        checkpoint_id: its newest checkpoint, None before the first.
        step: the superstep of that checkpoint (-1 is the input), None before the first.
        pending: the nodes that would run next, sorted; empty where nothing is left or the tables
            cannot tell.
        failed_node: the node of the root graph that raised, or whose subgraph did, where the tables
            can tell.
        failed_path: that node, and after it those of its subgraphs down to the one that raised.
        error: the text of its error, as LangGraph stored it; never the state.
        interrupts: the open questions (LangGraph's `Interrupt` objects).
        updated_at: when the newest checkpoint was written.
        holder: who holds the lease, None where nobody does.
        run_id: the run the ledger knows for it, None for a thread that only plain LangGraph has
            seen.
        graph: the name of its graph, where known.
        attempts: how often that run was tried.
        started_at: when its last attempt began.
        finished_at: when its last attempt ended; None while it runs, and where its process died.
        failed_at: when it failed last; with `attempts`, what a backoff is computed from.
        reason: why it is paused or quarantined, where the ledger knows; see `PauseReason`.
        doubt: why it may stand otherwise, where the tables cannot tell for sure; None where they
            can.
        maybe_at_gate: whether plain LangGraph may have stopped it on purpose, of which it writes
            nothing.
    """

    thread_id: str
    status: ThreadStatus
    checkpoint_id: str | None = None
    step: int | None = None
    pending: tuple[str, ...] = ()
    failed_node: str | None = None
    failed_path: tuple[str, ...] = ()
    error: str | None = None
    interrupts: tuple[Any, ...] = ()
    updated_at: datetime | None = None
    holder: LockHolder | None = None
    run_id: str | None = None
    graph: str | None = None
    attempts: int = 0
    started_at: datetime | None = None
    finished_at: datetime | None = None
    failed_at: datetime | None = None
    reason: str | None = None
    doubt: str | None = None
    maybe_at_gate: bool = False

    @property
    def resumable(self) -> bool:
        """Whether it may go on without a person: crashed, failed or drained.

        Not at a gate, nor where plain LangGraph may have stopped at one; not interrupted,
        cancelled, quarantined or at its recursion limit.
        """
        match self.status:
            case ThreadStatus.CRASHED:
                return not self.maybe_at_gate
            case ThreadStatus.FAILED:
                return True
            case ThreadStatus.PAUSED:
                return self.reason == PauseReason.DRAINED
            case _:
                return False

    @property
    def age(self) -> timedelta | None:
        """How long ago the newest checkpoint was written, by this host's clock; None before the
        first.
        """
        return None if self.updated_at is None else datetime.now(UTC) - self.updated_at


@dataclass(frozen=True, slots=True)
class EarlierAttempt:
    """An attempt of a run that was tried again.

    Attributes:
        worker: host and process.
        started: when it began, or went on last.
        ended: when it ended; None where its process died.
        outcome: `failed`, `crashed` or `quarantined`.
        error: `repr` of the exception that ended it.
        traceback: that exception's.
    """

    worker: str | None
    started: datetime | None
    ended: datetime | None
    outcome: str
    error: str | None
    traceback: str | None


@dataclass(frozen=True, slots=True)
class RunRecord:
    """One row of the ledger.

    Attributes:
        run_id: names the run; the same run_id never runs twice.
        thread_id: the thread it advances.
        graph: the name of its graph.
        status: what the ledger says of it.
        attempts: how often it was tried: once, and again after each crash or failure. Answers,
            pauses and drains are none.
        token: the fencing token of its last attempt.
        worker: host and process of its last attempt.
        created_at: when it was accepted.
        started_at: when its last attempt began, or went on last.
        finished_at: when its last attempt ended, None while it runs.
        failed_at: when it failed last, None where it did not.
        error: `repr` of the exception that ended it, where one did.
        reason: why it is paused, where it is.
        checkpoint_id: the checkpoint at which it ended.
        traceback: of that exception.
        earlier_attempts: the attempts before the last one, of many the newest 20.
        queue: where it was accepted to wait for a worker; None: `Durable.run` began it. Of such a
            run, and where it is read for the sake of its thread alone, all that follows is unset.
        claim_state: what a worker may do with it; None: nothing, it is at work, over, or waits for
            a person.
        priority: higher ones go first.
        fairness_key: workers serve the keys of a queue in rotation.
        concurrency_key: what `max_running_per_key` of its queue counts.
        scheduled_at: not before.
        max_attempts: how often it may be tried; None: as its retry policy or its worker says.
        timeout_s: how long an attempt may take, in seconds.
        start_timeout_s: how long it may wait to begin, in seconds.
        dedup_key: at most one run that is not over has it.
        cancel_requested_at: when somebody cancelled it.
        metadata: what the caller says of it.
        summary: the same in one line, for lists.
    """

    run_id: str
    thread_id: str
    graph: str | None
    status: RunStatus
    attempts: int
    token: int | None
    worker: str | None
    created_at: datetime
    started_at: datetime | None
    finished_at: datetime | None
    failed_at: datetime | None
    error: str | None
    reason: str | None
    checkpoint_id: str | None
    traceback: str | None = None
    earlier_attempts: tuple[EarlierAttempt, ...] = ()
    queue: str | None = None
    claim_state: ClaimState | None = None
    priority: int = 0
    fairness_key: str | None = None
    concurrency_key: str | None = None
    scheduled_at: datetime | None = None
    max_attempts: int | None = None
    timeout_s: float | None = None
    start_timeout_s: float | None = None
    dedup_key: str | None = None
    cancel_requested_at: datetime | None = None
    metadata: Mapping[str, Any] | None = None
    summary: str | None = None

    @property
    def settled(self) -> bool:
        """Whether it is over: complete, refused, given up, or set aside."""
        return self.status in _SETTLED


@dataclass(frozen=True, slots=True, repr=False)
class StoredObject:
    """An object in a question or in a state, seen from outside: what is stored of it, not built.

    Reading a thread's status imports and calls nothing that its rows name. A run that goes on
    builds the objects.

    Attributes:
        name: module and class.
        made_of: its fields or arguments, as far as they are stored.
    """

    name: str
    made_of: Any

    def __repr__(self) -> str:
        shown = "".join(
            character if character.isprintable() else "?" for character in self.name[:200]
        )
        return f"<{shown}>"
