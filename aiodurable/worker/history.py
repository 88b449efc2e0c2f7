"""The history of the last day: one worker of all takes a sample each five minutes.

There is no leader: the worker that inserts the row of an interval counts what belongs into it. One
that dies meanwhile leaves a row without numbers, and the next interval has another.
"""

from __future__ import annotations

import json
import time
from collections.abc import Mapping
from typing import Any, Final

from aiodurable.postgres.sql import load
from aiodurable.runs.services import Services
from aiodurable.threads import Filter

__all__ = ["Sampler"]

_SQL = load("insights")
_EVERY_S: Final = 300.0
_LOOK_S: Final = 60.0
"""Seconds between two tries to be the first of an interval."""
_KEPT_S: Final = 25 * 3600.0
_MOST_WAITING: Final = 10_000
_MOST_ENDED: Final = 20_000
_UNSEEN_S: Final = 600.0
"""Seconds for which the row of a worker that died is left, for those who wonder where it is."""
_AUDIT_S: Final = 90 * 86_400.0
_MOST_AUDITED: Final = 10_000
"""Audit records removed at a time."""
_WAITING: Final = ("ready", "scheduled", "blocked", "limited", "claimed")


class Sampler:
    """Takes samples.

    Args:
        services: the open services.
    """

    def __init__(self, services: Services) -> None:
        self._services = services
        self._tried = -_LOOK_S

    async def sample(self) -> bool:
        """Take one, unless this interval has one; whether it did. Also removes what is too old."""
        now = time.monotonic()
        if now - self._tried < _LOOK_S:
            return False
        self._tried = now
        direct = self._services.checkpoints.direct
        taken = await direct.fetch(_SQL["take_slot"], _EVERY_S, _KEPT_S)
        if not taken:
            return False
        await direct.fetch(_SQL["tidy"], _UNSEEN_S, _AUDIT_S, _MOST_AUDITED)
        await self._write(taken[0])
        return True

    async def _write(self, slot: Mapping[str, Any]) -> None:
        database = self._services.checkpoints.database
        counts = await self._services.threads.counts.estimate(Filter.of(status=None))
        depth = await database.fetch(_SQL["depth"], _MOST_WAITING)
        since_s = min(slot["last_s"] or _EVERY_S, _KEPT_S)
        ended = await database.fetch(_SQL["ended"], since_s, _MOST_ENDED)
        if sum(row["count"] for row in ended) >= _MOST_ENDED:
            since_s = max(row["age_s"] for row in ended)
        await database.execute(
            _SQL["write_sample"],
            slot["at"],
            json.dumps(counts.by_status),
            sorted(counts.estimated),
            json.dumps({row["state"]: row["count"] for row in depth if row["state"] in _WAITING}),
            json.dumps({row["status"]: row["count"] for row in ended}),
            since_s,
        )
