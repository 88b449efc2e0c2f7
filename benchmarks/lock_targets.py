"""What locks are to reach, and what was measured."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from .lockers import ASYNCPG, ASYNCPG_NO_RESET, ONE_ASYNCPG, PGBENCH, PSYCOPG, REDIS

TIMES: Mapping[str, float] = {
    ASYNCPG: 16,
    ASYNCPG_NO_RESET: 16,
    PSYCOPG: 16,
    REDIS: 18,
    PGBENCH: 2.5,
}
"""How many times a peer's pairs a second are aimed at, with 1000 tasks."""


@dataclass(frozen=True, slots=True)
class Measured:
    """The rows of pairs, whose ratios are ours to theirs, and by name what else was measured of
    leases.
    """

    rows: Sequence[Mapping[str, Any]]
    more: Mapping[str, Mapping[str, float]]

    def ratio(self, other: str, figure: str, tasks: int) -> float | None:
        found = (row for row in self.rows if (row["contender"], row["tasks"]) == (other, tasks))
        return next((row[figure] for row in found), None)


def judge(measured: Measured) -> list[dict[str, Any]]:
    """A row for each target; one whose peer was not measured says so."""
    ratio, more = measured.ratio, measured.more
    return [
        *(
            _at_least(f"pairs/s of {peer}, 1000 tasks", times, ratio(peer, "ratio", 1000))
            for peer, times in TIMES.items()
        ),
        _at_most(
            f"server CPU of {ASYNCPG}, 1000 tasks",
            1 / 30,
            ratio(ASYNCPG, "server_ratio", 1000),
            "×",
        ),
        _at_most(
            f"server CPU of {ASYNCPG_NO_RESET}, 1000 tasks",
            1 / 30,
            ratio(ASYNCPG_NO_RESET, "server_ratio", 1000),
            "×",
        ),
        _at_most(f"p50 of {ONE_ASYNCPG}, one task", 1.2, ratio(ONE_ASYNCPG, "p50_ratio", 1), "×"),
        _at_most(
            f"connections for {more['many']['leases']} leases", 2, more["many"]["connections"]
        ),
        _at_most("handoff between processes, p50", 2.5, more["handoff"]["p50_ms"], " ms"),
        _at_most("after kill -9 of the holder, p99", 150, more["kill"]["p99_ms"], " ms"),
        _at_most(
            f"{more['idle']['leases']} idle leases, both sides",
            0.1,
            _both(more["idle"]),
            " % of a core",
        ),
    ]


def _both(idle: Mapping[str, float]) -> float:
    return idle["client_percent"] + idle["server_percent"]


def _at_least(what: str, wanted: float, found: float | None) -> dict[str, Any]:
    return _row(what, f"≥ {wanted:g}×", found, "×", met=found is not None and found >= wanted)


def _at_most(what: str, wanted: float, found: float | None, unit: str = "") -> dict[str, Any]:
    return _row(
        what, f"≤ {wanted:.3g}{unit}", found, unit, met=found is not None and found <= wanted
    )


def _row(what: str, wanted: str, found: float | None, unit: str, *, met: bool) -> dict[str, Any]:
    if found is None:
        return {"target": what, "wanted": wanted, "measured": "not measured", "met": "–"}
    return {"target": what, "wanted": wanted, "measured": f"{found:.3g}{unit}", "met": met}
