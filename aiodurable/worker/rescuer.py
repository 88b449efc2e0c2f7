"""Rescue runs of dead processes: their lease is free, and their process has no connection left."""

from __future__ import annotations

import logging
import time
from collections.abc import Sequence

from aiodurable.events import RunRescued, emit
from aiodurable.runs.services import Services
from aiodurable.worker.claims import SQL

__all__ = ["Rescuer"]

_log = logging.getLogger(__name__)


class Rescuer:
    """Looks for orphans.

    Args:
        services: the open services.
        graphs: names of the graphs whose runs it rescues.
        queue: where a run goes that `Durable.run` began.
    """

    def __init__(self, services: Services, graphs: Sequence[str], *, queue: str) -> None:
        self._services = services
        self._graphs = list(graphs)
        self._queue = queue
        self._seen: dict[tuple[str, int | None], float] = {}

    async def look(self) -> int:
        """Rescue what is an orphan for sure; how many runs that were.

        One whose process still has connections is left to it for the grace within which it may
        have its lease again.
        """
        direct = self._services.checkpoints.direct
        grace_s = self._services.recovery_grace_s
        rows = await direct.fetch(SQL["orphans"], self._graphs, grace_s)
        now = time.monotonic()
        seen = {(row["run_id"], row["token"]): row["may_live"] for row in rows}
        self._seen = {key: self._seen.get(key, now) for key in seen}
        lost = [
            key
            for key, may_live in seen.items()
            if not may_live or now - self._seen[key] >= grace_s
        ]
        if not lost:
            return 0
        run_ids, tokens = [key[0] for key in lost], [key[1] for key in lost]
        rescued = await direct.fetch(SQL["rescue"], run_ids, tokens, self._queue)
        for row in rescued:
            _log.info("run %s of thread %r was left by its process: %s", *row.values())
            if self._services.observers:
                emit(self._services.observers, RunRescued(row["thread_id"], run_id=row["run_id"]))
        return len(rescued)
