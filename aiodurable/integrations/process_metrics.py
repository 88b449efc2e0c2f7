"""The metrics of a process: what they are called, and which event changes them. Prometheus and
OpenTelemetry show the same.
"""

from __future__ import annotations

from collections.abc import Callable, Collection
from dataclasses import dataclass
from typing import Any, Final, Literal

from aiodurable.events import (
    AttemptEnded,
    AttemptStarted,
    BatchCommitted,
    CircuitChanged,
    Event,
    LeaseAcquired,
    LeaseLost,
    LeaseReleased,
    LoopLagMeasured,
    OperatorActed,
    RunClaimed,
    RunRescued,
    ThreadRepaired,
    ThreadsPruned,
    WriteRefused,
)
from aiodurable.integrations.labels import Labels

__all__ = ["PROCESS_METRICS", "Metric", "ProcessMetrics"]

_SECONDS: Final = (0.005, 0.025, 0.1, 0.25, 1.0, 2.5, 10.0, 30.0, 60.0, 300.0, 1800.0)
_COMMIT: Final = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 1.0, 5.0)
_WRITES: Final = (1, 2, 5, 10, 25, 50, 100, 250, 1000)
_CIRCUIT: Final = {"closed": 0.0, "half-open": 0.5, "open": 1.0}


@dataclass(frozen=True, slots=True)
class Metric:
    """What a metric is.

    Attributes:
        name: as Prometheus shows it.
        kind: its type.
        help: what it says, in one sentence.
        labels: the names of its labels.
        buckets: of a histogram, its upper bounds.
    """

    name: str
    kind: Literal["counter", "gauge", "histogram"]
    help: str
    labels: tuple[str, ...] = ()
    buckets: tuple[float, ...] = ()


PROCESS_METRICS: Final = (
    Metric(
        "aiodurable_attempts_started_total",
        "counter",
        "Attempts that began; resumed ones go on with unfinished work.",
        ("graph", "resumed"),
    ),
    Metric(
        "aiodurable_attempts_total",
        "counter",
        "Attempts that ended, by the status of their run then.",
        ("graph", "status"),
    ),
    Metric(
        "aiodurable_attempt_duration_seconds",
        "histogram",
        "Seconds from the start of an attempt to its end.",
        ("graph",),
        _SECONDS,
    ),
    Metric(
        "aiodurable_schedule_to_start_seconds",
        "histogram",
        "Seconds from when a run was accepted or due until a worker claimed it.",
        ("queue",),
        _SECONDS,
    ),
    Metric(
        "aiodurable_process_leases_held", "gauge", "Leases that this process holds, locks included."
    ),
    Metric(
        "aiodurable_lease_wait_seconds",
        "histogram",
        "Seconds from requesting a lease to having it.",
        (),
        _SECONDS,
    ),
    Metric("aiodurable_leases_lost_total", "counter", "Leases that were lost while needed."),
    Metric(
        "aiodurable_writes_refused_total",
        "counter",
        "Checkpoints of replaced leases that Postgres refused.",
    ),
    Metric(
        "aiodurable_batch_writes",
        "histogram",
        "Writes of checkpoints that one statement committed.",
        (),
        _WRITES,
    ),
    Metric(
        "aiodurable_batch_commit_seconds",
        "histogram",
        "Seconds from sending a batch of checkpoints to its commit.",
        (),
        _COMMIT,
    ),
    Metric(
        "aiodurable_orphans_rescued_total",
        "counter",
        "Runs of dead processes that this worker made ready.",
    ),
    Metric(
        "aiodurable_threads_repaired_total",
        "counter",
        "Threads of which LangGraph would have skipped failed nodes.",
    ),
    Metric(
        "aiodurable_circuit_open",
        "gauge",
        "1 while calls fail at once because Postgres does, 0.5 while one call probes, else 0.",
    ),
    Metric(
        "aiodurable_circuit_changes_total",
        "counter",
        "Changes of the circuit to Postgres.",
        ("state",),
    ),
    Metric("aiodurable_pruned_threads_total", "counter", "Threads of which a prune removed rows."),
    Metric(
        "aiodurable_pruned_rows_total",
        "counter",
        "Rows that prunes removed from LangGraph's tables.",
    ),
    Metric("aiodurable_pruned_runs_total", "counter", "Rows that prunes removed from the ledger."),
    Metric(
        "aiodurable_loop_lag_seconds",
        "gauge",
        "How late the event loop of this worker was, lately.",
    ),
    Metric(
        "aiodurable_operator_actions_total",
        "counter",
        "Actions of people by the dashboard or the command line, seen by this process.",
    ),
)

Change = Callable[..., object]
"""Changes a metric: a number, and the values of its labels. A counter grows by the number, a
histogram observes it, a gauge is set to it."""


class ProcessMetrics:
    """Changes metrics as events come.

    Args:
        bind: gives what changes a metric.
        graphs: the names of graphs that may be labels; None: the first 100.
    """

    def __init__(
        self, bind: Callable[[Metric], Change], graphs: Collection[str] | None = None
    ) -> None:
        change = {
            metric.name.removeprefix("aiodurable_"): bind(metric) for metric in PROCESS_METRICS
        }
        self._change = change
        self._graphs = Labels(graphs)
        self._queues = Labels()
        self._held = 0
        # Those that every run changes are found without looking them up.
        self._leases_held = change["process_leases_held"]
        self._lease_wait = change["lease_wait_seconds"]
        self._attempts_started = change["attempts_started_total"]
        self._attempts = change["attempts_total"]
        self._attempt_duration = change["attempt_duration_seconds"]
        self._batch_writes = change["batch_writes"]
        self._batch_commit = change["batch_commit_seconds"]
        self._on: dict[type[Event], Callable[[Any], None]] = {
            AttemptStarted: self._started,
            AttemptEnded: self._ended,
            RunClaimed: self._claimed,
            LeaseAcquired: self._acquired,
            LeaseReleased: self._released,
            BatchCommitted: self._committed,
            LoopLagMeasured: self._lagged,
            CircuitChanged: self._circuit,
            ThreadsPruned: self._pruned,
            **dict.fromkeys(_COUNTED, self._counted),
        }
        change["circuit_open"](0.0)
        self._leases_held(0)

    def __call__(self, event: Event) -> None:
        """Count one event."""
        count = self._on.get(type(event))
        if count is not None:
            count(event)

    def _started(self, event: AttemptStarted) -> None:
        self._attempts_started(1, self._graphs(event.graph), "true" if event.resumed else "false")

    def _ended(self, event: AttemptEnded) -> None:
        graph = self._graphs(event.graph)
        self._attempts(1, graph, event.status.value)
        self._attempt_duration(event.duration_s, graph)

    def _claimed(self, event: RunClaimed) -> None:
        if event.waited_s is not None:
            waited_s = max(0.0, event.waited_s)
            self._change["schedule_to_start_seconds"](waited_s, self._queues(event.queue))

    def _acquired(self, event: LeaseAcquired) -> None:
        self._held += 1
        self._leases_held(self._held)
        self._lease_wait(event.waited_s)

    def _released(self, _: LeaseReleased) -> None:
        self._held = max(0, self._held - 1)
        self._leases_held(self._held)

    def _committed(self, event: BatchCommitted) -> None:
        self._batch_writes(event.writes)
        self._batch_commit(event.duration_s)

    def _lagged(self, event: LoopLagMeasured) -> None:
        self._change["loop_lag_seconds"](event.lag_s)

    def _circuit(self, event: CircuitChanged) -> None:
        self._change["circuit_open"](_CIRCUIT[event.state])
        self._change["circuit_changes_total"](1, event.state)

    def _pruned(self, event: ThreadsPruned) -> None:
        self._change["pruned_threads_total"](event.threads)
        self._change["pruned_rows_total"](event.rows)
        self._change["pruned_runs_total"](event.runs)

    def _counted(self, event: Event) -> None:
        self._change[_COUNTED[type(event)]](1)


_COUNTED: Final[dict[type[Event], str]] = {
    LeaseLost: "leases_lost_total",
    WriteRefused: "writes_refused_total",
    RunRescued: "orphans_rescued_total",
    ThreadRepaired: "threads_repaired_total",
    OperatorActed: "operator_actions_total",
}
