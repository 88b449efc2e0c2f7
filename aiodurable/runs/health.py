"""How an open `Durable` is, as this process knows it: for a health endpoint, and for a person at three in the morning."""

from __future__ import annotations

from dataclasses import dataclass

from aiodurable.checkpoints.health import CheckpointsHealth
from aiodurable.locks.health import LocksHealth
from aiodurable.runs.services import Services

__all__ = ["Health", "health"]


@dataclass(frozen=True, slots=True)
class Health:
    """No part of it asks Postgres or waits, and none holds a secret; `dataclasses.asdict` makes it JSON.

    Attributes:
        healthy: every lock session is up and nothing is refused: new work will do. It turns false for a moment whenever a
            lock session is replaced, so let a probe that restarts processes be patient.
        locks: the lock sessions.
        checkpoints: the pool, the writers and the circuit.
    """

    healthy: bool
    locks: LocksHealth
    checkpoints: CheckpointsHealth


def health(services: Services) -> Health:
    """As of now."""
    locks, checkpoints = services.locks.health(), services.checkpoints.health()
    return Health(locks.healthy and checkpoints.healthy, locks, checkpoints)
