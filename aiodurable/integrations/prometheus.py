"""Prometheus: an observer for the metrics of a process, and an ASGI app that serves these and the
metrics of the database. Install `aiodurable[prometheus]`.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram
from prometheus_client.exposition import CONTENT_TYPE_LATEST, generate_latest
from prometheus_client.metrics_core import GaugeMetricFamily, Metric

from aiodurable.durable import Durable
from aiodurable.errors import InvalidArgumentError
from aiodurable.events import Event
from aiodurable.integrations.asgi import App, Receive, Scope, Send, respond, serve_lifespan
from aiodurable.integrations.cluster_metrics import CLUSTER_METRICS, ClusterReader, Sample
from aiodurable.integrations.process_metrics import Change, ProcessMetrics
from aiodurable.integrations.process_metrics import Metric as ProcessMetric

__all__ = ["PrometheusObserver", "metrics_app"]


class PrometheusObserver:
    """Counts what happens in this process: `Durable(…, observers=[PrometheusObserver()])`.

    It blocks for no more than some microseconds, so the event loop calls it at once.

    Args:
        registry: where the metrics are registered; None: a registry of its own.
        graphs: names of graphs that may be labels, others are "other"; None: the first 100.

    Attributes:
        registry: where they are.
    """

    inline = True

    def __init__(
        self,
        registry: CollectorRegistry | None = None,
        *,
        graphs: Collection[str] | None = None,
    ) -> None:
        self.registry = CollectorRegistry() if registry is None else registry
        self._count = ProcessMetrics(self._bind, graphs)

    def __call__(self, event: Event) -> None:
        """Count one event."""
        self._count(event)

    def _bind(self, metric: ProcessMetric) -> Change:
        made = _made(metric, self.registry)
        name = {Counter: "inc", Gauge: "set", Histogram: "observe"}[type(made)]
        if not metric.labels:
            return getattr(made, name)
        series = dict[tuple[str, ...], Callable[[float], None]]()

        def change(number: float, *labels: str) -> None:
            of_labels = series.get(labels)
            if of_labels is None:
                of_labels = series[labels] = getattr(made.labels(*labels), name)
            of_labels(number)

        return change


def _made(metric: ProcessMetric, registry: CollectorRegistry) -> Counter | Gauge | Histogram:
    match metric.kind:
        case "counter":
            return Counter(metric.name, metric.help, metric.labels, registry=registry)
        case "gauge":
            return Gauge(metric.name, metric.help, metric.labels, registry=registry)
        case _:
            return Histogram(
                metric.name, metric.help, metric.labels, registry=registry, buckets=metric.buckets
            )


class _Shown:
    """A collector of samples that were read before."""

    def __init__(self, found: Iterable[Sample]) -> None:
        self._families = {
            metric.name: GaugeMetricFamily(metric.name, metric.help, labels=metric.labels)
            for metric in CLUSTER_METRICS
        }
        for name, labels, value in found:
            self._families[name].add_metric(labels, value)

    def collect(self) -> Iterable[Metric]:
        """The families that have a value."""
        return [family for family in self._families.values() if family.samples]


def metrics_app(
    durable: Durable | None = None,
    *,
    observer: PrometheusObserver | None = None,
    every_s: float = 15.0,
) -> App:
    """An ASGI app that answers `/metrics`, or whatever path it is mounted at.

    Args:
        durable: whose database is read, by bounded statements; None: serve the process alone. One
            process of many is enough.
        observer: whose metrics of this process are served, too.
        every_s: how often the database is read, at most; scrapes in between get the same numbers.

    Raises:
        InvalidArgumentError: `every_s` is negative, or there is nothing to serve.
    """
    if not every_s >= 0 or (durable is None and observer is None):
        raise InvalidArgumentError(
            "cannot serve metrics: pass a Durable, an observer, or both, and every_s of 0 or more",
            argument="every_s",
        )
    reader = None if durable is None else ClusterReader(durable, every_s=every_s)

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "lifespan":
            return await serve_lifespan(receive, send)
        if scope["type"] != "http":
            return None
        if scope["method"] not in ("GET", "HEAD"):
            return await respond(send, scope, 405, b"only GET\n")
        text = b"" if observer is None else generate_latest(observer.registry)
        if reader is not None:
            shown = CollectorRegistry(auto_describe=False)
            shown.register(_Shown(await reader.samples()))  # pyright: ignore[reportArgumentType]
            text += generate_latest(shown)
        return await respond(send, scope, 200, text, content_type=CONTENT_TYPE_LATEST)

    return app
