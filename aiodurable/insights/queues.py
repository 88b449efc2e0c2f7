"""The queues: what waits in each, for how long, and for which keys."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

from aiodurable.insights.models import KeyPressure, QueueInsight
from aiodurable.postgres.pool import PsycopgPool
from aiodurable.postgres.sql import load

__all__ = ["MOST", "Waiting", "queues", "waiting"]

_SQL = load("insights")
MOST: Final = 10_000
"""Runs of one state that are counted by their indexes alone."""
_MOST_OF_ONE: Final = 5_000
_MOST_OF_ALL: Final = 10_000
"""Rows of one state that are read for their keys: of one queue, and of all."""
_MOST_KEYS: Final = 20
_MOST_GROUPS: Final = 200
"""Fairness keys whose first run is looked at."""


@dataclass(frozen=True, slots=True)
class Waiting:
    """What both the overview and the queues are made of.

    Attributes:
        names: the queues by name, with their limits, and what is scheduled and blocked in them.
        oldest: by queue, seconds since the oldest run that is ready was accepted.
    """

    names: Sequence[Mapping[str, Any]]
    oldest: Mapping[str, float]


async def waiting(database: PsycopgPool) -> Waiting:
    """Read it."""
    names = await database.fetch(_SQL["queue_names"], MOST)
    all_of_them = [row["name"] for row in names]
    rows = await database.fetch(_SQL["oldest_ready"], all_of_them, _MOST_GROUPS)
    return Waiting(names, {row["queue"]: row["age_s"] for row in rows})


async def queues(database: PsycopgPool, found: Waiting) -> list[QueueInsight]:
    """See `Insights.queues`."""
    of: dict[str, dict[str, int]] = defaultdict(dict)
    keys: dict[str, list[KeyPressure]] = defaultdict(list)
    all_of_them = [row["name"] for row in found.names]
    most = max(500, min(_MOST_OF_ONE, _MOST_OF_ALL // max(1, len(all_of_them))))
    for row in await database.fetch(_SQL["pressure"], all_of_them, most, _MOST_KEYS):
        if row["kind"] == "state":
            of[row["queue"]][row["key"]] = row["waiting"]
        else:
            keys[row["queue"]].append(
                KeyPressure(row["kind"], row["key"], row["waiting"], row["running"])
            )
    shown: list[QueueInsight] = []
    for row in found.names:
        name, capped = row["name"], row["capped"]
        states = of[name]
        shown.append(
            QueueInsight(
                **{column: value for column, value in row.items() if column != "capped"},
                ready=states.get("ready", 0),
                limited=states.get("limited", 0),
                claimed=states.get("claimed", 0),
                running=states.get("running", 0),
                capped=capped or max(states.values(), default=0) >= most,
                oldest_ready_age_s=found.oldest.get(name),
                keys=tuple(keys[name]),
            )
        )
    return shown
