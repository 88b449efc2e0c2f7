"""What a database with aiodurable is doing, in numbers: `durable.insights`.

The dashboard, the command line and the metrics read it alike. Every number comes of a statement
whose work is bounded, however many threads and runs there are; where that costs exactness, the
result says so. Workers write what no statement can find out: their own rows, and a sample of the
statuses each five minutes.
"""

from aiodurable.insights.models import (
    AuditPage,
    AuditRecord,
    DatabaseHealth,
    KeyPressure,
    Latencies,
    LockSession,
    Overview,
    Percentiles,
    Prunable,
    QueueInsight,
    ScheduleInsight,
    ScheduleRun,
    StatusSample,
    TableHealth,
    Throughput,
    WorkerInsight,
)
from aiodurable.insights.service import Insights

__all__ = [
    "AuditPage",
    "AuditRecord",
    "DatabaseHealth",
    "Insights",
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
