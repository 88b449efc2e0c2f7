"""When a lock session has to send something, and until when it is trusted."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable

from aiodurable.locks.lease import Trust
from aiodurable.locks.lease_timing import LeaseTiming

__all__ = ["SessionClock"]


class SessionClock:
    """The two timers of a session (`LeaseTiming`): a heartbeat while it is idle, and its deadline.

    Args:
        timing: of the leases.
        sent: `time.monotonic` at which the last answered statement was sent.
        heartbeat: called when the session has been idle for long enough.
        expired: called with the reason once the session may no longer be trusted, also while a
            statement hangs.

    Attributes:
        trust: until when what the session holds is held.
        answered: `time.monotonic` of the last answer.
    """

    def __init__(
        self,
        timing: LeaseTiming,
        sent: float,
        *,
        heartbeat: Callable[[], None],
        expired: Callable[[str], None],
    ) -> None:
        self.trust = Trust(timing.trusted_until(sent))
        self.answered = time.monotonic()
        self._timing = timing
        self._trusted_s = timing.trusted_until(0.0)
        self._sent = sent
        self._heartbeat = heartbeat
        self._expired = expired
        self._loop = asyncio.get_running_loop()
        self._timers: dict[str, asyncio.TimerHandle] = {}

    def start(self) -> None:
        """Start the timers."""
        self._schedule_heartbeat()
        self._watch_deadline()

    @property
    def heartbeat_due(self) -> bool:
        """Whether the session has sent nothing for as long as it may."""
        return time.monotonic() >= self._sent + self._timing.lease_heartbeat_s

    def note_answer(self, sent: float) -> str | None:
        """Trust the session from `sent` on, when the answered statement was sent.

        Returns:
            Why not: its deadline had passed, so that a lease may have been seen as lost. That must
            not revert.
        """
        now = time.monotonic()
        if now >= self.trust.until:
            return (
                f"an answer came {now - self._sent:.1f} s after the last statement that had one was"
                " sent"
            )
        self._sent = sent
        self.answered = now
        self.trust.until = sent + self._trusted_s
        return None

    def stop(self) -> None:
        """Trust it no longer. Nothing is called after this."""
        self.trust.until = 0.0
        for timer in self._timers.values():
            timer.cancel()

    def after_margin(self, callback: Callable[[], None]) -> None:
        """Call back when the server may have freed the locks of a session that was given up."""
        self._loop.call_later(self._timing.margin_s, callback)

    def _schedule_heartbeat(self) -> None:
        # Armed again only when it fires, so that a batch costs no timer.
        wait = self._sent + self._timing.lease_heartbeat_s - time.monotonic()
        if wait <= 0:
            self._heartbeat()
            wait = self._timing.lease_heartbeat_s
        self._timers["heartbeat"] = self._loop.call_later(wait, self._schedule_heartbeat)

    def _watch_deadline(self) -> None:
        left = self.trust.until - time.monotonic()
        if left <= 0:
            self._expired(f"no answer for {time.monotonic() - self._sent:.1f} s")
        else:
            self._timers["deadline"] = self._loop.call_later(left, self._watch_deadline)
