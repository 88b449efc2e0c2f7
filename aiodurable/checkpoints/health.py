"""How the pool, the writers and the circuit are."""

from __future__ import annotations

from dataclasses import dataclass

from aiodurable.postgres.circuit_breaker import State

__all__ = ["CheckpointsHealth"]


@dataclass(frozen=True, slots=True)
class CheckpointsHealth:
    """The ways of checkpoints, statuses and the ledger.

    Attributes:
        healthy: the pool is open and the circuit is not. Half-open counts as healthy: without work
            nothing would probe.
        circuit: `open` while statements are refused at once because Postgres keeps failing,
            `half-open` while one is let through to see; None where `circuit_open_after_s` is 0.
        retry_after_s: seconds until a statement is let through again; 0 where one would be now.
        connections: of the pool, in use or idle.
        idle: connections of the pool that nobody uses.
        waiting: tasks that wait for a connection of the pool.
        writes: writes of checkpoints that wait for their batch.
        retries: how often a batch of writes had to be tried again, since the beginning.
    """

    healthy: bool
    circuit: State | None
    retry_after_s: float
    connections: int
    idle: int
    waiting: int
    writes: int
    retries: int
