"""The queues: what waits in each, for how long, and for which keys."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence
from typing import Any, Final

from aiodurable.insights.models import KeyPressure, QueueInsight
from aiodurable.postgres.pool import PsycopgPool
from aiodurable.postgres.sql import load

__all__ = ["MOST", "oldest_ready", "queue_names", "queues"]

_SQL = load("insights")
MOST: Final = 10_000
"""Runs of one state that are counted by their indexes alone."""
_MOST_OF_ONE: Final = 5_000
_MOST_OF_ALL: Final = 10_000
"""Rows of one state that are read for their keys: of one queue, and of all."""
_MOST_KEYS: Final = 20
_MOST_GROUPS: Final = 200
"""Fairness keys whose first run is looked at."""


async def queues(database: PsycopgPool) -> list[QueueInsight]:
    """See `Insights.queues`."""
    names = await queue_names(database)
    of: dict[str, dict[str, int]] = defaultdict(dict)
    keys: dict[str, list[KeyPressure]] = defaultdict(list)
    all_of_them = [row["name"] for row in names]
    most = max(500, min(_MOST_OF_ONE, _MOST_OF_ALL // max(1, len(names))))
    for row in await database.fetch(_SQL["pressure"], all_of_them, most, _MOST_KEYS):
        if row["kind"] == "state":
            of[row["queue"]][row["key"]] = row["waiting"]
        else:
            keys[row["queue"]].append(
                KeyPressure(row["kind"], row["key"], row["waiting"], row["running"])
            )
    oldest = await oldest_ready(database, all_of_them)
    found: list[QueueInsight] = []
    for row in names:
        name, capped = row["name"], row.pop("capped")
        states = of[name]
        found.append(
            QueueInsight(
                **row,
                ready=states.get("ready", 0),
                limited=states.get("limited", 0),
                claimed=states.get("claimed", 0),
                running=states.get("running", 0),
                capped=capped or max(states.values(), default=0) >= most,
                oldest_ready_age_s=oldest.get(name),
                keys=tuple(keys[name]),
            )
        )
    return found


async def queue_names(database: PsycopgPool) -> Sequence[dict[str, Any]]:
    """The queues by name, with their limits, and what is scheduled and blocked in them."""
    return await database.fetch(_SQL["queue_names"], MOST)


async def oldest_ready(database: PsycopgPool, names: Sequence[str]) -> Mapping[str, float]:
    """Of these queues, seconds since the oldest run that is ready was accepted."""
    rows = await database.fetch(_SQL["oldest_ready"], list(names), _MOST_GROUPS)
    return {row["queue"]: row["age_s"] for row in rows}
