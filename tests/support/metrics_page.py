"""Writes the reference of every metric: python3 dev.py run python -m tests.support.metrics_page"""

from __future__ import annotations

from pathlib import Path

from aiodurable.integrations.cluster_metrics import CLUSTER_METRICS
from aiodurable.integrations.process_metrics import PROCESS_METRICS, Metric

PAGE = Path(__file__).parents[2] / "docs" / "reference" / "metrics.md"


def _table(metrics: tuple[Metric, ...]) -> str:
    rows = ["| metric | type | labels | what it says |", "|---|---|---|---|"]
    for metric in metrics:
        labels = ", ".join(f"`{label}`" for label in metric.labels)
        rows.append(f"| `{metric.name}` | {metric.kind} | {labels} | {metric.help} |")
    return "\n".join(rows)


def page() -> str:
    """The whole page."""
    return f"""# Metrics

[Watch it with Prometheus and Grafana](../howto/metrics.md) says how to get them. No label has a thread, a run or a state.

## Of a process

Counted as things happen, by `PrometheusObserver`. `OpenTelemetryObserver` has the same: dots for the first underscore, and no
`_total`.

{_table(PROCESS_METRICS)}

## Of the database

Gauges, read by SQL in one process of many; see [Insights](../howto/metrics.md). Take the maximum where several processes serve them.

{_table(CLUSTER_METRICS)}
"""


if __name__ == "__main__":
    PAGE.write_text(page())
