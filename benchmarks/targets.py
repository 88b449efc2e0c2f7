"""What checkpoints are to reach, and what was measured."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from .contenders import BASE, OURS


@dataclass(frozen=True, slots=True)
class Target:
    """Our figure is to be at least, or with `at_most` at most, `times` the other's; all with a
    small state.
    """

    other: str
    times: float
    concurrency: int = 50
    delay_ms: float = 0
    figure: str = "runs_per_s"
    at_most: bool = False


TARGETS = (
    Target(BASE, 3.5),
    Target(BASE, 12, delay_ms=2),
    Target("in memory", 0.55),
    Target("stock saver, exit", 1),
    Target("stock saver, exit", 2, delay_ms=2),
    Target("DBOS", 4),
    Target("Absurd", 1.7),
    Target(BASE, 1, concurrency=1),
    Target(BASE, 0.4, figure="client_cpu_ms", at_most=True),
)


RATIOS = {"runs_per_s": "ratio", "client_cpu_ms": "cpu_ratio"}
"""Where a row has the median of its rounds' ratios to the stock saver."""


def judge(rows: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """A row for each target that was measured: against the stock saver by the ratios of the rounds,
    else by the medians.
    """
    found: list[dict[str, Any]] = []
    for target in TARGETS:
        place = (target.concurrency, target.delay_ms, 0)
        ours, other = (_find(rows, name, place) for name in (OURS, target.other))
        if ours and other:
            by_rounds = ours.get(RATIOS[target.figure]) if target.other == BASE else None
            times = by_rounds or ours[target.figure] / other[target.figure]
            found.append(
                {
                    "against": target.other,
                    "figure": target.figure,
                    "concurrency": target.concurrency,
                    "delay_ms": target.delay_ms,
                    "wanted": f"{'≤' if target.at_most else '≥'} {target.times:g}×",
                    "measured": f"{times:.2f}×",
                    "met": times <= target.times if target.at_most else times >= target.times,
                }
            )
    return found


def _find(
    rows: Sequence[Mapping[str, Any]], name: str, place: tuple[int, float, int]
) -> Mapping[str, Any] | None:
    same = (row for row in rows if (row["concurrency"], row["delay_ms"], row["state_kb"]) == place)
    return next((row for row in same if row["contender"] == name), None)
