"""Traces: the spans of a run lead back to the call that accepted it, whatever process runs it."""

from __future__ import annotations

import asyncio
import gc
import math
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import psycopg
import pytest
from langgraph.graph import END, START, StateGraph
from opentelemetry import trace
from opentelemetry.proto.collector.metrics.v1.metrics_service_pb2 import (
    ExportMetricsServiceRequest,
)
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest
from opentelemetry.sdk.metrics import MeterProvider
from opentelemetry.sdk.metrics.export import InMemoryMetricReader
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from opentelemetry.sdk.trace.sampling import ALWAYS_OFF, ALWAYS_ON, Sampler
from opentelemetry.trace import StatusCode

from aiodurable import Durable, RetryPolicy
from aiodurable.errors import InvalidArgumentError
from aiodurable.events import (
    AttemptEnded,
    AttemptStarted,
    BatchCommitted,
    CircuitChanged,
    LeaseAcquired,
    LeaseReleased,
    emit,
)
from aiodurable.integrations.opentelemetry import OpenTelemetryObserver
from aiodurable.integrations.process_metrics import PROCESS_METRICS
from aiodurable.models import RunStatus
from tests.support.forked import python
from tests.support.waiting import wait_until


class Traced:
    """A `Durable`'s observer, with what it has sent."""

    def __init__(self, sampler: Sampler = ALWAYS_ON, **options: Any) -> None:
        self.exporter = InMemorySpanExporter()
        self.provider = TracerProvider(sampler)
        self.provider.add_span_processor(SimpleSpanProcessor(self.exporter))
        self.reader = InMemoryMetricReader()
        self.observer = OpenTelemetryObserver(
            tracer_provider=self.provider, meter_provider=MeterProvider([self.reader]), **options
        )
        self.tracer = self.provider.get_tracer("the app")

    def spans(self, name: str) -> list[Any]:
        return [span for span in self.exporter.get_finished_spans() if span.name == name]


def graph(node: Any) -> Any:
    return StateGraph(dict).add_node("node", node).add_edge(START, "node").add_edge("node", END)


async def test_a_worker_s_spans_are_in_the_trace_of_whoever_accepted_the_run(dsn: str) -> None:
    creator, worker = Traced(), Traced()

    async def node(state: Any) -> Any:
        with worker.tracer.start_as_current_span("of the node"):
            return {"done": True}

    async with Durable(dsn, graphs={"story": graph(node)}, observers=[creator.observer]) as one:
        with creator.tracer.start_as_current_span("the request") as request:
            run = await one.runs.create("thread-1", "story", {"a": 1})
    async with (
        Durable(dsn, graphs={"story": graph(node)}, observers=[worker.observer]) as two,
        two.work(),
    ):
        await two.runs.wait(run.run_id)
        await wait_until(lambda: worker.spans("lease"))
    trace_id = request.get_span_context().trace_id
    (invoked,) = worker.spans("invoke_workflow story")
    assert invoked.context.trace_id == trace_id
    assert invoked.parent.span_id == request.get_span_context().span_id
    assert invoked.attributes["gen_ai.operation.name"] == "invoke_workflow"
    assert invoked.attributes["gen_ai.workflow.name"] == "story"
    assert invoked.attributes["gen_ai.conversation.id"] == "thread-1"
    (attempt,) = worker.spans("attempt 1")
    assert attempt.parent.span_id == invoked.context.span_id
    (of_node,) = worker.spans("of the node")
    assert of_node.parent.span_id == attempt.context.span_id
    (lease,) = worker.spans("lease")
    assert lease.context.trace_id == trace_id
    linked = {
        link.context.span_id for batch in worker.spans("commit_checkpoints") for link in batch.links
    }
    assert attempt.context.span_id in linked


async def test_one_observer_of_two_databases_keeps_their_runs_apart(
    dsn: str, empty_dsn: str
) -> None:
    """Both have a thread of the same name, and both are at work on it."""
    traced, both = Traced(), asyncio.Barrier(2)

    def story(name: str) -> Any:
        async def node(state: Any) -> Any:
            await both.wait()
            with traced.tracer.start_as_current_span(f"of the node of {name}"):
                return {"done": True}

        return graph(node).compile(name=name)

    async def run(where: str, name: str) -> None:
        async with Durable(where, observers=[traced.observer]) as durable:
            async with durable.run("thread-1", story(name)) as run:
                await run.ainvoke({"a": 1})

    await asyncio.gather(run(dsn, "one"), run(empty_dsn, "two"))
    assert len(traced.spans("attempt 1")) == len(traced.spans("lease")) == 2
    for name in ("one", "two"):
        (invoked,) = traced.spans(f"invoke_workflow {name}")
        (of_node,) = traced.spans(f"of the node of {name}")
        (attempt,) = [s for s in traced.spans("attempt 1") if s.parent == invoked.context]
        assert of_node.parent == attempt.context
        assert invoked.attributes["aiodurable.status"] == "complete"


class Named(OpenTelemetryObserver):
    """Counts attempts by the name that it was made with."""

    def __init__(self, traced: Traced, name: str, counts: dict[str, int]) -> None:
        super().__init__(tracer_provider=traced.provider)
        self.name, self.counts = name, counts

    def __call__(self, event: Any) -> None:
        super().__call__(event)
        if isinstance(event, AttemptEnded):
            self.counts[self.name] = self.counts.get(self.name, 0) + 1


class Wrapper:
    """Counts attempts; all else is the observer's in it."""

    def __init__(self, inner: OpenTelemetryObserver) -> None:
        self.inner, self.attempts = inner, 0

    def __getattr__(self, name: str) -> Any:
        return getattr(self.inner, name)

    def __call__(self, event: Any) -> None:
        self.attempts += isinstance(event, AttemptEnded)
        self.inner(event)


async def test_each_durable_gets_a_subclass_s_observer_as_it_was_made(dsn: str) -> None:
    traced, counts = Traced(), dict[str, int]()
    observer = Named(traced, "ours", counts)
    for number in range(3):
        async with Durable(dsn, observers=[observer]) as durable:
            async with durable.run(f"t{number}", graph(lambda _: {"done": True})) as run:
                await run.ainvoke({"a": 1})
    assert counts == {"ours": 3}
    assert len(traced.spans("attempt 1")) == 3


async def test_a_wrapper_around_the_observer_gets_its_events(dsn: str) -> None:
    traced = Traced()
    wrapper = Wrapper(traced.observer)
    async with Durable(dsn, observers=[wrapper]) as durable:
        async with durable.run("t", graph(lambda _: {"done": True})) as run:
            await run.ainvoke({"a": 1})
    assert wrapper.attempts == 1
    assert len(traced.spans("attempt 1")) == 1


async def test_attempts_are_linked_to_where_the_run_was_accepted_and_share_its_trace(
    dsn: str,
) -> None:
    traced, calls = Traced(), 0

    async def node(state: Any) -> Any:
        nonlocal calls
        calls += 1
        if calls == 1:
            raise ValueError(f"SECRET {state}")
        return {"done": True}

    async with Durable(dsn, graphs={"story": graph(node)}, observers=[traced.observer]) as durable:
        policy = RetryPolicy(max_attempts=2, initial_s=0.01)
        run = await durable.runs.create("thread-1", "story", {"a": 1}, retry_policy=policy)
        async with durable.work():
            await durable.runs.wait(run.run_id)
            await wait_until(lambda: len(traced.spans("invoke_workflow story")) == 2)
    (accepted,) = traced.spans("create_run story")
    first, second = traced.spans("invoke_workflow story")
    assert {first.context.trace_id, second.context.trace_id} == {accepted.context.trace_id}
    assert first.status.status_code is StatusCode.ERROR
    assert second.status.status_code is not StatusCode.ERROR
    assert not first.links
    assert [link.context.span_id for link in second.links] == [accepted.context.span_id]
    assert [len(traced.spans(f"attempt {n}")) for n in (1, 2)] == [1, 1]
    assert "SECRET" not in "".join(span.to_json() for span in traced.exporter.get_finished_spans())
    async with await psycopg.AsyncConnection.connect(dsn) as conn:
        rows = await conn.execute("SELECT traceparent FROM aiodurable_runs")
        (stored,) = (row[0] for row in await rows.fetchall())
    assert f"{accepted.context.trace_id:032x}" in stored


async def test_a_direct_run_is_a_child_of_its_caller_which_it_leaves_current(dsn: str) -> None:
    traced = Traced()

    async def node(state: Any) -> Any:
        return {"done": True}

    async with Durable(dsn, observers=[traced.observer]) as durable:
        with traced.tracer.start_as_current_span("the request") as request:
            async with durable.run("thread-1", graph(node)) as run:
                await run.ainvoke({"a": 1})
            assert trace.get_current_span() is request
    spans = traced.exporter.get_finished_spans()
    (invoked,) = (span for span in spans if span.name.startswith("invoke_workflow"))
    assert invoked.parent is not None
    assert invoked.parent.span_id == request.get_span_context().span_id


async def test_the_span_of_a_direct_run_is_where_its_later_attempts_lead_back_to(dsn: str) -> None:
    traced, calls = Traced(), 0

    async def node(state: Any) -> Any:
        nonlocal calls
        calls += 1
        if calls == 1:
            raise ValueError("the first call")
        return {"done": True}

    async with Durable(dsn, observers=[traced.observer]) as durable:
        with pytest.raises(ValueError, match="the first call"):
            async with durable.run("thread-1", graph(node)) as run:
                await run.ainvoke({"a": 1})
        async with durable.run("thread-1", graph(node)) as run:
            await run.ainvoke()
    spans: list[Any] = list(traced.exporter.get_finished_spans())
    first, second = (span for span in spans if span.name.startswith("invoke_workflow"))
    assert not [span for span in spans if span.name.startswith("create_run")]
    assert first.parent is None
    assert first.attributes["aiodurable.run_id"] == second.attributes["aiodurable.run_id"]
    assert first.attributes["gen_ai.conversation.id"] == "thread-1"
    assert (first.attributes["aiodurable.resumed"], second.attributes["aiodurable.resumed"]) == (
        False,
        True,
    )
    assert second.context.trace_id == first.context.trace_id
    assert [link.context.span_id for link in second.links] == [first.context.span_id]


async def test_a_run_that_is_not_sampled_has_no_span_and_neither_has_its_node(dsn: str) -> None:
    traced, contexts = Traced(ALWAYS_OFF), list[Any]()

    async def node(state: Any) -> Any:
        contexts.append(trace.get_current_span().get_span_context())
        return {"done": True}

    async with Durable(dsn, observers=[traced.observer]) as durable:
        async with durable.run("thread-1", graph(node)) as run:
            await run.ainvoke({"a": 1})
    (context,) = contexts
    assert context.is_valid
    assert not context.trace_flags.sampled
    assert not traced.exporter.get_finished_spans()


async def test_runs_beyond_those_that_are_detailed_have_one_span_each(dsn: str) -> None:
    traced = Traced(detailed_per_s=0.001)  # its bucket holds one, and gets no other in time

    async def node(state: Any) -> Any:
        with traced.tracer.start_as_current_span("of the node"):
            return {"done": True}

    async with Durable(dsn, graphs={"story": graph(node)}, observers=[traced.observer]) as durable:
        for thread_id in ("thread-1", "thread-2"):
            async with durable.run(thread_id, "story") as run:
                await run.ainvoke({"a": 1})
    spans: list[Any] = list(traced.exporter.get_finished_spans())
    first, second = traced.spans("invoke_workflow story")
    of = {
        one: {span.name for span in spans if span.context.trace_id == one.context.trace_id}
        for one in (first, second)
    }
    assert of[first] == {"invoke_workflow story", "attempt 1", "lease", "of the node"}
    assert of[second] == {"invoke_workflow story", "of the node"}
    assert traced.spans("of the node")[1].parent.span_id == second.context.span_id
    for run_span in (first, second):
        assert run_span.attributes["aiodurable.attempt"] == 1
        assert run_span.attributes["aiodurable.status"] == "complete"
    linked = [
        link.context.span_id for batch in traced.spans("commit_checkpoints") for link in batch.links
    ]
    assert set(linked) == {span.context.span_id for span in traced.spans("attempt 1")}


class Unstorable:
    def __repr__(self) -> str:
        return "SECRET"


async def test_the_span_of_a_run_that_is_not_accepted_ends_with_the_error(dsn: str) -> None:
    traced = Traced()

    async def node(state: Any) -> Any:
        return {"done": True}

    async with Durable(dsn, graphs={"story": graph(node)}, observers=[traced.observer]) as durable:
        with pytest.raises(InvalidArgumentError) as refused:
            async with durable.run("thread-1", "story") as run:
                await run.ainvoke({"a": Unstorable()})
        async with durable.run("thread-1", "story") as run:
            await run.ainvoke({"a": 1})
    first, second = traced.spans("invoke_workflow story")
    assert first.attributes["error.type"] == type(refused.value).__name__
    assert first.status.status_code is StatusCode.ERROR
    assert second.status.status_code is StatusCode.UNSET
    assert first.context.trace_id != second.context.trace_id
    assert "SECRET" not in first.to_json()


EVENTS = (
    LeaseAcquired("thread-1", token=1, waited_s=0.001),
    AttemptStarted("thread-1", run_id="run-1", graph="story", attempt=1, resumed=False),
    BatchCommitted(("thread-1",), writes=5, duration_s=0.002),
    AttemptEnded(
        "thread-1",
        run_id="run-1",
        graph="story",
        status=RunStatus.COMPLETE,
        duration_s=0.01,
        error=None,
        attempt=1,
    ),
    LeaseReleased("thread-1", token=1, held_s=0.01),
)


@pytest.mark.parametrize(
    ("sampler", "detailed_per_s", "most"),
    [(ALWAYS_ON, math.inf, 800), (ALWAYS_ON, 0, 420), (ALWAYS_OFF, math.inf, 300)],
)
def test_a_run_costs_the_observer_a_bounded_number_of_calls(
    sampler: Sampler, detailed_per_s: float, most: int
) -> None:
    observer = Traced(sampler, detailed_per_s=detailed_per_s).observer

    def run() -> None:
        accepted = observer.traceparent("story", "thread-1", "run-1")
        for event in EVENTS:
            begins = isinstance(event, AttemptStarted)
            emit((observer,), replace(event, traceparent=accepted) if begins else event)

    run()  # the first makes the series of the metrics
    calls = 0

    def count(frame: Any, event: str, argument: Any) -> None:
        nonlocal calls
        calls += event in ("call", "c_call")

    gc.disable()  # what other tests left would be finalized in between, and counted
    sys.setprofile(count)
    try:
        run()
    finally:
        sys.setprofile(None)
        gc.enable()
    assert calls <= most


async def test_a_lock_with_the_thread_s_name_ends_no_span_of_its_run(dsn: str) -> None:
    traced, open_spans = Traced(), list[bool]()

    async with Durable(dsn, observers=[traced.observer]) as durable:

        async def node(state: Any) -> Any:
            async with durable.locks.hold("thread-1"):
                pass
            open_spans.append(trace.get_current_span().is_recording())
            return {"done": True}

        async with durable.run("thread-1", graph(node)) as run:
            await run.ainvoke({"a": 1})
    assert open_spans == [True]
    (attempt,) = traced.spans("attempt 1")
    assert attempt.attributes["aiodurable.status"] == "complete"
    assert len(traced.spans("lease")) == 2


async def test_the_metrics_are_those_of_prometheus_without_a_thread_s_id(dsn: str) -> None:
    traced = Traced()

    async def node(state: Any) -> Any:
        return {"done": True}

    async with Durable(dsn, graphs={"story": graph(node)}, observers=[traced.observer]) as durable:
        async with durable.run("thread-1", "story") as run:
            await run.ainvoke({"a": 1})
    data = traced.reader.get_metrics_data()
    assert data is not None
    found = {
        metric.name for r in data.resource_metrics for s in r.scope_metrics for metric in s.metrics
    }
    known = {m.name.removesuffix("_total").replace("_", ".", 1) for m in PROCESS_METRICS}
    assert "aiodurable.attempts" in found
    assert found <= known
    assert "thread-1" not in data.to_json()


async def test_it_may_trace_alone_where_another_observer_counts(dsn: str) -> None:
    traced = Traced(metrics=False)

    async def node(state: Any) -> Any:
        return {"done": True}

    async with Durable(dsn, graphs={"story": graph(node)}, observers=[traced.observer]) as durable:
        async with durable.run("thread-1", "story") as run:
            await run.ainvoke({"a": 1})
    assert traced.reader.get_metrics_data() is None
    assert traced.spans("invoke_workflow story")


def test_two_observers_of_a_process_add_up() -> None:
    """Two `Durable`, each with its own: the SDK drops what a second instrument of a name says."""
    reader = InMemoryMetricReader()
    provider = MeterProvider([reader])
    one, two = (OpenTelemetryObserver(meter_provider=provider) for _ in range(2))
    for observer in (one, two):
        for event in EVENTS[:-1]:
            observer(event)
    two(CircuitChanged("open"))

    def values() -> dict[str, Any]:
        data = reader.get_metrics_data()
        assert data is not None
        return {
            metric.name.removeprefix("aiodurable."): [
                getattr(point, "value", getattr(point, "count", None))
                for point in metric.data.data_points
            ]
            for resource in data.resource_metrics
            for scope in resource.scope_metrics
            for metric in scope.metrics
        }

    found = values()
    assert found["attempts_started"] == [2]
    assert found["attempt_duration_seconds"] == [2]
    assert found["process_leases_held"] == [2]
    assert found["circuit_open"] == [1]
    del two, observer
    gc.collect()
    found = values()
    assert (found["attempts_started"], found["process_leases_held"]) == ([2], [1])


class Received:
    """What a collector got by OTLP over HTTP."""

    def __init__(self) -> None:
        self.spans: list[Any] = []
        self.metrics: list[str] = []


@contextmanager
def collector() -> Iterator[tuple[str, Received]]:
    """A real server in the place of a collector, which decodes the protobuf that it gets."""
    received = Received()

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers["content-length"]))
            if self.path == "/v1/traces":
                spans = ExportTraceServiceRequest.FromString(body)
                for resource in spans.resource_spans:
                    for scope in resource.scope_spans:
                        received.spans += scope.spans
            elif self.path == "/v1/metrics":
                sent = ExportMetricsServiceRequest.FromString(body)
                for of in sent.resource_metrics:
                    for scope in of.scope_metrics:
                        received.metrics += [metric.name for metric in scope.metrics]
            self.send_response(200)
            self.send_header("content-length", "0")
            self.end_headers()

        def log_message(self, format: str, *args: Any) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_port}", received
    finally:
        server.shutdown()
        server.server_close()


async def test_a_worker_process_sends_the_trace_of_a_run_to_a_collector(dsn: str) -> None:
    creator = Traced()

    async def node(state: Any) -> Any:
        return {"done": True}

    with collector() as (url, received):
        async with Durable(dsn, graphs={"story": graph(node)}, observers=[creator.observer]) as one:
            with creator.tracer.start_as_current_span("the request") as request:
                run = await one.runs.create("thread-1", "story", {"a": 1})
            process = await python("-m", "tests.programs.traced_worker", dsn, url)
            try:
                await one.runs.wait(run.run_id)
            finally:
                process.terminate()
                await asyncio.wait_for(process.wait(), 60)
    trace_id = request.get_span_context().trace_id.to_bytes(16, "big")
    ours = [span for span in received.spans if span.trace_id == trace_id]
    assert {span.name for span in ours} == {"invoke_workflow story", "attempt 1", "lease"}
    (invoked,) = (span for span in ours if span.name.startswith("invoke"))
    assert invoked.parent_span_id == request.get_span_context().span_id.to_bytes(8, "big")
    assert {"aiodurable.attempts", "aiodurable.batch_commit_seconds"} <= set(received.metrics)
