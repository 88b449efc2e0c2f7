"""A worker that sends its traces and metrics by OTLP over HTTP: DSN and the collector's address."""

from __future__ import annotations

import asyncio
import sys
from typing import Any

from langgraph.graph import END, START, StateGraph
from opentelemetry.exporter.otlp.proto.http.metric_exporter import OTLPMetricExporter
from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
from opentelemetry.sdk.metrics import MeterProvider
from opentelemetry.sdk.metrics.export import PeriodicExportingMetricReader
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import BatchSpanProcessor

from aiodurable import Durable
from aiodurable.integrations.opentelemetry import OpenTelemetryObserver


async def node(state: Any) -> Any:
    return {"done": True}


async def main(dsn: str, url: str) -> None:
    tracers = TracerProvider()
    tracers.add_span_processor(BatchSpanProcessor(OTLPSpanExporter(f"{url}/v1/traces")))
    exporter = OTLPMetricExporter(f"{url}/v1/metrics")
    meters = MeterProvider([PeriodicExportingMetricReader(exporter)])
    observer = OpenTelemetryObserver(tracer_provider=tracers, meter_provider=meters)
    graph = StateGraph(dict).add_node("node", node).add_edge(START, "node").add_edge("node", END)
    async with Durable(dsn, graphs={"story": graph}, observers=[observer]) as durable:
        async with durable.work() as worker:
            await worker.run_forever(signals=True)
    tracers.shutdown()
    meters.shutdown()


if __name__ == "__main__":
    asyncio.run(main(*sys.argv[1:]))
