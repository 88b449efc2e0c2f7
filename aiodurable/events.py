"""Events: frozen values for observers, which turn them into logs, metrics or traces.

An observer is a plain callable. It runs in a thread of its own, so that one that blocks or hangs
reaches no run; what it does not keep up with is dropped and counted. One that never blocks may be
marked as `inline`: the event loop calls it at once, in the task of the run. What an observer raises
is logged and never reaches the run. Without observers, nothing of this costs anything.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Final

from aiodurable.models import RunStatus

__all__ = [
    "AttemptEnded",
    "AttemptStarted",
    "BatchCommitted",
    "CircuitChanged",
    "Event",
    "LeaseAcquired",
    "LeaseLost",
    "LeaseReleased",
    "LoopLagMeasured",
    "Observer",
    "OperatorActed",
    "ProcessEvent",
    "RunClaimed",
    "RunNotAccepted",
    "RunRescued",
    "ThreadRepaired",
    "ThreadsPruned",
    "WriteRefused",
    "call",
    "emit",
    "enter",
    "inline",
    "traceparent",
]

_log = logging.getLogger(__name__)

_SLOW_S: Final = 0.1
"""How long an observer marked by `inline()` may keep the event loop without a warning."""


@dataclass(frozen=True, slots=True)
class Event:
    """Something happened to a thread."""

    thread_id: str


@dataclass(frozen=True, slots=True)
class LeaseAcquired(Event):
    """A lease was acquired, `waited_s` seconds after it was requested.

    Attributes:
        of_thread: whether it is that of a thread; else it is a lock of the caller's own, whose name
            is `thread_id`, with a token of its own.
    """

    token: int
    waited_s: float
    of_thread: bool = True


@dataclass(frozen=True, slots=True)
class LeaseReleased(Event):
    """A lease was released, after `held_s` seconds; see `LeaseAcquired`."""

    token: int
    held_s: float
    of_thread: bool = True


@dataclass(frozen=True, slots=True)
class LeaseLost(Event):
    """A lease was lost while it was needed; see `LeaseAcquired`."""

    token: int
    of_thread: bool = True


@dataclass(frozen=True, slots=True)
class ThreadRepaired(Event):
    """Nodes that LangGraph would have skipped after a failure (langgraph#8834) will run again.

    A subgraph's node is written `inner/node`.
    """

    nodes: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class RunNotAccepted(Event):
    """A run that was to begin at once could not be accepted: the ledger has nothing of it, unless
    its commit's answer was lost.

    Attributes:
        error: the name of the exception's type, never its text.
    """

    graph: str | None
    error: str


@dataclass(frozen=True, slots=True)
class AttemptStarted(Event):
    """An attempt starts.

    Attributes:
        attempt: counts from 1.
        resumed: whether it goes on with unfinished work.
        traceparent: the trace context in which the run was accepted, as W3C writes it.
    """

    run_id: str
    graph: str | None
    attempt: int
    resumed: bool
    traceparent: str | None = None


@dataclass(frozen=True, slots=True)
class AttemptEnded(Event):
    """An attempt ended: its run is complete, failed, interrupted or paused.

    Attributes:
        duration_s: seconds.
        error: the name of the exception's type, never its text.
        attempt: counts from 1.
        exception: the exception itself, for its traceback. Its text may quote a state.
    """

    run_id: str
    graph: str | None
    status: RunStatus
    duration_s: float
    error: str | None
    attempt: int = 0
    exception: BaseException | None = field(default=None, repr=False, compare=False)


@dataclass(frozen=True, slots=True)
class OperatorActed(Event):
    """Somebody did something by the dashboard or the command line, and it is in the audit.

    Attributes:
        thread_id: the thread; empty if it was about several, or none.
        actor: who.
        action: what, such as "threads.cancel".
        run_id: the run, if it was about one.
    """

    actor: str
    action: str
    run_id: str | None = None


@dataclass(frozen=True, slots=True)
class RunClaimed(Event):
    """A worker claimed a run that it is about to begin, or to go on with.

    Attributes:
        waited_s: seconds since it was accepted, or since it was due if that is later; None where
            its process left it, or a person goes on with it.
    """

    run_id: str
    graph: str
    queue: str
    waited_s: float | None


@dataclass(frozen=True, slots=True)
class RunRescued(Event):
    """A worker found a run whose process is gone, and made it ready."""

    run_id: str


@dataclass(frozen=True, slots=True)
class WriteRefused(Event):
    """Postgres refused a checkpoint of a lease that another one has replaced."""

    token: int


@dataclass(frozen=True, slots=True)
class ProcessEvent(Event):
    """Something happened to a process, not to one thread: its thread_id is empty."""

    thread_id: str = field(default="", init=False)


@dataclass(frozen=True, slots=True)
class BatchCommitted(ProcessEvent):
    """A batch of checkpoints was committed by one statement.

    Attributes:
        thread_ids: whose they are.
        writes: how many writes it had.
        duration_s: seconds from sending the statement to its answer.
    """

    thread_ids: tuple[str, ...]
    writes: int
    duration_s: float


@dataclass(frozen=True, slots=True)
class CircuitChanged(ProcessEvent):
    """The circuit to Postgres opened, lets a probe through, or closed.

    Attributes:
        state: "open", "half-open" or "closed".
    """

    state: str


@dataclass(frozen=True, slots=True)
class ThreadsPruned(ProcessEvent):
    """A prune ended.

    Attributes:
        threads: threads of which something was removed.
        rows: rows removed from LangGraph's tables.
        runs: rows removed from the ledger.
        duration_s: seconds.
    """

    threads: int
    rows: int
    runs: int
    duration_s: float


@dataclass(frozen=True, slots=True)
class LoopLagMeasured(ProcessEvent):
    """A worker measured how late its event loop is, once a second.

    Attributes:
        lag_s: seconds.
    """

    lag_s: float


Observer = Callable[[Event], None]


def inline(observer: Observer) -> Observer:
    """The same observer, for the event loop to call at once. It must not block: a run waits for
    it.
    """
    return _Inline(observer)


class _Inline:
    inline = True

    def __init__(self, observer: Observer) -> None:
        self._observer = observer

    def __call__(self, event: Event) -> None:
        self._observer(event)

    def __repr__(self) -> str:
        return repr(self._observer)


def emit(observers: Sequence[Observer], event: Event) -> None:
    """Call every observer; log one that raises, and warn of one that takes long, once."""
    for observer in observers:
        if not isinstance(observer, _Inline):
            call(observer, event)
            continue
        began = time.perf_counter()
        call(observer, event)
        if (took_s := time.perf_counter() - began) > _SLOW_S:
            _warn_of_slow(observer, took_s)


def traceparent(observers: Sequence[Observer], graph: str | None, *beginning: str) -> str | None:
    """The trace context in which a run of this graph is accepted, as W3C writes it: that of the
    first observer that has one to give.

    Args:
        observers: the observers.
        graph: the run's graph.
        beginning: the thread and the run, if that begins in this process as soon as it is accepted.
    """
    for observer in observers:
        provide = getattr(observer, "traceparent", None)
        if provide is None:
            continue
        try:
            return provide(graph, *beginning)
        except Exception:  # an observer must never reach the run
            _log.exception("observer %r gives no trace context", observer)
    return None


def enter(observers: Sequence[Observer], thread_id: str) -> Sequence[Callable[[], None]]:
    """Have observers see what this task does from now on as part of the thread's attempt.

    Returns:
        What is to be called at its end.
    """
    leaving: list[Callable[[], None]] = []
    for observer in observers:
        begin = getattr(observer, "enter", None)
        if begin is None:
            continue
        try:
            leaving.append(begin(thread_id))
        except Exception:  # an observer must never reach the run
            _log.exception("observer %r failed on the start of an attempt", observer)
    return leaving


def call(observer: Observer, event: Event) -> None:
    """Call an observer; log what it raises."""
    try:
        observer(event)
    except Exception:  # an observer must never reach the run
        _log.exception("observer %r failed on %s", observer, type(event).__name__)


_slow = set[int]()


def _warn_of_slow(observer: Observer, took_s: float) -> None:
    if id(observer) in _slow:
        return
    _slow.add(id(observer))
    _log.warning(
        "observer %r kept the event loop for %.2f s, and every run waited for it: leave out"
        " inline(), so that it gets a thread of its own",
        observer,
        took_s,
    )
