"""How long a lock session may be trusted: the arithmetic of a lease that the server itself ends."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Self

from aiodurable.settings import Settings

__all__ = ["LeaseTiming"]


@dataclass(frozen=True, slots=True)
class LeaseTiming:
    """The three times of a lease, in seconds.

    The server ends a session that has been silent for `ttl_s` (`idle_session_timeout`), and frees
    its locks. It counts from the moment at which the session became idle, which is after the server
    read our last statement, which is after we sent that:

        we send          the server goes idle          we stop trusting            the server frees
        t_send      ≤    t_idle                        t_send + ttl − margin   <   t_idle + ttl

    So the holder takes the *sending* time of the last statement that was *answered* (an unanswered
    one may never have arrived), and stops `margin_s` before the earliest moment at which anybody
    else can be given the lock. The margin covers the time that stopping takes, and two clocks that
    run at different speeds: only durations are compared, never clocks, and 4 s in 20 s forgives a
    fifth.

    A session that is past its deadline is cut only after the margin. Our words may reach the server
    although its answers do not reach us: cutting at once would free the locks while their holders
    are still being cancelled.

    The server's TCP keepalives are a second line. They too give up after `ttl_s` and no earlier,
    because they count from the last packet: giving up earlier would free locks that are still
    trusted. They detect a lost network or host, never a stopped process: its kernel answers for it.

    An idle session sends a heartbeat `lease_heartbeat_s` after its last statement. `Settings`
    demands ttl > margin + 2 × heartbeat: one heartbeat may come a whole interval late before the
    holder gives up.

    Defaults: a heartbeat every 5 s, the holder gives up after 16 s of silence, the server frees the
    locks after 20 s.

    This does not cover a holder that is itself stopped (SIGSTOP, a paused machine, a blocked event
    loop): it wakes up after its deadline and may act before it checks. Only a fencing token,
    checked where the effect happens, covers that.
    """

    ttl_s: float = 20.0
    lease_heartbeat_s: float = 5.0
    margin_s: float = 4.0

    @classmethod
    def of(cls, settings: Settings) -> Self:
        """The times of `settings`, which has already refused values that contradict each other."""
        return cls(settings.lease_ttl_s, settings.lease_heartbeat_s, settings.lease_safety_margin_s)

    @property
    def server_settings(self) -> tuple[str, str, str]:
        """For the server: milliseconds of silence, seconds until its first keepalive and between
        two (of three)."""
        return (
            f"{math.ceil(self.ttl_s * 1000)}",
            f"{math.ceil(self.ttl_s / 2)}",
            f"{math.ceil(self.ttl_s / 6)}",
        )

    def trusted_until(self, sent: float) -> float:
        """Until when (`time.monotonic`) a session may be trusted whose last answered statement was
        sent at `sent`."""
        return sent + self.ttl_s - self.margin_s
