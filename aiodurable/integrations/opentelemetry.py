"""OpenTelemetry: an observer that makes spans and metrics by its API. Install
`aiodurable[opentelemetry]`, and an SDK that exports them.

- `create_run {graph}`: a run was accepted outside of any span, for a worker. Inside of one, that
  span takes its place.
- `invoke_workflow {graph}`: a process advances a run; a child of the span in which the run was
  accepted, whatever process that was. A later attempt is also linked to it.
- `attempt {n}`: one attempt; the spans of what its nodes do are its children.
- `lease`: how long a thread was held for it.
- `commit_checkpoints`: a batch, linked to the runs whose checkpoints it has.

The last three are details, for so many runs a second: a process that begins more than that gives
the others their `invoke_workflow` alone, so that the cost is bounded. Where the SDK's sampler
leaves a run out, its details are left out without asking.
The thread's id is in spans (`gen_ai.conversation.id`), never in a metric.
"""

from __future__ import annotations

import copy
import time
from collections import OrderedDict
from collections.abc import Callable, Collection
from dataclasses import dataclass
from functools import partial
from typing import Any, Final

from opentelemetry import context as otel_context
from opentelemetry import trace
from opentelemetry.context import Context
from opentelemetry.metrics import MeterProvider
from opentelemetry.trace import Link, Span, SpanContext, SpanKind, Status, StatusCode
from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator

from aiodurable.events import (
    AttemptEnded,
    AttemptStarted,
    BatchCommitted,
    Event,
    LeaseAcquired,
    LeaseLost,
    LeaseReleased,
    RunNotAccepted,
)
from aiodurable.integrations.allowance import Allowance
from aiodurable.integrations.opentelemetry_metrics import instruments_of
from aiodurable.integrations.process_metrics import ProcessMetrics
from aiodurable.models import RunStatus

__all__ = ["OpenTelemetryObserver"]

_W3C: Final = TraceContextTextMapPropagator()
_NO_PARENT: Final = Context()
_BAD: Final = (RunStatus.FAILED, RunStatus.QUARANTINED, RunStatus.REJECTED)
_MOST_LINKS: Final = 64
_MOST_LEASES: Final = 20_000
"""Leases that are remembered for their spans; the oldest are forgotten."""


@dataclass(slots=True)
class _Held:
    """A lease, and the context of the run that it is for."""

    at_ns: int
    waited_s: float
    context: Context | None = None
    detailed: bool | None = None
    """None: no run says so; it may be a lock of the caller's own."""
    lost: bool = False


@dataclass(slots=True)
class _AtWork:
    """A run at work here, and the lease that it has."""

    run: Span
    attempt: Span
    """The run's own where the run has no details."""
    lease: tuple[str, int, bool] | None
    detailed: bool

    def end(self) -> None:
        if self.detailed:
            self.attempt.end()
        self.run.end()


class OpenTelemetryObserver:
    """Traces runs, and counts what happens: `Durable(…, observers=[OpenTelemetryObserver()])`.

    It is inline: the spans that nodes start are children of their attempt's. Several `Durable` may
    be given the same one: each has its own runs, and its own share of details.

    Args:
        tracer_provider, meter_provider: None: the global ones.
        graphs: names of graphs that may be attributes of metrics; None: the first 100.
        metrics: whether it counts, too; not, where Prometheus does.
        leases, batches: whether these get spans, too.
        detailed_per_s: runs a second, of those that are sampled, whose attempt, lease and batches
            get spans of their own; `math.inf`: all, 0: none. Bursts of a second's worth are.
    """

    inline = True

    def __init__(
        self,
        *,
        tracer_provider: trace.TracerProvider | None = None,
        meter_provider: MeterProvider | None = None,
        graphs: Collection[str] | None = None,
        metrics: bool = True,
        leases: bool = True,
        batches: bool = True,
        detailed_per_s: float = 10.0,
    ) -> None:
        self._reset = partial(
            OpenTelemetryObserver.__init__,
            tracer_provider=tracer_provider,
            meter_provider=meter_provider,
            graphs=graphs,
            metrics=metrics,
            leases=leases,
            batches=batches,
            detailed_per_s=detailed_per_s,
        )
        self._taken = False
        self._tracer = trace.get_tracer("aiodurable", tracer_provider=tracer_provider)
        self._leases = leases
        self._held = OrderedDict[tuple[str, int, bool], _Held]()
        self._newest = dict[str, tuple[str, int, bool]]()
        self._at_work = dict[str, _AtWork]()
        """By thread: one run of a thread is at work at a time."""
        self._begun = dict[str, tuple[Span, str]]()
        """By thread: spans of runs that are being accepted, to begin here, and their headers."""
        self._details = Allowance(detailed_per_s)
        self._count: Callable[[Event], None] | None = None
        if metrics:
            self._count = ProcessMetrics(instruments_of(meter_provider).bind, graphs)
        self._trace: dict[type[Event], Callable[[Any], None]] = {
            LeaseAcquired: self._acquired,
            LeaseLost: self._lost,
            LeaseReleased: self._released,
            RunNotAccepted: self._not_accepted,
            AttemptStarted: self._started,
            AttemptEnded: self._ended,
        }
        if batches:
            self._trace[BatchCommitted] = self._committed

    def for_a_durable(self) -> OpenTelemetryObserver:
        """This observer for the first `Durable` that asks, and for each other one a new one: runs
        are known by their threads, and two databases may have the same ones.
        """
        if not self._taken:
            self._taken = True
            return self
        another = copy.copy(self)  # of a subclass, too, whatever its constructor takes
        self._reset(another)
        return another

    def traceparent(
        self, graph: str | None, thread_id: str | None = None, run_id: str | None = None
    ) -> str | None:
        """The context in which a run is accepted now, for its row in the ledger.

        Args:
            graph: the run's graph.
            thread_id, run_id: of a run that begins here at once: its own span then takes the place
                of `create_run`.
        """
        current = trace.get_current_span().get_span_context()
        if current.is_valid:
            return _header(current)
        if thread_id is None or run_id is None:
            span = self._tracer.start_span(
                _named("create_run", graph), context=_NO_PARENT, kind=SpanKind.PRODUCER
            )
            span.end()
            return _header(span.get_span_context())
        span = self._tracer.start_span(
            _named("invoke_workflow", graph),
            context=_NO_PARENT,
            attributes=_attributes(thread_id, run_id, graph),
        )
        header = _header(span.get_span_context())
        self._begun[thread_id] = span, header
        return header

    def enter(self, thread_id: str) -> Callable[[], None]:
        """Make the span of the thread's attempt the current one, until the result is called."""
        work = self._at_work.get(thread_id)
        if work is None:
            return _nothing
        before = otel_context.get_current()
        inside = trace.set_span_in_context(work.attempt, before)
        otel_context.attach(inside)

        def leave() -> None:
            # No detach(): a stream may be closed in another context than it began in.
            if otel_context.get_current() is inside:
                otel_context.attach(before)

        return leave

    def __call__(self, event: Event) -> None:
        """Trace and count one event."""
        if self._count is not None:
            self._count(event)
        trace_it = self._trace.get(type(event))
        if trace_it is not None:
            trace_it(event)

    def _not_accepted(self, event: RunNotAccepted) -> None:
        begun = self._begun.pop(event.thread_id, None)
        if begun is not None and begun[0].is_recording():
            span, _ = begun
            span.set_attribute("error.type", event.error)
            span.set_status(Status(StatusCode.ERROR, event.error))
            span.end()

    def _started(self, event: AttemptStarted) -> None:
        run, header = self._begun.pop(event.thread_id, (None, None))
        if run is None or header != event.traceparent:
            run = self._invoked(event)
        elif event.resumed:  # what plain LangGraph left is accepted and gone on with at once
            run.set_attribute("aiodurable.resumed", True)
        detailed = run.is_recording() and self._details.take()
        within = trace.set_span_in_context(run) if detailed else None
        attempt = run
        if detailed:
            attempt = self._tracer.start_span(
                f"attempt {event.attempt}",
                context=within,
                attributes={
                    "aiodurable.attempt": event.attempt,
                    "aiodurable.run_id": event.run_id,
                },
            )
        self._end(event.thread_id)
        lease = self._newest.get(event.thread_id)
        self._at_work[event.thread_id] = _AtWork(run, attempt, lease, detailed)
        held = None if lease is None else self._held.get(lease)
        if held is not None:
            held.context, held.detailed = within, detailed

    def _invoked(self, event: AttemptStarted) -> Span:
        """The span of a run that was accepted before."""
        accepted = (
            _NO_PARENT
            if event.traceparent is None
            else _W3C.extract({"traceparent": event.traceparent}, context=_NO_PARENT)
        )
        origin = trace.get_current_span(accepted).get_span_context()
        here = otel_context.get_current()
        caller = trace.get_current_span(here).get_span_context()
        # A call inside of a span of the same trace is that span's child; all else is the child of
        # the span in which the run was accepted.
        inside = caller.is_valid and (not origin.is_valid or caller.trace_id == origin.trace_id)
        links = list[Link]()
        if origin.is_valid and (event.attempt > 1 or event.resumed):
            links.append(Link(origin, {"aiodurable.link": "accepted"}))
        if caller.is_valid and not inside:
            links.append(Link(caller, {"aiodurable.link": "caller"}))
        return self._tracer.start_span(
            _named("invoke_workflow", event.graph),
            context=here if inside else accepted,
            attributes=_attributes(
                event.thread_id, event.run_id, event.graph, event.attempt, resumed=event.resumed
            ),
            links=links,
        )

    def _ended(self, event: AttemptEnded) -> None:
        work = self._at_work.pop(event.thread_id, None)
        if work is None:
            return
        if not work.run.is_recording():
            return
        for span in (work.run, work.attempt) if work.detailed else (work.run,):
            span.set_attribute("aiodurable.status", event.status.value)
            if event.error is not None:
                span.set_attribute("error.type", event.error)
            if event.status in _BAD:
                # The type alone: the text of an exception may quote a state.
                span.set_status(Status(StatusCode.ERROR, event.error))
        work.end()

    def _acquired(self, event: LeaseAcquired) -> None:
        key = (event.thread_id, event.token, event.of_thread)
        self._held[key] = _Held(time.time_ns(), event.waited_s)
        if event.of_thread:
            self._newest[event.thread_id] = key
        while len(self._held) > _MOST_LEASES:
            old, _ = self._held.popitem(last=False)
            self._forget(old)

    def _lost(self, event: LeaseLost) -> None:
        held = self._held.get((event.thread_id, event.token, event.of_thread))
        if held is not None:
            held.lost = True

    def _released(self, event: LeaseReleased) -> None:
        key = (event.thread_id, event.token, event.of_thread)
        held = self._held.pop(key, None)
        self._forget(key)
        work = self._at_work.get(event.thread_id)
        if work is not None and work.lease == key:
            # What an attempt that lost its lease left open: its new holder says how the run ends.
            self._end(event.thread_id)
        if held is None or not self._leases:
            return
        if not (self._details.take() if held.detailed is None else held.detailed):
            return
        span = self._tracer.start_span(
            "lease",
            context=held.context or _NO_PARENT,
            start_time=held.at_ns - round(held.waited_s * 1e9),
            attributes={
                "gen_ai.conversation.id": event.thread_id,
                "aiodurable.fencing_token": event.token,
                "aiodurable.waited_s": held.waited_s,
                "aiodurable.lost": held.lost,
            },
        )
        if held.lost:
            span.set_status(Status(StatusCode.ERROR, "lost"))
        span.end()

    def _forget(self, key: tuple[str, int, bool]) -> None:
        if self._newest.get(key[0]) == key:
            del self._newest[key[0]]

    def _end(self, thread_id: str) -> None:
        work = self._at_work.pop(thread_id, None)
        if work is not None:
            work.end()

    def _committed(self, event: BatchCommitted) -> None:
        links = [
            Link(work.attempt.get_span_context())
            for thread_id in event.thread_ids
            if (work := self._at_work.get(thread_id)) is not None and work.detailed
        ]
        if not links:
            return
        end_ns = time.time_ns()
        span = self._tracer.start_span(
            "commit_checkpoints",
            context=_NO_PARENT,
            kind=SpanKind.CLIENT,
            start_time=end_ns - round(event.duration_s * 1e9),
            links=links[:_MOST_LINKS],
            attributes={
                "db.system.name": "postgresql",
                "aiodurable.batch.threads": len(event.thread_ids),
                "aiodurable.batch.writes": event.writes,
            },
        )
        span.end(end_ns)


def _nothing() -> None:
    return


def _header(context: SpanContext) -> str:
    """The context as W3C writes it."""
    flags = context.trace_flags
    return f"00-{context.trace_id:032x}-{context.span_id:016x}-{flags:02x}"


def _named(what: str, graph: str | None) -> str:
    return f"{what} {graph}" if graph else what


def _attributes(
    thread_id: str, run_id: str, graph: str | None, attempt: int = 1, *, resumed: bool = False
) -> dict[str, str | int]:
    """A run's, all at once: the SDK takes as long for the first as for ten more."""
    found: dict[str, str | int] = {
        "gen_ai.operation.name": "invoke_workflow",
        "gen_ai.conversation.id": thread_id,
        "aiodurable.run_id": run_id,
        "aiodurable.attempt": attempt,
        "aiodurable.resumed": resumed,
    }
    if graph:
        found["gen_ai.workflow.name"] = graph
    return found
