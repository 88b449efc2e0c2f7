"""The filters of a list of runs, and its pages."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from datetime import UTC, datetime, timedelta
from enum import StrEnum
from typing import Any, Final, Literal, NamedTuple, TypedDict, TypeVar

from aiodurable.errors import InvalidArgumentError
from aiodurable.models import ClaimState, RunRecord, RunStatus
from aiodurable.postgres.pool import PsycopgPool
from aiodurable.postgres.sql import load
from aiodurable.queue.records import SQL, queued_record
from aiodurable.runs.services import Services
from aiodurable.thread_id import has_nul, validate_text
from aiodurable.threads.filters import Age

__all__ = ["RunFilters", "RunPage", "newest", "page"]

E = TypeVar("E", bound=StrEnum)

_FEW: Final = 5_000
"""Runs that are not over, or wait in a queue: so many are read and sorted, where a filter is about
these alone.
"""

_ORDER: Final = (
    "statuses",
    "thread_id",
    "graph",
    "queue",
    "claim_states",
    "fairness_key",
    "concurrency_key",
    "schedule_id",
    "metadata",
    "older_than",
    "newer_than",
)
"""The parameters of `page` after its first two, and of `newest` after its first three."""

_TEXTS: Final = (
    "thread_id",
    "graph",
    "queue",
    "fairness_key",
    "concurrency_key",
    "schedule_id",
    "metadata",
)

_UNFINISHED: Final = frozenset(
    {
        RunStatus.QUEUED,
        RunStatus.RUNNING,
        RunStatus.FAILED,
        RunStatus.PAUSED,
        RunStatus.QUARANTINED,
    }
)


RunStatusName = Literal[
    "queued",
    "running",
    "complete",
    "failed",
    "interrupted",
    "paused",
    "rejected",
    "superseded",
    "quarantined",
]
"""The text of a `RunStatus`."""
ClaimStateName = Literal["ready", "scheduled", "blocked", "limited", "claimed"]
"""The text of a `ClaimState`."""


class RunFilters(TypedDict, total=False):
    """The filters of a list of runs; a run must pass all that are given, and None passes every run.

    An invalid value raises `InvalidArgumentError`.
    """

    status: RunStatus | RunStatusName | Iterable[RunStatus | RunStatusName] | None
    """One status or several. Runs that are not over are found by an index of their own."""
    claim_state: ClaimState | ClaimStateName | Iterable[ClaimState | ClaimStateName] | None
    """What a worker may do with it: one state or several."""
    thread_id: str | None
    """The thread it advances."""
    graph: str | None
    """The name of its graph."""
    queue: str | None
    """Where it was accepted to wait."""
    fairness_key: str | None
    """The key of the rotation in which workers serve its queue."""
    concurrency_key: str | None
    """The key that `max_running_per_key` of its queue counts."""
    schedule_id: str | None
    """The schedule that made it."""
    metadata: Mapping[str, Any] | None
    """What its metadata contains, as Postgres's `@>` compares."""
    older_than: Age | None
    """An age, or a moment with a time zone: it was accepted before."""
    newer_than: Age | None
    """An age, or a moment with a time zone: it was accepted since."""


class RunPage(NamedTuple):
    """One page of a list.

    Attributes:
        runs: by run_id; of `Runs.newest` the greatest first.
        after: the `after` of the next page; None: there is none.
    """

    runs: tuple[RunRecord, ...]
    after: str | None


async def page(
    services: Services, filters: Mapping[str, Any], *, after: str | None, limit: int
) -> RunPage:
    """The next `limit` runs that pass."""
    given, parts = _parameters(filters)
    validate_text(after=after)
    statement = load("queue", *parts)["page"]
    rows = await services.checkpoints.database.fetch(
        statement, after or "", limit + 1, *(given[name] for name in _ORDER if name in given)
    )
    runs = tuple(map(queued_record, rows[:limit]))
    return RunPage(runs, runs[-1].run_id if len(rows) > limit else None)


async def newest(
    services: Services,
    filters: Mapping[str, Any],
    *,
    after: str | None,
    limit: int,
    max_scanned: int,
) -> RunPage:
    """The same from the greatest run_id downwards, out of `max_scanned` runs at most."""
    database = services.checkpoints.database
    given, parts = _parameters(filters)
    validate_text(after=after)
    bounds = {} if after is None else {"after": after}
    reads = await _narrow(database, given, parts)
    if not reads:
        statement = load("queue", *bounds)["oldest_scanned"]
        if edge := await database.fetch(statement, max_scanned, *bounds.values()):
            bounds["oldest"] = edge[0]["run_id"]
    asked = [part for part in parts if part != "unfinished"]
    rows = await database.fetch(
        load("queue", *bounds, *asked, *(reads or ("walk",)))["newest"],
        limit + 1,
        *bounds.values(),
        *(given[name] for name in _ORDER if name in given),
    )
    runs = tuple(map(queued_record, rows[:limit]))
    return RunPage(runs, runs[-1].run_id if len(rows) > limit else bounds.get("oldest"))


async def _narrow(
    database: PsycopgPool, given: Mapping[str, Any], parts: Sequence[str]
) -> tuple[str, ...]:
    """The parts of `newest` with which it reads an index of all that may pass; none where these are
    too many, or there is no such index.
    """
    if "thread_id" in given:
        return ("few",)
    if "schedule_id" in given:
        return ("walk",)
    if "unfinished" in parts:
        (found,) = await database.fetch(SQL["few_unfinished"], given["statuses"], _FEW)
        return ("unfinished", "few") if found["few"] else ()
    if "claim_states" in given:
        (found,) = await database.fetch(SQL["few_waiting"], _FEW)
        return ("waiting", "few") if found["few"] else ()
    return ()


def _parameters(filters: Mapping[str, Any]) -> tuple[dict[str, Any], list[str]]:
    asked = {name: value for name, value in filters.items() if value is not None}
    if unknown := asked.keys() - RunFilters.__annotations__.keys():
        raise TypeError(f"there is no filter {', '.join(sorted(unknown))}")
    parts = list[str]()
    if (status := asked.pop("status", None)) is not None:
        statuses = _several("status", status, RunStatus)
        asked["statuses"] = sorted(statuses)
        if statuses <= _UNFINISHED:
            parts.append("unfinished")
    if (state := asked.pop("claim_state", None)) is not None:
        asked["claim_states"] = sorted(_several("claim_state", state, ClaimState))
    if "metadata" in asked:
        try:
            asked["metadata"] = json.dumps(
                dict(asked["metadata"]), allow_nan=False, ensure_ascii=False
            )
        except (TypeError, ValueError) as error:
            raise InvalidArgumentError(
                f"cannot search by this metadata: it is no JSON ({type(error).__name__})",
                argument="metadata",
            ) from error
    for name in ("older_than", "newer_than"):
        if name in asked:
            asked[name] = _moment(name, asked[name])
    for name in _TEXTS:
        validate_text(**{name: asked.get(name)})
    if has_nul(asked.get("metadata", "")):
        raise InvalidArgumentError(
            "cannot search by this metadata: it has a NUL character, which Postgres cannot store",
            argument="metadata",
        )
    return asked, [*parts, *asked]


def _several(name: str, value: Any, kind: type[E]) -> set[E]:
    try:
        return {kind(one) for one in ([value] if isinstance(value, str) else value)}
    except (TypeError, ValueError) as error:
        raise InvalidArgumentError(
            f"cannot search for {name}={value!r:.80}: choose from {', '.join(kind)}", argument=name
        ) from error


def _moment(name: str, value: Any) -> datetime:
    moment = datetime.now(UTC) - value if isinstance(value, timedelta) else value
    if not isinstance(moment, datetime) or moment.utcoffset() is None:
        raise InvalidArgumentError(
            f"cannot search by {name}={value!r:.80}: give a timedelta, or a datetime with a time"
            " zone",
            argument=name,
        )
    return moment
