"""The three events of a lease, of a lock's and of a thread's alike."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence

from aiodurable.events import LeaseAcquired, LeaseLost, LeaseReleased, Observer, emit
from aiodurable.locks.scope import Losable

__all__ = ["announce"]


def announce(
    observers: Sequence[Observer], lease: Losable, *, waited_s: float, of_thread: bool
) -> Callable[[], None]:
    """Emit `LeaseAcquired`, and `LeaseLost` if the lease is lost.

    Returns a callable that emits `LeaseReleased`.
    """
    name, token, acquired = lease.name, lease.token, time.monotonic()
    if not observers:
        return _nothing

    def lost() -> None:
        emit(observers, LeaseLost(name, token, of_thread))

    def released() -> None:
        emit(observers, LeaseReleased(name, token, time.monotonic() - acquired, of_thread))

    emit(observers, LeaseAcquired(name, token, waited_s, of_thread))
    lease.on_lost(lost)
    return released


def _nothing() -> None:
    return
