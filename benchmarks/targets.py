"""What checkpoints are to reach, and what was measured."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from .contenders import BASE, LEAN, OURS

ABSURD = "Absurd"


@dataclass(frozen=True, slots=True)
class Target:
    """Our figure is to be at least, or with `at_most` at most, `times` the other's."""

    other: str
    times: float
    concurrency: int = 50
    delay_ms: float = 0
    state_kb: int = 0
    figure: str = "runs_per_s"
    at_most: bool = False


TARGETS = (
    Target(BASE, 4),
    Target("in memory", 0.85),
    Target(ABSURD, 1.8),
    Target(BASE, 1.3, concurrency=1),
    Target(BASE, 1.4, concurrency=1, delay_ms=2),
    Target(BASE, 4, state_kb=10),
    Target(BASE, 4, state_kb=100),
    Target(ABSURD, 1.5, state_kb=100),
    Target(BASE, 0.9, figure="wal_kb", at_most=True),
    Target(BASE, 0.6, state_kb=100, figure="wal_kb", at_most=True),
)

SHOWN = {"runs_per_s": "runs/s", "wal_kb": "WAL a run"}


def judge(
    rows: Sequence[Mapping[str, Any]], costs: Sequence[Mapping[str, Any]] = ()
) -> list[dict[str, Any]]:
    """A row for each target that was measured, and one more for lean rows: runs a second against
    the stock saver by the ratios of the rounds, else by the medians.

    Args:
        rows: what took turns.
        costs: what a run costs beside time.
    """
    found: list[dict[str, Any]] = []
    for target in TARGETS:
        for whose in (OURS, LEAN):
            if target.figure == "runs_per_s":
                times = _of_speeds(rows, target, whose)
            else:
                times = _of_costs(costs, target, whose)
            if times is not None:
                found.append(
                    {
                        "whose": whose,
                        "against": target.other,
                        "figure": SHOWN[target.figure],
                        "state_kb": target.state_kb,
                        "concurrency": target.concurrency,
                        "delay_ms": target.delay_ms,
                        "wanted": f"{'≤' if target.at_most else '≥'} {target.times:g}×",
                        "measured": f"{times:.2f}×",
                        "met": times <= target.times if target.at_most else times >= target.times,
                    }
                )
    return found


def _of_speeds(rows: Sequence[Mapping[str, Any]], target: Target, whose: str) -> float | None:
    place = (target.concurrency, target.delay_ms, target.state_kb)
    here = {
        row["contender"]: row
        for row in rows
        if (row["concurrency"], row["delay_ms"], row["state_kb"]) == place
    }
    ours, other = here.get(whose), here.get(target.other)
    if ours is None or other is None:
        return None
    if target.other == BASE and "ratio" in ours:
        return ours["ratio"]
    return ours[target.figure] / other[target.figure]


def _of_costs(costs: Sequence[Mapping[str, Any]], target: Target, whose: str) -> float | None:
    here = {row["contender"]: row for row in costs if row["state_kb"] == target.state_kb}
    ours, other = here.get(whose), here.get(target.other)
    return None if ours is None or other is None else ours[target.figure] / other[target.figure]
