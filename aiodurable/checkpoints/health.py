"""The health of the pool, the writers and the circuit."""

from __future__ import annotations

from dataclasses import dataclass

from aiodurable.postgres.circuit_breaker import State

__all__ = ["CheckpointsHealth"]


@dataclass(frozen=True, slots=True)
class CheckpointsHealth:
    """The connections for checkpoints, statuses and the ledger.

    Attributes:
        healthy: the pool is open and the circuit is not. Half-open counts as healthy, because
            only work closes the circuit.
        circuit: `open` while statements fail at once because Postgres keeps failing, `half-open`
            while one statement probes it; None if `circuit_open_after_s` is 0.
        retry_after_s: seconds until a statement may reach Postgres again; 0: now.
        connections: the pool's connections, used and idle.
        idle: the pool's idle connections.
        waiting: tasks that wait for a connection of the pool.
        writes: writes of checkpoints that wait for a batch.
        retries: how often a batch had to be retried, since the start.
    """

    healthy: bool
    circuit: State | None
    retry_after_s: float
    connections: int
    idle: int
    waiting: int
    writes: int
    retries: int
