"""What `durable.insights` returns. Times are the database's; no value is of a thread's state."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Literal, NamedTuple

from aiodurable.models import ClaimState, RunStatus, ThreadStatus
from aiodurable.queue import Schedule
from aiodurable.threads import ThreadCounts

__all__ = [
    "AuditPage",
    "AuditRecord",
    "DatabaseHealth",
    "KeyPressure",
    "Latencies",
    "LockSession",
    "Overview",
    "Percentiles",
    "Prunable",
    "QueueInsight",
    "ScheduleInsight",
    "ScheduleRun",
    "StatusSample",
    "TableHealth",
    "Throughput",
    "WorkerInsight",
]


@dataclass(frozen=True, slots=True)
class Overview:
    """All of a database at once.

    Attributes:
        at: when it was read.
        threads: threads by status, estimated where there are many.
        threads_at: when they were counted: of a large database by the worker that took the newest
            sample, at most about ten minutes ago.
        runs: runs in queues by claim state; a state without runs is left out.
        runs_capped: whether a number of `runs` is a lower bound: counting stops at 10,000 a state.
        oldest_ready_age_s: seconds since the oldest run that is ready was accepted, or was due if
            that is later; None: none is.
        running: runs at work by the ledger, counted up to 10,000; with those whose process died and
            that nobody has rescued yet.
        quarantined: quarantined runs, counted up to 10,000.
        failed: failed runs, those that will be tried again too, counted up to 10,000.
        open_questions: runs that wait for a person's answer, counted up to 10,000; without threads
            of plain LangGraph, which `threads` counts.
        workers: workers that are registered.
        workers_alive: those whose process has a connection; None on a standby, which cannot tell.
        slots: runs that these may have at work at once.
        leases: leases held; None on a standby.
    """

    at: datetime
    threads: ThreadCounts
    threads_at: datetime
    runs: Mapping[ClaimState, int]
    runs_capped: bool
    oldest_ready_age_s: float | None
    running: int
    quarantined: int
    failed: int
    open_questions: int
    workers: int
    workers_alive: int | None
    slots: int
    leases: int | None


@dataclass(frozen=True, slots=True)
class StatusSample:
    """One moment of the last day, kept by the workers, one each five minutes.

    Attributes:
        at: when it was taken.
        by_status: threads by status, as `Overview.threads` counts them.
        estimated: the statuses whose numbers are estimates.
        queued: runs in queues by claim state, counted up to 10,000 a state.
        ended: runs whose last attempt ended since the sample before, by how; see `Throughput`.
        ended_s: the seconds that `ended` is about; less than the time between two samples where
            only the newest 20,000 were counted.
    """

    at: datetime
    by_status: Mapping[ThreadStatus, int]
    estimated: frozenset[ThreadStatus]
    queued: Mapping[ClaimState, int]
    ended: Mapping[RunStatus, int]
    ended_s: float


@dataclass(frozen=True, slots=True)
class Throughput:
    """How many runs ended lately, by how: a run counts once, as its last attempt ended.

    Attributes:
        window_s: the seconds that were counted, back from now; less than requested where only the
            newest 20,000 were counted.
        ended: runs by status: complete, failed, interrupted, paused, quarantined, superseded,
            rejected.
    """

    window_s: float
    ended: Mapping[RunStatus, int]

    @property
    def per_minute(self) -> Mapping[RunStatus, float]:
        """`ended` a minute."""
        return {
            status: count * 60 / self.window_s if self.window_s else 0.0
            for status, count in self.ended.items()
        }


@dataclass(frozen=True, slots=True)
class Percentiles:
    """Of a sample, in seconds."""

    p50_s: float
    p95_s: float
    p99_s: float


@dataclass(frozen=True, slots=True)
class Latencies:
    """How long the runs of one graph took lately.

    Attributes:
        graph: the name of the graph.
        count: the runs in the sample: the newest that ended, at most 5,000 of all graphs together.
        wait: from acceptance, or from when it was due, to the start, of runs with one attempt;
            None: there was none.
        run: from the start of the last attempt to its end.
    """

    graph: str | None
    count: int
    wait: Percentiles | None
    run: Percentiles


@dataclass(frozen=True, slots=True)
class KeyPressure:
    """What waits and runs for one key of a queue.

    Attributes:
        kind: whether it is a fairness key or a concurrency key.
        key: the key.
        waiting: runs that are ready or limited.
        running: runs at work, or claimed.
    """

    kind: Literal["fairness", "concurrency"]
    key: str
    waiting: int
    running: int


@dataclass(frozen=True, slots=True)
class QueueInsight:
    """A queue: its limits, what waits in it, and for which keys.

    Attributes:
        name: the queue.
        paused: whether workers begin none of its runs.
        max_running, max_running_per_key, rate, burst: its limits; None: no limit.
        ready, scheduled, blocked, limited, claimed, running: its runs by state; `running` without
            those that are only claimed.
        capped: whether one of these is a lower bound: counting stops at 5,000 of a state and queue,
            earlier where there are more than two queues, and never below 500.
        oldest_ready_age_s: seconds since the oldest run that is ready was accepted, or was due if
            that is later; None: none is.
        keys: at most 20 keys under pressure, those with the most waiting runs first.
    """

    name: str
    paused: bool
    max_running: int | None
    max_running_per_key: int | None
    rate: float | None
    burst: int | None
    ready: int
    scheduled: int
    blocked: int
    limited: int
    claimed: int
    running: int
    capped: bool
    oldest_ready_age_s: float | None
    keys: tuple[KeyPressure, ...]


@dataclass(frozen=True, slots=True)
class WorkerInsight:
    """A worker, as it last described itself: each 10 seconds.

    Attributes:
        worker: its name: host, process and number, as in a claim.
        hostname, pid: of its process.
        version: that of aiodurable.
        queues: those it serves.
        graphs: those it has.
        concurrency: runs at a time, at most.
        running: runs at work.
        loop_lag_s: how late its event loop was.
        loop_lag_max_s: the same, at most in the minute before.
        draining: whether it claims no more.
        started_at: when it began.
        seen_at: when it wrote this.
        age_s: seconds since then.
        alive: whether its process has a connection to the database; None on a standby, which cannot
            tell.
    """

    worker: str
    hostname: str
    pid: int
    version: str
    queues: tuple[str, ...]
    graphs: tuple[str, ...]
    concurrency: int
    running: int
    loop_lag_s: float
    loop_lag_max_s: float
    draining: bool
    started_at: datetime
    seen_at: datetime
    age_s: float
    alive: bool | None


@dataclass(frozen=True, slots=True)
class LockSession:
    """A connection on which leases live.

    Attributes:
        pid: the process of the server.
        application: its application_name.
        process: `host:pid` of the process that has it; None if it may be another program.
        client: the client's address; None for a unix socket, or if our role may not see it.
        since: when it was opened; None if our role may not see it.
        leases: how many it holds.
    """

    pid: int
    application: str
    process: str | None
    client: str | None
    since: datetime | None
    leases: int


@dataclass(frozen=True, slots=True)
class ScheduleRun:
    """A run of a schedule.

    Attributes:
        run_id, thread_id: of the run.
        status: as the ledger has it.
        created_at: when it was accepted.
        started_at, finished_at: of its last attempt.
    """

    run_id: str
    thread_id: str
    status: RunStatus
    created_at: datetime
    started_at: datetime | None
    finished_at: datetime | None


@dataclass(frozen=True, slots=True)
class ScheduleInsight:
    """A schedule, what comes next, and what came last.

    Attributes:
        schedule: how it stands.
        next_times: its next slots, at most five; none while it is paused, or has ended.
        last_runs: the runs of its last slots, newest first, at most five.
    """

    schedule: Schedule
    next_times: tuple[datetime, ...]
    last_runs: tuple[ScheduleRun, ...]


@dataclass(frozen=True, slots=True)
class TableHealth:
    """A table, by the server's statistics.

    Attributes:
        name: the table.
        bytes: its size, with its large values, without indexes.
        index_bytes: the size of its indexes.
        live_rows: rows, estimated.
        dead_rows: old versions of rows, estimated; a vacuum frees them.
        vacuumed_at: the last vacuum, by hand or not; None: never.
        analyzed_at: the same of statistics.
    """

    name: str
    bytes: int
    index_bytes: int
    live_rows: int
    dead_rows: int
    vacuumed_at: datetime | None
    analyzed_at: datetime | None


@dataclass(frozen=True, slots=True)
class Prunable:
    """What `prune` would remove, estimated from a sample of the table of checkpoints.

    Attributes:
        checkpoints: checkpoints older than `older_than_days` that are not the newest of their
            thread.
        threads: threads whose newest checkpoint is older than that.
        older_than_days: the age.
        exact: whether all was counted.
    """

    checkpoints: int
    threads: int
    older_than_days: float
    exact: bool


@dataclass(frozen=True, slots=True)
class DatabaseHealth:
    """The database, by the server's own statistics.

    Attributes:
        bytes: the size of the whole database.
        tables: those of LangGraph and aiodurable.
        oldest_transaction_s: seconds for which the oldest transaction has been open; it keeps dead
            rows from being removed. None: none is open.
        connections: connections to this database.
        max_connections: what the server allows.
        prunable: what a prune would remove.
        standby: whether the server is one.
    """

    bytes: int
    tables: tuple[TableHealth, ...]
    oldest_transaction_s: float | None
    connections: int
    max_connections: int
    prunable: Prunable
    standby: bool


@dataclass(frozen=True, slots=True)
class AuditRecord:
    """What somebody did.

    Attributes:
        id: later records have larger ones.
        at: when it was recorded.
        actor: who: what the dashboard or the CLI knows of them.
        action: what, such as "threads.cancel".
        thread_id, run_id: whose; None: of several, or of none.
        details: more of it; never a state, an input or an answer.
    """

    id: int
    at: datetime
    actor: str
    action: str
    thread_id: str | None
    run_id: str | None
    details: Mapping[str, Any]


class AuditPage(NamedTuple):
    """One page of the audit, newest first.

    Attributes:
        records: newest first.
        before: the `before` of the next page; None: there is none.
    """

    records: tuple[AuditRecord, ...]
    before: int | None
