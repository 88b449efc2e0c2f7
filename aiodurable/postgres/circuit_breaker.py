"""A circuit breaker: while Postgres keeps failing, calls fail at once instead of each waiting for
its own timeout.

A closed circuit counts failures in a row, and opens when there are enough of them over a long
enough time. After the pause it lets one call through, the probe: a success closes the circuit, a
failure opens it again for twice as long. No await comes between reading the state and changing it,
so within one event loop it needs no lock.

The time matters more than the count: a restart of Postgres fails all calls under way at once and is
over in a few seconds, for which later calls had better wait.
"""

from __future__ import annotations

import random
import time
from collections.abc import Callable
from contextlib import AbstractAsyncContextManager
from types import TracebackType
from typing import Literal

from aiodurable.errors import CircuitOpenError, ConfigurationError, PostgresUnavailableError

__all__ = ["CircuitBreaker", "State"]

State = Literal["closed", "open", "half-open"]


class CircuitBreaker:
    """`async with breaker.call():` guards one call; any number at a time.

    Only `on` counts as a failure. A cancellation does not, nor does an error of the caller's:
    neither says anything about Postgres, so after a probe that ends like this the next call is the
    probe.

    Args:
        threshold: failures in a row that open the circuit, if they also span `after_s`.
        after_s: seconds from the first to the last of these failures, at least. The count starts
            again where a call that fails began a longer time (and more than a second) after the
            last failure.
        pause_s: seconds that the circuit stays open the first time; each failed probe doubles them,
            less up to half at random.
        max_pause_s: the most seconds that it stays open.
        on: the errors that count.
        clock: seconds, monotonic.

    Attributes:
        on_change: called with the state whenever that changes; None: nobody is.

    Raises:
        ConfigurationError: an argument is out of range.
    """

    def __init__(
        self,
        *,
        threshold: int = 5,
        after_s: float = 0.0,
        pause_s: float = 1.0,
        max_pause_s: float = 60.0,
        on: tuple[type[Exception], ...] = (PostgresUnavailableError, OSError),
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        if threshold < 1 or not after_s >= 0 or not 0 < pause_s <= max_pause_s:
            raise ConfigurationError(
                f"cannot make a circuit breaker with threshold {threshold}, after_s {after_s},"
                f" pause_s {pause_s} and max_pause_s {max_pause_s}: threshold must be 1 or more,"
                " after_s 0 or more, and 0 < pause_s <= max_pause_s"
            )
        self._threshold = threshold
        self._after_s = after_s
        self._pause_s = pause_s
        self._max_pause_s = max_pause_s
        self._on = on
        self._clock = clock
        self._failures = 0
        self._away_since: float | None = None  # the first failure after the last success
        self._first = 0.0
        self._last = 0.0
        self._opened = 0  # times in a row; 0: closed
        self._until = 0.0
        self._probe: _Call | None = None
        self.on_change: Callable[[State], None] | None = None

    @property
    def state(self) -> State:
        """`half-open`: the pause is over, and the next call is the probe, or one under way is."""
        if not self._opened:
            return "closed"
        return "open" if self._probe is None and self._clock() < self._until else "half-open"

    @property
    def retry_after_s(self) -> float:
        """Seconds until the next probe; 0 if the next call would pass, and while the probe is under
        way.
        """
        return max(0.0, self._until - self._clock()) if self.state == "open" else 0.0

    @property
    def away_s(self) -> float:
        """Seconds since the first failure after the last success; 0 if the last call succeeded."""
        return 0.0 if self._away_since is None else self._clock() - self._away_since

    @property
    def patience_s(self) -> float:
        """Seconds for which a call should wait for a connection: the rest of `after_s`, and at
        least one.
        """
        return max(1.0, self._after_s - self.away_s)

    def call(self, *, urgent: bool = False) -> AbstractAsyncContextManager[None]:
        """A context manager around one call.

        Args:
            urgent: never refuse it. It is no probe, but its success closes the circuit.

        Raises:
            CircuitOpenError: on entry, while the circuit is open or its probe is under way.
        """
        return _Call(self, urgent=urgent)

    def enter(self, call: _Call) -> None:
        """Let a call pass or refuse it."""
        if self._failures:  # else it is the first, or began before the others failed
            call.began = self._clock()
        if self.state == "closed" or call.urgent:
            return
        if self.state == "open" or self._probe is not None:
            raise CircuitOpenError(
                f"cannot reach Postgres: it has failed for {self.away_s:.0f} s; try again in"
                f" {self.retry_after_s:.1f} s",
                retry_after_s=self.retry_after_s,
            )
        self._probe = call
        self._changed("half-open")

    def leave(self, call: _Call, error: BaseException | None) -> None:
        """Count how a call ended."""
        was_probe = self._probe is call
        if was_probe:
            self._probe = None
        if not was_probe and not call.urgent and self.state != "closed":
            return  # it began before the circuit opened, and says nothing about now
        if error is None:
            was_open = self._opened > 0
            self._failures = self._opened = 0
            self._away_since = None
            if was_open:
                self._changed("closed")
        elif isinstance(error, self._on):
            self._failed(call.began)
            if call.urgent and self.state != "closed":
                return  # the circuit is open, and this was no probe
            if was_probe or (
                self._failures >= self._threshold and self._last - self._first >= self._after_s
            ):
                self._open()

    def _failed(self, began: float) -> None:
        now = self._clock()
        if self._away_since is None:
            self._away_since = now
        # Up to when it began: calls in a row that each wait for `after_s` leave no gap.
        if not self._failures or began - self._last > max(1.0, self._after_s):
            self._failures, self._first = 0, now
        self._failures += 1
        self._last = now

    def _open(self) -> None:
        pause = min(self._max_pause_s, self._pause_s * 2**self._opened)
        self._opened += 1
        self._until = self._clock() + pause * random.uniform(0.5, 1.0)
        self._changed("open")

    def _changed(self, state: State) -> None:
        if self.on_change is not None:
            self.on_change(state)


class _Call(AbstractAsyncContextManager[None]):
    def __init__(self, breaker: CircuitBreaker, *, urgent: bool) -> None:
        self._breaker = breaker
        self.urgent = urgent
        self.began = 0.0

    async def __aenter__(self) -> None:
        self._breaker.enter(self)

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._breaker.leave(self, error)
