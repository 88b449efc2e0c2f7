"""How a worker is, as its process knows it."""

from __future__ import annotations

import asyncio
import logging
import time
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass

from aiodurable.events import LoopLagMeasured, Observer, emit

__all__ = ["LoopLag", "WorkerHealth"]

_log = logging.getLogger(__name__)
_EVERY_S, _KEPT, _WARN_S = 1.0, 60, 1.0


@dataclass(frozen=True, slots=True)
class WorkerHealth:
    """Reading it neither waits nor queries Postgres.

    Attributes:
        healthy: it claims runs, its last look at the queue went well, and its event loop answers.
        draining: it claims no more.
        running: the run_ids at work here.
        capacity: how many more it would begin.
        queues: those it serves.
        loop_lag_s: how late the event loop is, now: what runs in it and does not await.
        loop_lag_max_s: the same, at most in the last minute.
        last_claim_s: seconds since it last claimed, or found nothing to; None: it has not yet.
    """

    healthy: bool
    draining: bool
    running: tuple[str, ...]
    capacity: int
    queues: tuple[str, ...]
    loop_lag_s: float
    loop_lag_max_s: float
    last_claim_s: float | None


class LoopLag:
    """Measures how late the event loop is."""

    def __init__(self) -> None:
        self._lags = deque[float](maxlen=_KEPT)
        self._due = time.monotonic()

    @property
    def now_s(self) -> float:
        """How late it is; also while it is blocked, for a reader in another thread."""
        last = self._lags[-1] if self._lags else 0.0
        return max(last, time.monotonic() - self._due, 0.0)

    @property
    def max_s(self) -> float:
        """At most, in the last minute."""
        return max(self._lags, default=0.0)

    async def measure(self, observers: Sequence[Observer] = ()) -> None:
        """Measure until cancelled, and send the observers what was measured."""
        while True:
            self._due = time.monotonic() + _EVERY_S
            await asyncio.sleep(_EVERY_S)
            lag = max(0.0, time.monotonic() - self._due)
            self._lags.append(lag)
            if observers:
                emit(observers, LoopLagMeasured(lag_s=lag))
            if lag > _WARN_S:
                _log.warning(
                    "the event loop of this worker was blocked for %.1f s: something in a node"
                    " does not await; run it in a thread (asyncio.to_thread), for heartbeats and"
                    " cancellations wait for it",
                    lag,
                )
