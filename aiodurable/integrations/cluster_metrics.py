"""The metrics of the database, read by SQL: any one process can serve them for all."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Collection
from dataclasses import dataclass
from typing import Final

from aiodurable.durable import Durable
from aiodurable.errors import AiodurableError
from aiodurable.insights import Latencies, Overview, QueueInsight
from aiodurable.integrations.labels import Labels
from aiodurable.integrations.process_metrics import Metric

__all__ = ["CLUSTER_METRICS", "ClusterReader", "Sample", "samples"]

_log = logging.getLogger(__name__)
_READ_S: Final = 5.0
"""How long reading may take: Prometheus gives a scrape up after 10 seconds, and with it what this
process has counted.
"""
_STALE_S: Final = 300.0
"""How old the numbers may be. Nobody takes an hour-old number for one of now if it is not there."""
_QUEUES: Final = 100
"""Queues with time series of their own; the others share one."""
_STATES: Final = ("ready", "scheduled", "blocked", "limited", "claimed", "running")

Sample = tuple[str, tuple[str, ...], float]
"""The name of a metric, the values of its labels, and its value."""

CLUSTER_METRICS: Final = (
    Metric("aiodurable_threads", "gauge", "Threads by status; estimated where many.", ("status",)),
    Metric("aiodurable_running_runs", "gauge", "Runs at work by the ledger, up to 10,000."),
    Metric("aiodurable_quarantined_runs", "gauge", "Quarantined runs, up to 10,000."),
    Metric("aiodurable_failed_runs", "gauge", "Failed runs, those tried again too, up to 10,000."),
    Metric("aiodurable_open_questions", "gauge", "Threads that wait for the answer of a person."),
    Metric("aiodurable_leases", "gauge", "Leases held, of all processes."),
    Metric("aiodurable_workers", "gauge", "Workers that are registered."),
    Metric("aiodurable_workers_alive", "gauge", "Workers whose process has a connection."),
    Metric("aiodurable_worker_slots", "gauge", "Runs that live workers may have at work at once."),
    Metric(
        "aiodurable_queue_runs",
        "gauge",
        "Runs of a queue by what they wait for, or claimed or running; counted to some thousands.",
        ("queue", "state"),
    ),
    Metric(
        "aiodurable_queue_oldest_ready_seconds",
        "gauge",
        "Seconds since the oldest ready run of a queue was accepted or due; 0: none is ready.",
        ("queue",),
    ),
    Metric("aiodurable_queue_paused", "gauge", "1 while a queue is paused.", ("queue",)),
    Metric(
        "aiodurable_recent_wait_seconds",
        "gauge",
        "Quantiles of the wait from acceptance to the start, of runs that ended in the last hour.",
        ("graph", "quantile"),
    ),
    Metric(
        "aiodurable_recent_run_seconds",
        "gauge",
        "Quantiles of the last attempt's duration, of runs that ended in the last hour.",
        ("graph", "quantile"),
    ),
    Metric("aiodurable_cluster_age_seconds", "gauge", "How old these numbers of the database are."),
    Metric("aiodurable_cluster_up", "gauge", "1 where the last reading of the database worked."),
)


@dataclass(frozen=True, slots=True)
class _Read:
    at: float
    overview: Overview
    queues: list[QueueInsight]
    latencies: list[Latencies]


class ClusterReader:
    """Reads the numbers at most once per `every_s` seconds, whatever number of scrapes share them;
    where Postgres fails or does not answer, the old ones stay for five minutes, and say how old
    they are.

    A queue that has no run any more and no limit is 0 as long as this process runs: a gauge that
    vanishes scales nothing down.

    Args:
        durable: an open `Durable`; one that only looks will do.
        every_s: seconds.
    """

    def __init__(self, durable: Durable, *, every_s: float) -> None:
        self._durable = durable
        self._every_s = every_s
        self._lock = asyncio.Lock()
        self._read: _Read | None = None
        self._queues = set[str]()
        """The queues that were seen, as many as have time series of their own."""
        self._tried = float("-inf")
        self._up = False

    async def samples(self) -> list[Sample]:
        """What there is to show now."""
        async with self._lock:
            if time.monotonic() - self._tried >= self._every_s:
                self._up = await self._refresh()
                self._tried = time.monotonic()
        found: list[Sample] = [("aiodurable_cluster_up", (), float(self._up))]
        if self._read is not None:
            age_s = time.monotonic() - self._read.at
            found.append(("aiodurable_cluster_age_seconds", (), age_s))
            if age_s <= max(_STALE_S, 2 * self._every_s):
                found += self._shown(self._read)
        return found

    def _shown(self, read: _Read) -> list[Sample]:
        names = {queue.name for queue in read.queues}
        self._queues |= set(sorted(names - self._queues)[: _QUEUES - len(self._queues)])
        graphs = self._durable.graphs if self._durable.is_open else {}
        return samples(
            read.overview, read.queues, read.latencies, graphs or None, self._queues - names
        )

    async def _refresh(self) -> bool:
        insights = self._durable.insights
        try:
            async with asyncio.timeout(_READ_S):
                at = time.monotonic()
                overview, queues = await insights.overview_and_queues()
                self._read = _Read(at, overview, queues, await insights.latencies())
        except (AiodurableError, TimeoutError) as error:
            _log.warning("the metrics of the database are not read: %s", type(error).__name__)
            return False
        return True


def samples(
    overview: Overview,
    queues: list[QueueInsight],
    latencies: list[Latencies],
    graphs: Collection[str] | None = None,
    idle: Collection[str] = (),
) -> list[Sample]:
    """The values of what was read.

    Args:
        overview, queues, latencies: of `durable.insights`.
        graphs: the names of graphs that may be labels; None: the first 100.
        idle: the names of queues that had runs before, and have none now.
    """
    found: list[Sample] = [
        ("aiodurable_threads", (status.value,), count)
        for status, count in overview.threads.by_status.items()
    ]
    for name, value in (
        ("aiodurable_running_runs", overview.running),
        ("aiodurable_quarantined_runs", overview.quarantined),
        ("aiodurable_failed_runs", overview.failed),
        ("aiodurable_open_questions", overview.open_questions),
        ("aiodurable_leases", overview.leases),
        ("aiodurable_workers", overview.workers),
        ("aiodurable_workers_alive", overview.workers_alive),
        ("aiodurable_worker_slots", overview.slots),
    ):
        if value is not None:
            found.append((name, (), value))
    found += _of_queues(queues, idle)
    label = Labels(graphs)
    seen = set[str]()
    for one in latencies:
        graph = label(one.graph)
        if graph in seen:
            continue  # quantiles of two graphs have no sum
        seen.add(graph)
        for name, quantiles in (
            ("aiodurable_recent_wait_seconds", one.wait),
            ("aiodurable_recent_run_seconds", one.run),
        ):
            if quantiles is not None:
                found.append((name, (graph, "0.5"), quantiles.p50_s))
                found.append((name, (graph, "0.95"), quantiles.p95_s))
                found.append((name, (graph, "0.99"), quantiles.p99_s))
    return found


def _of_queues(queues: list[QueueInsight], idle: Collection[str]) -> list[Sample]:
    """Counts, ages and pauses by queue; of queues that share a label, the sum and the worst."""
    label = Labels(most=_QUEUES)
    runs, oldest, paused = dict[tuple[str, str], int](), dict[str, float](), dict[str, float]()
    for queue in queues:
        name = label(queue.name)
        for state in _STATES:
            runs[name, state] = runs.get((name, state), 0) + getattr(queue, state)
        oldest[name] = max(oldest.get(name, 0.0), queue.oldest_ready_age_s or 0.0)
        paused[name] = max(paused.get(name, 0.0), float(queue.paused))
    for name in map(label, sorted(idle)):
        for state in _STATES:
            runs.setdefault((name, state), 0)
        oldest.setdefault(name, 0.0)
        paused.setdefault(name, 0.0)
    return [
        *(("aiodurable_queue_runs", key, value) for key, value in runs.items()),
        *(("aiodurable_queue_oldest_ready_seconds", (n,), value) for n, value in oldest.items()),
        *(("aiodurable_queue_paused", (n,), value) for n, value in paused.items()),
    ]
