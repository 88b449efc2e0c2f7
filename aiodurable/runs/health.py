"""The health of an open `Durable`, as this process knows it: for health endpoints and operators."""

from __future__ import annotations

from dataclasses import dataclass

from aiodurable.checkpoints.health import CheckpointsHealth
from aiodurable.locks.health import LocksHealth
from aiodurable.runs.services import Services

__all__ = ["Health", "health"]


@dataclass(frozen=True, slots=True)
class Health:
    """Reading it neither waits nor queries Postgres; it holds no secret. `dataclasses.asdict` makes
    it JSON.

    Attributes:
        healthy: every lock session is up and no statement is refused, so new work would succeed. It
            is false for a moment whenever a lock session is replaced: a probe that restarts
            processes should tolerate a few failures.
        locks: the lock sessions.
        checkpoints: the pool, the writers and the circuit.
    """

    healthy: bool
    locks: LocksHealth
    checkpoints: CheckpointsHealth


def health(services: Services) -> Health:
    """The health right now."""
    locks, checkpoints = services.locks.health(), services.checkpoints.health()
    return Health(locks.healthy and checkpoints.healthy, locks, checkpoints)
