"""The metrics of a process by OpenTelemetry's API."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterable
from typing import Final

from opentelemetry.metrics import CallbackOptions, Meter, Observation

from aiodurable.integrations.process_metrics import PROCESS_METRICS, Metric

__all__ = ["Instruments"]

_Labels = tuple[str, ...]
_MOST_KEPT: Final = 250
"""Values of histograms that are kept, at most: recording them takes about a millisecond."""


class Instruments:
    """An instrument for each of `PROCESS_METRICS`.

    Counters and gauges are numbers here, which the SDK reads when it exports: the API of its
    synchronous ones costs a run five times as much. Histograms have no such form: their values are
    kept, and recorded many at a time or when the SDK reads. In a row they cost half as much as
    each between other work, whose code and data they push out of the processor's caches.

    Args:
        meter: makes the instruments.
    """

    def __init__(self, meter: Meter) -> None:
        self._lock = threading.Lock()
        """Two event loops may share an observer."""
        self._totals = dict[str, dict[_Labels, float]]()
        self._latest = dict[str, dict[_Labels, float]]()
        self._record = dict[str, Callable[..., None]]()
        self._kept = list[tuple[Callable[..., None], float, dict[str, str] | None]]()
        self._attributes = dict[tuple[str, _Labels], dict[str, str]]()
        self._names: Final = {metric.name: metric.labels for metric in PROCESS_METRICS}
        for metric in PROCESS_METRICS:
            self._make(meter, metric)

    def change(self, name: str, number: float, *labels: str) -> None:
        """Add to a counter, set a gauge, or record a value in a histogram."""
        if (record := self._record.get(name)) is not None:
            self._kept.append((record, number, self._attributes_of(name, labels)))
            if len(self._kept) >= _MOST_KEPT:
                self._record_kept()
            return
        with self._lock:
            if (totals := self._totals.get(name)) is not None:
                totals[labels] = totals.get(labels, 0.0) + number
            else:
                self._latest[name][labels] = number

    def _record_kept(self) -> None:
        with self._lock:
            kept, self._kept = self._kept, []
        for record, number, attributes in kept:
            record(number, attributes)

    def _attributes_of(self, name: str, labels: _Labels) -> dict[str, str] | None:
        if not labels:
            return None  # an empty one costs the SDK more
        found = self._attributes.get((name, labels))
        if found is None:
            found = dict(zip(self._names[name], labels, strict=True))
            self._attributes[name, labels] = found
        return found

    def _make(self, meter: Meter, metric: Metric) -> None:
        name = metric.name.removesuffix("_total").replace("aiodurable_", "aiodurable.", 1)
        unit = "s" if name.endswith("_seconds") else "1"
        if metric.kind == "histogram":
            self._record[metric.name] = meter.create_histogram(
                name, unit, metric.help, explicit_bucket_boundaries_advisory=metric.buckets
            ).record
            return
        values = dict[_Labels, float]()

        def observe(_: CallbackOptions) -> Iterable[Observation]:
            self._record_kept()  # the SDK calls this before it reads its histograms
            with self._lock:
                now = list(values.items())
            return [
                Observation(value, self._attributes_of(metric.name, labels))
                for labels, value in now
            ]

        if metric.kind == "counter":
            self._totals[metric.name] = values
            meter.create_observable_counter(name, [observe], unit, metric.help)
        else:
            self._latest[metric.name] = values
            meter.create_observable_gauge(name, [observe], unit, metric.help)
