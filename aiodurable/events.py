"""Events: frozen values for observers, which turn them into logs, metrics or traces.

An observer is a plain callable. If it raises, the exception is logged and never reaches the run (as
in stamina's instrumentation).
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from aiodurable.models import RunStatus

__all__ = [
    "AttemptEnded",
    "AttemptStarted",
    "Event",
    "LeaseAcquired",
    "LeaseLost",
    "LeaseReleased",
    "Observer",
    "OperatorActed",
    "ThreadRepaired",
    "emit",
]

_log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Event:
    """Something happened to a thread."""

    thread_id: str


@dataclass(frozen=True, slots=True)
class LeaseAcquired(Event):
    """A thread's lease was acquired, `waited_s` seconds after it was requested."""

    token: int
    waited_s: float


@dataclass(frozen=True, slots=True)
class LeaseReleased(Event):
    """A thread's lease was released, after `held_s` seconds."""

    token: int
    held_s: float


@dataclass(frozen=True, slots=True)
class LeaseLost(Event):
    """A thread's lease was lost while it was needed."""

    token: int


@dataclass(frozen=True, slots=True)
class ThreadRepaired(Event):
    """Nodes that LangGraph would have skipped after a failure (langgraph#8834) will run again.

    A subgraph's node is written `inner/node`.
    """

    nodes: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class AttemptStarted(Event):
    """An attempt starts.

    Attributes:
        attempt: counts from 1.
        resumed: whether it goes on with unfinished work.
    """

    run_id: str
    graph: str | None
    attempt: int
    resumed: bool


@dataclass(frozen=True, slots=True)
class AttemptEnded(Event):
    """An attempt ended: its run is complete, failed, interrupted or paused.

    Attributes:
        duration_s: seconds.
        error: the name of the exception's type, never its text.
    """

    run_id: str
    graph: str | None
    status: RunStatus
    duration_s: float
    error: str | None


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


Observer = Callable[[Event], None]


def emit(observers: Sequence[Observer], event: Event) -> None:
    """Call every observer; log one that raises."""
    for observer in observers:
        try:
            observer(event)
        except Exception:  # an observer must never reach the run
            _log.exception("observer %r failed on %s", observer, type(event).__name__)
