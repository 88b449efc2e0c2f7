"""The metrics of a process by OpenTelemetry's API."""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable, Iterable
from typing import Final
from weakref import WeakKeyDictionary, WeakSet

from opentelemetry.metrics import (
    CallbackOptions,
    Meter,
    MeterProvider,
    Observation,
    get_meter_provider,
)

from aiodurable.integrations.process_metrics import Change, Metric

__all__ = ["Instruments", "instruments_of"]

_Labels = tuple[str, ...]
_Attributes = dict[str, str] | None
_MOST_KEPT: Final = 250
"""Values of histograms that are kept, at most: recording them takes about a millisecond."""
_SUMMED: Final = frozenset({"aiodurable_process_leases_held"})
"""Gauges that several observers add up to; of the others the greatest counts."""


def instruments_of(provider: MeterProvider | None) -> Instruments:
    """The instruments of a provider (None: the global one), the same for every observer: the SDK
    takes the callback of the first instrument of a name, and drops those of others.
    """
    if provider is None:
        provider = get_meter_provider()
    with _LOCK:
        found = _OF.get(provider)
        if found is None:
            found = _OF[provider] = Instruments(provider.get_meter("aiodurable"))
        return found


class _Values(dict[_Labels, float]):
    """What one observer has set a gauge to; it counts for as long as the observer is there."""

    __hash__ = object.__hash__  # pyright: ignore[reportAssignmentType]  # by identity
    __eq__ = object.__eq__


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
        self._made = dict[str, Change]()
        """What changes the counters and histograms."""
        self._gauges = dict[str, WeakSet[_Values]]()

    def bind(self, metric: Metric) -> Change:
        """What adds to a counter, sets a gauge, or records a value in a histogram."""
        if metric.kind == "gauge":
            return self._setting(metric)
        with self._lock:
            if metric.name not in self._made:
                counts = metric.kind == "counter"
                self._made[metric.name] = self._adding(metric) if counts else self._keeping(metric)
            return self._made[metric.name]

    def _adding(self, metric: Metric) -> Change:
        lock, values, attributes_of = self._lock, dict[_Labels, float](), _attributes_by(metric)

        def observe(_: CallbackOptions) -> Iterable[Observation]:
            self._record_kept()  # the SDK calls this before it reads its histograms
            with lock:
                now = list(values.items())
            return [Observation(value, attributes_of(labels)) for labels, value in now]

        def add(number: float, *labels: str) -> None:
            with lock:
                values[labels] = values.get(labels, 0.0) + number

        self._meter.create_observable_counter(_name(metric), [observe], _unit(metric), metric.help)
        return add

    def _setting(self, metric: Metric) -> Change:
        lock, own, attributes_of = self._lock, _Values(), _attributes_by(metric)
        together = sum if metric.name in _SUMMED else max
        with lock:
            known = metric.name in self._gauges
            every = self._gauges.setdefault(metric.name, WeakSet())
            every.add(own)

        def observe(_: CallbackOptions) -> Iterable[Observation]:
            now = dict[_Labels, list[float]]()
            with lock:
                for values in every:
                    for labels, value in values.items():
                        now.setdefault(labels, []).append(value)
            return [Observation(together(some), attributes_of(at)) for at, some in now.items()]

        def set_to(number: float, *labels: str) -> None:
            with lock:
                own[labels] = number

        if not known:
            self._meter.create_observable_gauge(
                _name(metric), [observe], _unit(metric), metric.help
            )
        return set_to

    def _keeping(self, metric: Metric) -> Change:
        kept, attributes_of = self._kept, _attributes_by(metric)
        record = self._meter.create_histogram(
            _name(metric),
            _unit(metric),
            metric.help,
            explicit_bucket_boundaries_advisory=metric.buckets,
        ).record

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


def _name(metric: Metric) -> str:
    return metric.name.removesuffix("_total").replace("aiodurable_", "aiodurable.", 1)


def _unit(metric: Metric) -> str:
    return "s" if metric.name.endswith("_seconds") else "1"


def _attributes_by(metric: Metric) -> Callable[[_Labels], _Attributes]:
    """Gives the attributes for labels: the same dict each time, and none where an empty one would
    cost the SDK more.
    """
    known = dict[_Labels, dict[str, str]]()

    def attributes_of(labels: _Labels) -> _Attributes:
        found = known.get(labels)
        if found is None and labels:
            found = known[labels] = dict(zip(metric.labels, labels, strict=True))
        return found

    return attributes_of


_LOCK: Final = threading.Lock()
_OF: Final = WeakKeyDictionary[MeterProvider, Instruments]()
