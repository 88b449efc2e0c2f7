"""What observers cost a run: CPU of the process with each of them attached, against none.

Two figures. `calls`: the calls that runs make to an observer are recorded once and made again, many
times, alone; this is exact, and flattering, for nothing else uses the processor's caches. `runs`:
whole runs, a block of one observer after a block without any, in turns; a difference of two large
numbers, so shown with where the true median lies with a probability of 95 %. `nothing again` is a
second `Durable` without observers: what it differs by is what this way of measuring does not see.

The CPU of all threads counts, so that of OpenTelemetry's own thread for export, too, which here
hands the spans to an exporter that drops them: how they leave the process is the exporter's doing.
"""

from __future__ import annotations

import argparse
import asyncio
import gc
import math
import os
import time
from collections.abc import AsyncGenerator, Awaitable, Callable, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from contextvars import Context, copy_context
from dataclasses import replace
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
from aiodurable.events import AttemptStarted, Event, Observer
from aiodurable.integrations.opentelemetry import OpenTelemetryObserver
from aiodurable.integrations.prometheus import PrometheusObserver

from .contenders import Run, four_nodes
from .machine import describe
from .report import Row, parser, save, table
from .rounds import Figures, Measured, in_turns, spread
from .runs import crowd

AT_ONCE = 50
RECORDED = 500
NOTHING, AGAIN, CALLS = "nothing", "nothing again", "calls: "
HEADS = {
    "observer": "observer",
    "calls_us": "calls, µs a run",
    "calls_share": "% of a run",
    "run_us": "runs, µs a run",
    "low_us": "from",
    "high_us": "to",
    "run_share": "% of a run",
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


OBSERVERS: dict[str, Callable[[], Observer]] = {
    "Prometheus": PrometheusObserver,
    "OpenTelemetry, not sampled": partial(traced, ALWAYS_OFF),
    "OpenTelemetry": traced,
    "OpenTelemetry, one span a run": partial(traced, detailed_per_s=0),
    "OpenTelemetry, all in detail": partial(traced, detailed_per_s=math.inf),
}


class Recorder:
    """Notes the calls that an observer gets, with the context in which it gets them."""

    inline = True

    def __init__(self) -> None:
        self.calls: list[tuple[str, Any]] = []

    def __call__(self, event: Event) -> None:
        self.calls.append(("event", event))

    def traceparent(self, *given: str | None) -> None:
        self.calls.append(("traceparent", given))

    def enter(self, thread_id: str) -> Callable[[], None]:
        self.calls.append(("enter", thread_id))
        return lambda: self.calls.append(("leave", thread_id))


class Silent:
    """Gets the calls and does nothing."""

    def __call__(self, event: Event) -> None:
        pass

    def traceparent(self, *given: str | None) -> None:
        pass

    def enter(self, thread_id: str) -> Callable[[], None]:  # noqa: ARG002
        return _nothing


def _nothing() -> None:
    pass


def replay(calls: Sequence[tuple[str, Any]], observer: Any) -> None:
    """Make the same calls again."""
    contexts = dict[str, Context]()
    accepted = dict[str, str | None]()
    leaving = dict[str, Callable[[], None]]()
    provide, enter = getattr(observer, "traceparent", None), getattr(observer, "enter", None)
    for kind, given in calls:
        if kind == "event":
            event = given
            if type(event) is AttemptStarted and provide is not None:
                event = replace(event, traceparent=accepted[event.thread_id])
            observer(event)
        elif kind == "traceparent" and provide is not None:
            accepted[given[1]] = provide(*given)
        elif kind == "enter" and enter is not None:
            contexts[given] = copy_context()
            leaving[given] = contexts[given].run(enter, given)
        elif kind == "leave" and enter is not None:
            contexts[given].run(leaving[given])


async def calls_us(calls: Sequence[tuple[str, Any]], observer: Any) -> Figures:
    """CPU of a run's calls, in µs."""
    gc.collect()
    began = time.process_time()
    replay(calls, observer)
    return {"us": (time.process_time() - began) * 1e6 / RECORDED}


@asynccontextmanager
async def four(dsn: str, observers: Sequence[Observer]) -> AsyncGenerator[Run, None]:
    """Runs of four nodes that do nothing, with these observers."""
    async with Durable(dsn, graphs={"four": four_nodes(0)}, observers=observers) as durable:

        async def run(thread_id: str) -> Any:
            async with durable.run(thread_id, "four") as opened:
                return await opened.ainvoke({"count": 0})

        await crowd(run, 2 * AT_ONCE, AT_ONCE)
        yield run


async def recorded(dsn: str, runs: int) -> Sequence[tuple[str, Any]]:
    """The calls that so many runs make."""
    recorder = Recorder()
    async with four(dsn, [recorder]) as run:
        recorder.calls.clear()
        await crowd(run, runs, AT_ONCE)
    return recorder.calls


async def block_us(run: Run, runs: int) -> Figures:
    """CPU of the process for a run, in µs."""
    gc.collect()
    began = time.process_time()
    await crowd(run, runs, AT_ONCE)
    return {"us": (time.process_time() - began) * 1e6 / runs}


def more(measured: Measured, name: str, than: str) -> list[float]:
    """How many µs more than the other, round by round."""
    return [
        one["us"] - other["us"] for one, other in zip(measured[name], measured[than], strict=True)
    ]


async def run(options: argparse.Namespace) -> None:
    async with AsyncExitStack() as stack:
        dsn = os.environ.get("AIODURABLE_DSN") or await stack.enter_async_context(
            embedded_postgres(durable=False)
        )
        calls = await recorded(dsn, RECORDED)
        blocks = dict[str, Callable[[], Awaitable[Figures]]]()
        for name, make in {NOTHING: None, AGAIN: None, **OBSERVERS}.items():
            observers = () if make is None else (make(),)
            opened = await stack.enter_async_context(four(dsn, observers))
            blocks[name] = partial(block_us, opened, options.runs)
        for name, make in {NOTHING: Silent, **OBSERVERS}.items():
            blocks[CALLS + name] = partial(calls_us, calls, make())
        measured = await in_turns(blocks, options.rounds)
        admin = await asyncpg.connect(**parse_dsn(dsn).asyncpg)
        stack.push_async_callback(admin.close)
        machine = describe(await admin.fetchval("SHOW server_version"))
    base = [one["us"] for one in measured[NOTHING]]
    rows: list[Row] = []
    for name in (AGAIN, *OBSERVERS):
        whole = more(measured, name, NOTHING)
        row = {
            "observer": name,
            "run_share": spread([100 * us / of for us, of in zip(whole, base, strict=True)]).median,
            "run_us": spread(whole).median,
            "low_us": spread(whole).low,
            "high_us": spread(whole).high,
        }
        if name != AGAIN:
            alone = more(measured, CALLS + name, CALLS + NOTHING)
            row["calls_us"] = spread(alone).median
            row["calls_share"] = spread(
                [100 * us / of for us, of in zip(alone, base, strict=True)]
            ).median
        rows.append(row)
    each = spread(base).median
    print(f"a run without observers: {each:,.0f} µs of CPU\n\n{table(rows, HEADS)}")
    if options.json:
        save(options.json, machine, rows, run_us=each, rounds=options.rounds, runs=options.runs)


def main(argv: Sequence[str] | None = None) -> None:
    options = parser(__doc__, "observers", svg=False)
    options.add_argument("--runs", type=int, default=200, help="of a block")
    options.add_argument("--rounds", type=int, default=30, help="blocks of each observer")
    given = options.parse_args(argv)
    if given.quick:
        given.runs, given.rounds = 50, 7
    asyncio.run(run(given))


if __name__ == "__main__":
    main()
