"""What happens, as frozen values, and who is told: a plain callable, the same for logs, metrics and traces.

An observer that raises is logged and never reaches the run (as in stamina's instrumentation).
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from aiodurable.models import RunStatus

__all__ = [
    "Event",
    "LeaseAcquired",
    "LeaseLost",
    "LeaseReleased",
    "Observer",
    "RunFinished",
    "RunStarted",
    "ThreadHealed",
    "emit",
]

_log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Event:
    """Something happened to a thread."""

    thread_id: str


@dataclass(frozen=True, slots=True)
class LeaseAcquired(Event):
    """A thread's lease was taken. `waited_s`: seconds from asking to having."""

    token: int
    waited_s: float


@dataclass(frozen=True, slots=True)
class LeaseReleased(Event):
    """A thread's lease was let go. `held_s`: seconds it was held."""

    token: int
    held_s: float


@dataclass(frozen=True, slots=True)
class LeaseLost(Event):
    """A thread's lease was lost while it was needed."""

    token: int


@dataclass(frozen=True, slots=True)
class ThreadHealed(Event):
    """Nodes whose failure LangGraph would have taken for success (langgraph#8834) run again; a subgraph's as `inner/node`."""

    nodes: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class RunStarted(Event):
    """An attempt begins. `attempt` counts from 1; `resumed` says whether it goes on with work left unfinished."""

    run_id: str
    graph: str | None
    attempt: int
    resumed: bool


@dataclass(frozen=True, slots=True)
class RunFinished(Event):
    """An attempt ended. `duration_s` in seconds; `error` is the type name of the exception, never its text."""

    run_id: str
    graph: str | None
    status: RunStatus
    duration_s: float
    error: str | None


Observer = Callable[[Event], None]


def emit(observers: Sequence[Observer], event: Event) -> None:
    """Tell every observer; a failing one is logged."""
    for observer in observers:
        try:
            observer(event)
        except Exception:  # an observer must never reach the run
            _log.exception("observer %r failed on %s", observer, type(event).__name__)
