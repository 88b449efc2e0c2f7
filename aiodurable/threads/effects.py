"""The side effects of a thread's nodes, as `effect(name)` recorded them, without their results."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from typing import Literal

from aiodurable.postgres.pool import PsycopgPool
from aiodurable.postgres.sql import load

__all__ = ["ThreadEffect", "read_effects"]

_SQL = load("effects")


@dataclass(frozen=True, slots=True)
class ThreadEffect:
    """A side effect.

    Attributes:
        name: that of `effect(name)`.
        task: LangGraph's namespace of the task that called it: node and task id.
        state: `done`; `not_done`: it is known not to have happened; `begun`: it is under way, or
            nobody knows whether it happened.
        run_id: the run.
        begun_by: host and process.
        checkpoint_id: the step of the root graph that the task belongs to.
        begun_at, ended_at: when, by the clock of Postgres.
    """

    name: str
    task: str
    state: Literal["begun", "done", "not_done"]
    run_id: str
    begun_by: str
    checkpoint_id: str
    begun_at: datetime
    ended_at: datetime | None


async def read_effects(
    database: PsycopgPool, thread_id: str, *, limit: int
) -> tuple[ThreadEffect, ...]:
    """The newest side effects of a thread, the newest first."""
    rows = await database.fetch(_SQL["of_thread"], thread_id, limit)
    return tuple(ThreadEffect(**row) for row in rows)
