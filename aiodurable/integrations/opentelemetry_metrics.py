"""The metrics of a process by OpenTelemetry's API."""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable, Iterable
from typing import Final

from opentelemetry.metrics import CallbackOptions, Meter, Observation

from aiodurable.integrations.process_metrics import Change, Metric

__all__ = ["Instruments"]

_Labels = tuple[str, ...]
_Attributes = dict[str, str] | None
_MOST_KEPT: Final = 250
"""Values of histograms that are kept, at most: recording them takes about a millisecond."""


class Instruments:
    """Makes an instrument for each metric.

    Counters and gauges are numbers here, which the SDK reads when it exports: the API of its
    synchronous ones costs a run five times as much. Histograms have no such form: their values are
    kept, and recorded many at a time or when the SDK reads. In a row they cost half as much as
    each between other work, whose code and data they push out of the processor's caches.

    Args:
        meter: makes the instruments.
    """

    def __init__(self, meter: Meter) -> None:
        self._meter = meter
        self._lock = threading.Lock()
        """Two event loops may share an observer."""
        self._kept = deque[tuple[Callable[..., None], float, _Attributes]]()

    def bind(self, metric: Metric) -> Change:
        """What adds to a counter, sets a gauge, or records a value in a histogram."""
        name = metric.name.removesuffix("_total").replace("aiodurable_", "aiodurable.", 1)
        unit = "s" if name.endswith("_seconds") else "1"
        attributes_of = _attributes_by(metric.labels)
        if metric.kind == "histogram":
            record = self._meter.create_histogram(
                name, unit, metric.help, explicit_bucket_boundaries_advisory=metric.buckets
            ).record
            return self._keeping(record, attributes_of)
        lock, values = self._lock, dict[_Labels, float]()

        def observe(_: CallbackOptions) -> Iterable[Observation]:
            self._record_kept()  # the SDK calls this before it reads its histograms
            with lock:
                now = list(values.items())
            return [Observation(value, attributes_of(labels)) for labels, value in now]

        def add(number: float, *labels: str) -> None:
            with lock:
                values[labels] = values.get(labels, 0.0) + number

        def set_to(number: float, *labels: str) -> None:
            with lock:
                values[labels] = number

        if metric.kind == "counter":
            self._meter.create_observable_counter(name, [observe], unit, metric.help)
            return add
        self._meter.create_observable_gauge(name, [observe], unit, metric.help)
        return set_to

    def _keeping(
        self, record: Callable[..., None], attributes_of: Callable[[_Labels], _Attributes]
    ) -> Change:
        kept = self._kept

        def keep(number: float, *labels: str) -> None:
            kept.append((record, number, attributes_of(labels) if labels else None))
            if len(kept) >= _MOST_KEPT:
                self._record_kept()

        return keep

    def _record_kept(self) -> None:
        for _ in range(len(self._kept)):
            try:
                record, number, attributes = self._kept.popleft()
            except IndexError:  # another thread records them, too
                return
            record(number, attributes)


def _attributes_by(names: _Labels) -> Callable[[_Labels], _Attributes]:
    """Gives the attributes for labels: the same dict each time, and none where an empty one would
    cost the SDK more.
    """
    known = dict[_Labels, dict[str, str]]()

    def attributes_of(labels: _Labels) -> _Attributes:
        found = known.get(labels)
        if found is None and labels:
            found = known[labels] = dict(zip(names, labels, strict=True))
        return found

    return attributes_of
