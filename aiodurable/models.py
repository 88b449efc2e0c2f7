"""The values of the public API: statuses, the records of threads and runs, lock holders."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from enum import StrEnum
from typing import Any, Final, Literal

from aiodurable.waits import Wait

__all__ = [
    "MOST_CLAIMED_S",
    "NEEDS_ATTENTION",
    "PRUNE_BATCH_SIZE",
    "PRUNE_DUTY_CYCLE",
    "UNFINISHED",
    "ClaimState",
    "Compression",
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

Compression = Literal["auto", "lz4", "pglz"]
"""How the server compresses the large values that a connection writes; "auto": with lz4, unless it
was built without, or an administrator chose a method.
"""

PlatformThreadStatus = Literal["idle", "busy", "interrupted", "error"]
"""`ThreadStatus` of LangGraph's SDK (`langgraph_sdk.schema`), as LangGraph Platform reports it."""

PlatformRunStatus = Literal["pending", "running", "success", "error", "timeout", "interrupted"]
"""`RunStatus` of LangGraph's SDK."""


class ThreadStatus(StrEnum):
    """The status of a thread, from LangGraph's tables, the ledger and the live lock."""

    NEW = "new"
    """It has no checkpoint and no run."""
    RUNNING = "running"
    """A process holds its lease."""
    CRASHED = "crashed"
    """Work is left, nobody holds the lease and no error was recorded: its process is gone."""
    FAILED = "failed"
    """A node raised. A resumption runs that node again."""
    INTERRUPTED = "interrupted"
    """A node asked a question and waits for the answer."""
    PAUSED = "paused"
    """It stopped on purpose with work left: a static breakpoint, the recursion limit, a drain, a
    cancellation; or it sleeps, or waits for a signal.
    """
    COMPLETE = "complete"
    """No work is left."""
    QUEUED = "queued"
    """Its run was accepted and waits for a worker."""
    QUARANTINED = "quarantined"
    """Its run failed too often. Only a person retries it."""

    @property
    def unfinished(self) -> bool:
        """Whether a call that is not an answer resumes it."""
        return self in UNFINISHED

    @property
    def platform(self) -> PlatformThreadStatus:
        """The same status in the four words of LangGraph Platform."""
        return _PLATFORM_THREADS[self]


UNFINISHED = (ThreadStatus.CRASHED, ThreadStatus.FAILED, ThreadStatus.PAUSED)
"""The statuses of threads that a call resumes unless it is an answer."""

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
    """Why a run is paused. A `reason` can be another text, too: that of a fork names its source."""

    BREAKPOINT = "breakpoint"
    """It is at a gate: `interrupt_before` or `interrupt_after`."""
    RECURSION_LIMIT = "recursion limit"
    """It reached LangGraph's `recursion_limit`."""
    DRAINED = "drained"
    """Its process requested a stop at the next superstep, as at a shutdown. Any process may resume
    it.
    """
    CANCELLED = "cancelled"
    """The call was cancelled."""
    STREAM_CLOSED = "stream closed"
    """The caller left the stream early."""
    SLEEPING = "sleeping"
    """It sleeps, and a worker goes on with it when that is due."""
    WAITING = "waiting"
    """It waits for a signal; a worker goes on with it when that comes, or at the timeout."""


class RunStatus(StrEnum):
    """The status of a run in the ledger. `running` means crashed if nobody holds the lease."""

    QUEUED = "queued"
    RUNNING = "running"
    COMPLETE = "complete"
    FAILED = "failed"
    INTERRUPTED = "interrupted"
    PAUSED = "paused"
    REJECTED = "rejected"
    """The graph refused the input before its first checkpoint: nothing was accepted."""
    SUPERSEDED = "superseded"
    """A new run replaced it (`on_unfinished="restart"`, or `on_busy`), or it was cancelled before
    it began.
    """
    QUARANTINED = "quarantined"

    @property
    def platform(self) -> PlatformRunStatus:
        """The same status in the words of LangGraph Platform; never `timeout`, because runs have no
        time limit.
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


PRUNE_BATCH_SIZE: Final = 100
"""Threads that a prune changes in one transaction, at most, unless somebody says how many."""

PRUNE_DUTY_CYCLE: Final = 0.45
"""The part of the time that a prune works, unless somebody says how much."""

MOST_CLAIMED_S: Final = 60.0
"""Seconds after which a claim that has begun nothing is free for other workers. A worker begins at
once what it claims; what it then begins without a claim is refused.
"""


@dataclass(frozen=True, slots=True)
class LockHolder:
    """The holder of a lock, according to `pg_locks` and `pg_stat_activity`.

    Any role that may connect can take a lock and choose the name of its connection. Only the name
    of a role that may take leases (USAGE on `aiodurable_lock_tokens`) is reliable: see
    `authorized`.

    Attributes:
        key: the 64-bit lock key.
        pid: process id of the Postgres backend that holds it.
        application: the holder's `application_name`; aiodurable's names its host and process.
        client: the client's address; None for a unix socket, or if our role may not see it.
        since: when the holder's connection was opened; None if our role may not see it. Postgres
            does not record when a lock was taken.
        role: the holder's role; None if it is our role.
        authorized: whether the holder's role is our role, or may take leases. If not, the holder
            chose `application` itself.
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
        """`host:pid` of the aiodurable process that holds it; None if it may be another program."""
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
        status: its status.
        checkpoint_id: its newest checkpoint; None before the first.
        step: the superstep of that checkpoint (-1 is the input); None before the first.
        pending: the nodes that would run next, sorted; empty if no work is left or the tables do
            not show it.
        failed_node: the node of the root graph that raised, or whose subgraph did; None if the
            tables do not show it.
        failed_path: that node, and after it the nodes of its subgraphs down to the one that raised.
        error: the text of its error, as LangGraph stored it; never the state.
        interrupts: the open questions (LangGraph's `Interrupt` objects).
        waits: what it sleeps or waits for, beside them; a person answers none of it.
        updated_at: when the newest checkpoint was written.
        holder: the holder of the lease; None if nobody holds it.
        run_id: its newest run in the ledger; None if only plain LangGraph ran it.
        graph: the name of its graph, if known.
        attempts: the attempts of that run.
        started_at: when its last attempt started.
        finished_at: when its last attempt ended; None while it runs, and if its process died.
        failed_at: when it last failed; a backoff is computed from it and `attempts`.
        reason: why it is paused or quarantined, if the ledger knows; see `PauseReason`.
        doubt: why the status may be wrong; None if it is certain.
        maybe_at_gate: whether plain LangGraph may have stopped it at a gate, which it does not
            record.
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
    waits: tuple[Wait, ...] = ()

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
        """The time since the newest checkpoint, by this host's clock; None before the first."""
        return None if self.updated_at is None else datetime.now(UTC) - self.updated_at


@dataclass(frozen=True, slots=True)
class EarlierAttempt:
    """An attempt that another one followed.

    Attributes:
        worker: host and process.
        started: when it started, or was last resumed.
        ended: when it ended; None if its process died.
        outcome: `failed`, `crashed` or `quarantined`.
        error: `repr` of the exception that ended it.
        traceback: the traceback of that exception.
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
        run_id: the run; a run_id never runs twice.
        thread_id: its thread.
        graph: the name of its graph.
        status: its status in the ledger.
        attempts: how often it was tried: once, and again after each crash or failure. Answers,
            pauses and drains do not count.
        token: the fencing token of its last attempt.
        worker: host and process of its last attempt.
        created_at: when it was accepted.
        started_at: when its last attempt started, or was last resumed.
        finished_at: when its last attempt ended; None while it runs.
        failed_at: when it last failed; None if it never did.
        error: `repr` of the exception that ended it; None if none did.
        reason: why it is paused, quarantined or superseded; None otherwise.
        checkpoint_id: the checkpoint at which it ended.
        traceback: the traceback of that exception.
        earlier_attempts: the earlier attempts, at most the newest 20.
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
        schedule_id: the schedule that made it.
        traceparent: the trace context in which it was accepted, as W3C writes it; only of a run
            whose attempt just began.
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
    schedule_id: str | None = None
    traceparent: str | None = None

    @property
    def settled(self) -> bool:
        """Whether it is over: complete, refused, given up, or set aside."""
        return self.status in _SETTLED


@dataclass(frozen=True, slots=True, repr=False)
class StoredObject:
    """An object in a question or a state, as it is stored. Only a run builds the object itself:
    reading a thread imports and calls nothing that its rows name.

    Attributes:
        name: module and class.
        made_of: its stored fields or arguments.
    """

    name: str
    made_of: Any

    def __repr__(self) -> str:
        shown = "".join(
            character if character.isprintable() else "?" for character in self.name[:200]
        )
        return f"<{shown}>"
