"""What observers cost a run: CPU time, in µs, and its share of a run without any.

Each call that a run makes to an observer is timed where it is made, between the run's own work: it
finds the processor's caches as a run leaves them. What is timed is the CPU time of the event loop's
thread, so a busy machine changes it little; what timing itself takes is subtracted, by an observer
that does nothing. Garbage is not collected meanwhile: its cost would fall on any call.
Other threads are counted too: OpenTelemetry's own hands the spans to an exporter
that drops them, for how they leave the process is the exporter's doing.

"none again" is the CPU of whole runs without observers, a second time: what two measurements of the
same differ by.
"""

from __future__ import annotations

import argparse
import asyncio
import gc
import math
import os
import statistics
import time
from collections.abc import Callable, Sequence
from contextlib import AsyncExitStack
from functools import partial
from typing import Any

import asyncpg
from opentelemetry.sdk.metrics import MeterProvider
from opentelemetry.sdk.metrics.export import InMemoryMetricReader
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import BatchSpanProcessor, SpanExporter, SpanExportResult
from opentelemetry.sdk.trace.sampling import ALWAYS_OFF, ALWAYS_ON, Sampler

from aiodurable import Durable
from aiodurable.dsn import parse_dsn
from aiodurable.embedded import embedded_postgres
from aiodurable.events import Event, Observer
from aiodurable.integrations.opentelemetry import OpenTelemetryObserver
from aiodurable.integrations.prometheus import PrometheusObserver

from .contenders import four_nodes
from .machine import describe
from .report import Row, parser, save, table
from .rounds import Figures, in_turns, medians
from .runs import crowd

AT_ONCE = 50
NONE, AGAIN, SILENT = "none", "none again", "one that does nothing"
HEADS = {
    "observer": "observer",
    "us": "µs a run",
    "share": "% of a run",
}


class Dropped(SpanExporter):
    """An exporter that drops what it gets."""

    def export(self, spans: Sequence[Any]) -> SpanExportResult:  # noqa: ARG002
        return SpanExportResult.SUCCESS

    def shutdown(self) -> None:
        pass


def traced(sampler: Sampler = ALWAYS_ON, **options: Any) -> OpenTelemetryObserver:
    provider = TracerProvider(sampler)
    provider.add_span_processor(BatchSpanProcessor(Dropped()))
    return OpenTelemetryObserver(
        tracer_provider=provider, meter_provider=MeterProvider([InMemoryMetricReader()]), **options
    )


class Silent:
    """Gets the calls and does nothing."""

    def __call__(self, event: Event) -> None:
        pass

    def traceparent(self, *run: str | None) -> None:
        pass

    def enter(self, thread_id: str) -> Callable[[], None]:  # noqa: ARG002
        return _nothing


def _nothing() -> None:
    pass


OBSERVERS: dict[str, Callable[[], Any]] = {
    SILENT: Silent,
    "Prometheus": PrometheusObserver,
    "OpenTelemetry, not sampled": partial(traced, ALWAYS_OFF),
    "OpenTelemetry, not sampled, no metrics": partial(traced, ALWAYS_OFF, metrics=False),
    "OpenTelemetry, one span a run": partial(traced, detailed_per_s=0),
    "OpenTelemetry, one span a run, no metrics": partial(traced, detailed_per_s=0, metrics=False),
    "OpenTelemetry, all in detail": partial(traced, detailed_per_s=math.inf),
}


class Timed:
    """An observer, and the CPU time of the calls that it gets.

    Attributes:
        us: so far.
    """

    inline = True

    def __init__(self, observer: Any) -> None:
        self._observer = observer
        self.us = 0.0
        for name in ("traceparent", "enter"):
            if hasattr(observer, name):
                setattr(self, name, self._timed(getattr(observer, name)))

    def __call__(self, event: Event) -> None:
        began = time.thread_time_ns()
        self._observer(event)
        self.us += (time.thread_time_ns() - began) / 1000

    def _timed(self, call: Callable[..., Any]) -> Callable[..., Any]:
        def timed(*arguments: Any) -> Any:
            began = time.thread_time_ns()
            found = call(*arguments)
            self.us += (time.thread_time_ns() - began) / 1000
            return self._timed(found) if callable(found) else found

        return timed


async def block(dsn: str, make: Callable[[], Any] | None, runs: int) -> Figures:
    """µs of CPU for a run: of the whole process, of all threads but this one, and of the calls."""
    timed = None if make is None else Timed(make())
    observers: Sequence[Observer] = () if timed is None else (timed,)
    async with Durable(dsn, graphs={"four": four_nodes(0)}, observers=observers) as durable:

        async def run(thread_id: str) -> Any:
            async with durable.run(thread_id, "four") as opened:
                return await opened.ainvoke({"count": 0})

        await crowd(run, AT_ONCE, AT_ONCE)
        gc.collect()
        gc.disable()
        before = 0.0 if timed is None else timed.us
        process, thread = time.process_time(), time.thread_time()
        await crowd(run, runs, AT_ONCE)
        process, thread = time.process_time() - process, time.thread_time() - thread
        gc.enable()
        called = 0.0 if timed is None else timed.us - before
    return {
        "run": process * 1e6 / runs,
        "others": (process - thread) * 1e6 / runs,
        "called": called / runs,
    }


async def run(options: argparse.Namespace) -> None:
    async with AsyncExitStack() as stack:
        dsn = os.environ.get("AIODURABLE_DSN") or await stack.enter_async_context(
            embedded_postgres(durable=False)
        )
        blocks = {
            name: partial(block, dsn, make, options.runs)
            for name, make in {NONE: None, AGAIN: None, **OBSERVERS}.items()
        }
        measured = await in_turns(blocks, options.rounds)
        admin = await asyncpg.connect(**parse_dsn(dsn).asyncpg)
        stack.push_async_callback(admin.close)
        machine = describe(await admin.fetchval("SHOW server_version"))
    found = {name: medians(rounds) for name, rounds in measured.items()}
    each = statistics.median([found[NONE]["run"], found[AGAIN]["run"]])
    us = {AGAIN: found[AGAIN]["run"] - found[NONE]["run"]} | {
        name: sum(found[name][part] - found[SILENT][part] for part in ("called", "others"))
        for name in OBSERVERS
        if name != SILENT
    }
    rows: list[Row] = [
        {"observer": name, "us": spent, "share": 100 * spent / each} for name, spent in us.items()
    ]
    print(f"a run without observers: {each:,.0f} µs of CPU\n\n{table(rows, HEADS)}")
    if options.json:
        save(options.json, machine, rows, run_us=each, rounds=options.rounds, runs=options.runs)


def main(argv: Sequence[str] | None = None) -> None:
    options = parser(__doc__, "observers", svg=False)
    options.add_argument("--runs", type=int, default=400, help="of a block")
    options.add_argument("--rounds", type=int, default=9, help="blocks of each observer")
    given = options.parse_args(argv)
    if given.quick:
        given.runs, given.rounds = 150, 3
    asyncio.run(run(given))


if __name__ == "__main__":
    main()
