"""A circuit breaker: when Postgres keeps failing, calls fail at once for a while instead of each waiting for its own timeout.

Closed it counts failures in a row; at the threshold it opens. Once the pause is over one call, the probe, is let through:
its success closes the circuit, its failure opens it again for twice as long. There is no await between looking at the state
and changing it, so within one event loop it needs no lock.
"""

from __future__ import annotations

import random
import time
from collections.abc import Callable
from contextlib import AbstractAsyncContextManager
from types import TracebackType
from typing import Literal

from aiodurable.errors import CircuitOpenError, ConfigurationError, PostgresUnavailableError

__all__ = ["CircuitBreaker"]


class CircuitBreaker:
    """`async with breaker.call():` around each call that it guards; any number at a time.

    Only `on` counts as a failure. A cancellation never does, nor does an error of the caller's: neither says anything
    about Postgres, so a probe that ends so leaves the next call to probe.

    Args:
        threshold: failures in a row that open the circuit.
        pause_s: seconds it stays open the first time; each failed probe doubles them, less up to half at random.
        max_pause_s: seconds it stays open at most.
        on: the errors that count.
        clock: seconds, monotonic.

    Raises:
        ConfigurationError: an argument makes no sense.
    """

    def __init__(
        self,
        *,
        threshold: int = 5,
        pause_s: float = 1.0,
        max_pause_s: float = 60.0,
        on: tuple[type[Exception], ...] = (PostgresUnavailableError, OSError),
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        if threshold < 1 or not 0 < pause_s <= max_pause_s:
            raise ConfigurationError(
                "a circuit breaker wants threshold >= 1 and 0 < pause_s <= max_pause_s, "
                f"got {threshold}, {pause_s} and {max_pause_s}"
            )
        self._threshold = threshold
        self._pause_s = pause_s
        self._max_pause_s = max_pause_s
        self._on = on
        self._clock = clock
        self._failures = 0
        self._opened = 0
        self._until = 0.0
        self._probe: _Call | None = None

    @property
    def state(self) -> Literal["closed", "open", "half-open"]:
        """`half-open`: the pause is over, and the next call, or one under way, is the probe."""
        if self._failures < self._threshold:
            return "closed"
        return "open" if self._probe is None and self._clock() < self._until else "half-open"

    @property
    def retry_after(self) -> float:
        """Seconds until a call is let through; 0 where one would be now, and while the probe is under way."""
        return max(0.0, self._until - self._clock()) if self.state == "open" else 0.0

    def call(self) -> AbstractAsyncContextManager[None]:
        """Guards one call. Raises `CircuitOpenError` at entry while the circuit is open, or its probe is under way."""
        return _Call(self)

    def enter(self, call: _Call) -> None:
        """Let a call through or refuse it."""
        if self.state == "closed":
            return
        if self.state == "open" or self._probe is not None:
            raise CircuitOpenError(
                f"wanted Postgres, found that it failed {self._failures} times in a row: not asked again for "
                f"{self.retry_after:.1f} s, try then",
                retry_after=self.retry_after,
            )
        self._probe = call

    def leave(self, call: _Call, error: BaseException | None) -> None:
        """Note how a call ended."""
        was_probe = self._probe is call
        if was_probe:
            self._probe = None
        if not was_probe and self.state != "closed":
            return  # a straggler from before says nothing about now
        if error is None:
            self._failures = self._opened = 0
        elif isinstance(error, self._on):
            self._failures += 1
            if self._failures >= self._threshold:
                self._open()

    def _open(self) -> None:
        pause = min(self._max_pause_s, self._pause_s * 2**self._opened)
        self._opened += 1
        self._until = self._clock() + pause * random.uniform(0.5, 1.0)


class _Call(AbstractAsyncContextManager[None]):
    def __init__(self, breaker: CircuitBreaker) -> None:
        self._breaker = breaker

    async def __aenter__(self) -> None:
        self._breaker.enter(self)

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._breaker.leave(self, error)
