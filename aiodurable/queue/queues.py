"""`durable.queues`: what waits in each queue, and the limits of queues, changed while they run."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from aiodurable.errors import InvalidArgumentError
from aiodurable.postgres.locked_rows import patiently
from aiodurable.queue.new_run import check_name
from aiodurable.queue.records import SQL
from aiodurable.runs.services import Services

__all__ = ["QueueStatus", "Queues"]


@dataclass(frozen=True, slots=True)
class QueueStatus:
    """A queue: its limits, and its runs that are not over.

    Attributes:
        name: the queue.
        paused: whether workers begin none of its runs.
        max_running: the most runs at work at once; None: no limit.
        max_running_per_key: the same for each concurrency key.
        rate: the most runs begun a second; None: no limit.
        burst: the most begun at once after a quiet time.
        ready: runs that a worker may begin now.
        scheduled: runs that are due later.
        blocked: runs behind another run of their thread.
        limited: runs that wait for a limit.
        running: runs at work, or about to be.
        oldest_ready_at: when the oldest run that is ready was accepted.
    """

    name: str
    paused: bool
    max_running: int | None
    max_running_per_key: int | None
    rate: float | None
    burst: int | None
    ready: int
    scheduled: int
    blocked: int
    limited: int
    running: int
    oldest_ready_at: datetime | None


class Queues:
    """The queues of a database. A queue exists while it has runs or limits.

    Args:
        opened: gives the services of the `Durable`, or raises `ClosedError`.
    """

    def __init__(self, opened: Callable[[], Services]) -> None:
        self._opened = opened

    async def list(self) -> tuple[QueueStatus, ...]:
        """The queues by name, with counts of their runs that are not over.

        It counts the rows that wait: a million of them take a good part of a second.
        """
        rows = await self._opened().checkpoints.database.fetch(SQL["queues"])
        return tuple(
            QueueStatus(**{name: row[name] for name in QueueStatus.__dataclass_fields__})
            for row in rows
        )

    async def pause(self, queue: str) -> None:
        """Begin no run of this queue any more, in any worker; those at work go on.

        Raises:
            LockTimeoutError: another transaction kept the queue's row locked for 10 seconds.
        """
        check_name("queue", queue)
        await self._change("pause", queue, True)

    async def resume(self, queue: str) -> None:
        """Begin its runs again. Raises as `pause`."""
        check_name("queue", queue)
        await self._change("pause", queue, False)
        await self._look_again(queue)

    async def scale(
        self,
        queue: str,
        *,
        max_running: int | None = None,
        max_running_per_key: int | None = None,
        rate: float | None = None,
        burst: int | None = None,
    ) -> None:
        """Set all limits of a queue, for all workers together; None: no limit. They hold from the
        next claim on, and end no run.

        Args:
            queue: the queue.
            max_running: the most runs at work at once.
            max_running_per_key: the same for each concurrency key.
            rate: the most runs begun a second, on average.
            burst: the most begun at once after a quiet time; None: one second's worth.

        Raises:
            InvalidArgumentError: a limit is out of range; nothing was changed.
            LockTimeoutError: another transaction kept the queue's row locked for 10 seconds.
        """
        check_name("queue", queue)
        for name, value, least in (
            ("max_running", max_running, 0),
            ("max_running_per_key", max_running_per_key, 0),
            ("burst", burst, 1),
        ):
            if value is not None and not least <= value < 2**31:
                raise _refused(name, value, f"{least} or more")
        if rate is not None and not 0 < rate < 1e9:
            raise _refused("rate", rate, "more than 0")
        if burst is not None and rate is None:
            raise _refused("burst", burst, "given with a rate")
        await self._change("scale", queue, max_running, max_running_per_key, rate, burst)
        await self._look_again(queue)

    async def _change(self, statement: str, queue: str, *values: Any) -> None:
        database = self._opened().checkpoints.database
        await patiently(
            lambda: database.execute(SQL[statement], queue, *values),
            f"{statement} queue {queue!r}",
            None,
            row="the queue's row",
        )

    async def _look_again(self, queue: str) -> None:
        """Let workers compare what is limited with the limits of today."""
        database = self._opened().checkpoints.database
        await database.execute(SQL["unlimit"], queue)
        await database.fetch(SQL["wake"], [queue])


def _refused(name: str, value: object, wanted: str) -> InvalidArgumentError:
    return InvalidArgumentError(f"cannot use {name}={value!r}: it must be {wanted}", argument=name)
