"""`advance`: let time pass for what waits, without waiting."""

from __future__ import annotations

from datetime import timedelta
from typing import Final

from aiodurable.durable import Durable
from aiodurable.errors import InvalidArgumentError
from aiodurable.postgres.sql import load
from aiodurable.queue.records import SQL
from aiodurable.testing.services import services_of

__all__ = ["advance"]

_SQL: Final = load("testing")


async def advance(durable: Durable, by: float | timedelta) -> int:
    """Let time pass for all runs that wait: their times become earlier by so many seconds.

    What is due then may be executed by `drain_queue`; workers are notified. The clocks of Python
    and Postgres stay as they are, and so do runs at work.

    Args:
        durable: on the database of the test; other tests' runs in it are moved, too.
        by: seconds, or a timedelta; greater than 0.

    Returns:
        How many runs wait for a time that was moved.

    Raises:
        InvalidArgumentError: `by` is 0 or less, or too long.
        ClosedError: the `Durable` is not open.
    """
    seconds = by.total_seconds() if isinstance(by, timedelta) else by
    if not 0 < seconds <= 1e10:
        raise InvalidArgumentError(
            f"cannot let {by!r} seconds pass: it must be greater than 0, and at most 1e10",
            argument="by",
        )
    direct = services_of(durable).checkpoints.direct
    moved = await direct.fetch(_SQL["advance"], float(seconds))
    if queues := sorted({row["queue"] for row in moved if row["queue"] is not None}):
        await direct.fetch(SQL["wake"], queues)
    return sum(row["scheduled"] for row in moved)
