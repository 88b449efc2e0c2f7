"""Sleep in a node, and wait for signals there, without holding anything meanwhile.

Each is an interrupt of LangGraph's that no person answers: the run ends its attempt, and a worker
answers it when it is due. The node begins again then, and this call returns.
"""

from __future__ import annotations

import math
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import Any, Final

from langgraph.errors import GraphInterrupt
from langgraph.types import Interrupt, interrupt

from aiodurable.errors import ConfigurationError, InvalidArgumentError, WaitTimeoutError
from aiodurable.idempotency import node_config
from aiodurable.runs.signals import signal_name
from aiodurable.waits import Wait, payload_of, signal_value, unreadable_signal

__all__ = [
    "CLOCK_KEY",
    "AttemptClock",
    "sleep",
    "sleep_sync",
    "sleep_until",
    "sleep_until_sync",
    "wait_for",
    "wait_for_sync",
]

CLOCK_KEY = "__pregel_aiodurable_clock"
"""Where a run puts its `AttemptClock` in `config["configurable"]`; see `SESSION_KEY`."""
_MOST_S: Final = 100 * 366 * 86400.0


@dataclass(slots=True)
class AttemptClock:
    """The clock of Postgres, as an attempt knows it, and what was open when it began.

    Attributes:
        started_at: when the attempt began, by the clock of Postgres.
        began: the same moment by `time.monotonic()`.
        open: the waits that go on in this attempt, by id: their times stay as they were.
    """

    started_at: datetime | None
    began: float
    open: Mapping[str, Wait] = field(default_factory=dict[str, Wait])

    def now(self) -> datetime:
        """The time."""
        if self.started_at is None:
            return datetime.now(UTC)
        return self.started_at + timedelta(seconds=time.monotonic() - self.began)


async def sleep(seconds: float) -> None:
    """Sleep for so many seconds, without a connection, a task or memory of this process.

    For nodes, `@task`s and tools of a run. The run ends here, and a worker begins the node again
    when it is due: what stands before this call runs again, so put what has an effect into a node
    or a task of its own. When it is due was fixed the first time, and no restart moves it. In a
    `def` node, call `sleep_sync`.

    Args:
        seconds: 0 or more, at most a hundred years.

    Raises:
        ConfigurationError: it was called outside a node or task of a run.
        InvalidArgumentError: no such number of seconds.
    """
    sleep_sync(seconds)


async def sleep_until(when: datetime) -> None:
    """As `sleep`, until a moment; one that has passed returns soon.

    Args:
        when: with its time zone.

    Raises:
        ConfigurationError: see `sleep`.
        InvalidArgumentError: no datetime, or one without a time zone.
    """
    sleep_until_sync(when)


async def wait_for(name: str, timeout: float | None = None) -> Any:
    """Wait for a signal to this thread (`Threads.signal`), as `sleep` waits: nothing is held.

    A signal that came before is taken at once, the oldest first; each is taken by one wait. In a
    `def` node, call `wait_for_sync`.

    Args:
        name: of the signal.
        timeout: seconds; None: as long as it takes.

    Returns:
        The value of the signal.

    Raises:
        WaitTimeoutError: no signal came in time; a `TimeoutError`.
        ConfigurationError: see `sleep`; or the signal came with a value that the graph cannot read.
        InvalidArgumentError: no such name or timeout.
    """
    return wait_for_sync(name, timeout)


def sleep_sync(seconds: float) -> None:
    """As `sleep`, in a `def` node."""
    clock = _clock("sleep()")
    _suspend(clock, None, clock.now() + _duration("seconds", seconds))


def sleep_until_sync(when: datetime) -> None:
    """As `sleep_until`, in a `def` node."""
    clock = _clock("sleep_until()")
    if not isinstance(when, datetime) or when.utcoffset() is None:  # pyright: ignore[reportUnnecessaryIsInstance]  # callers are not all type-checked
        raise InvalidArgumentError(
            f"cannot sleep until {when!r}: pass a datetime with a time zone, such as"
            " datetime.now(UTC) + timedelta(days=1)",
            argument="when",
        )
    try:
        until = when.astimezone(UTC)
    except OverflowError:
        raise InvalidArgumentError(
            f"cannot sleep until {when!r}: in UTC its year is not 1 to 9999", argument="when"
        ) from None
    _suspend(clock, None, until)


def wait_for_sync(name: str, timeout: float | None = None) -> Any:
    """As `wait_for`, in a `def` node."""
    clock = _clock("wait_for()")
    signal_name(name)
    until = None if timeout is None else clock.now() + _duration("timeout", timeout)
    answer = _suspend(clock, name, until)
    if (why := unreadable_signal(answer)) is not None:
        raise ConfigurationError(
            f"cannot take signal {name!r}: its value cannot be read: {why}. It was set aside, and"
            " the next wait takes the next signal: catch this and wait again. Where the graph does"
            " not, each attempt of the run ends here; give it up, and have the signal sent as plain"
            " data, or with a class that the graph may build"
        )
    came, value = signal_value(answer)
    if not came:
        raise WaitTimeoutError(
            f"cannot wait longer for signal {name!r}: none came in time; catch this where the graph"
            " can go on without it"
        )
    return value


def _clock(what: str) -> AttemptClock:
    clock: AttemptClock | None = node_config().get(CLOCK_KEY)
    if clock is None:
        raise ConfigurationError(
            f"cannot answer {what}: it suspends the run that executes a node; call it inside a node"
            " or a task of a graph that runs through Durable.run or a worker"
        )
    return clock


def _duration(argument: str, seconds: float) -> timedelta:
    if isinstance(seconds, bool) or not (
        isinstance(seconds, int | float) and math.isfinite(seconds) and 0 <= seconds <= _MOST_S  # pyright: ignore[reportUnnecessaryIsInstance]  # callers are not all type-checked
    ):
        raise InvalidArgumentError(
            f"{argument} must be seconds, 0 or more and at most a hundred years, got {seconds!r}",
            argument=argument,
        )
    return timedelta(seconds=seconds)


def _suspend(clock: AttemptClock, name: str | None, until: datetime | None) -> Any:
    """The answer to this wait, or the interrupt that ends the attempt here.

    Also where it is due already: LangGraph counts the interrupts of a node, and hands its answers
    out in their order.
    """
    try:
        return interrupt(payload_of(name, until))
    except GraphInterrupt as raised:
        (asked,) = raised.args[0]
        known = clock.open.get(asked.id)
        if known is None or known.name != name:
            raise
        value = payload_of(name, known.until)
        raise GraphInterrupt((Interrupt(value=value, id=asked.id),)) from None
