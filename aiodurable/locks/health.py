"""The health of the lock sessions, as this process knows it."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass

from aiodurable.locks.supervisor import SessionSupervisor

__all__ = ["LocksHealth", "SessionHealth", "health"]


@dataclass(frozen=True, slots=True)
class SessionHealth:
    """One lock session.

    Attributes:
        up: whether it accepts requests.
        pid: its backend, None before it was first up.
        held: leases on it.
        answered_s: seconds since its last answer, None while it is not up.
        trusted_s: seconds for which its leases are still trusted without another answer; 0 while it
            is not up.
        share: how many slots of the server's lock table it may use.
        used: how many slots of the server's lock table it uses.
        reconnects: how often it was replaced.
        over: why the last one ended, while none is up.
    """

    up: bool
    pid: int | None
    held: int
    answered_s: float | None
    trusted_s: float
    share: int
    used: int
    reconnects: int
    over: str | None


@dataclass(frozen=True, slots=True)
class LocksHealth:
    """The lock manager.

    Attributes:
        healthy: whether every session is up.
        held: leases held by this process.
        waiting: tasks of this process that wait for a lock.
        sessions: each lock session.
    """

    healthy: bool
    held: int
    waiting: int
    sessions: tuple[SessionHealth, ...]


def health(supervisors: Sequence[SessionSupervisor], waiting: int) -> LocksHealth:
    """The health of now, without a statement."""
    sessions = tuple(map(_session, supervisors))
    held = sum(session.held for session in sessions)
    return LocksHealth(all(session.up for session in sessions), held, waiting, sessions)


def _session(supervisor: SessionSupervisor) -> SessionHealth:
    session = supervisor.session
    if session is None or session.is_over:
        over = "not open" if session is None else session.over
        pid = None if session is None else session.statements.pid
        return SessionHealth(False, pid, 0, None, 0.0, 0, 0, supervisor.reconnects, over)
    now = time.monotonic()
    return SessionHealth(
        up=True,
        pid=session.statements.pid,
        held=len(session.held),
        answered_s=now - session.clock.answered,
        trusted_s=max(0.0, session.clock.trust.until - now),
        share=session.share,
        used=session.slots_used,
        reconnects=supervisor.reconnects,
        over=None,
    )
