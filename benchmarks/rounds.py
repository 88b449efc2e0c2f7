"""Contenders in turns, so that a ratio holds although the machine's speed drifts."""

from __future__ import annotations

import math
import statistics
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass

Figures = Mapping[str, float]
Measured = dict[str, list[Figures]]
"""The figures of each contender, round by round."""


async def in_turns(
    contenders: Mapping[str, Callable[[], Awaitable[Figures]]],
    rounds: int,
    *,
    warm_up: int = 1,
    after_round: Callable[[Measured], object] | None = None,
) -> Measured:
    """Each contender once a round; every second round backwards, so that nobody always comes after
    the same one.

    The first `warm_up` rounds are run and forgotten. After each that counts, `after_round` gets
    what was measured so far, to save it: a benchmark that is cut short then leaves a result.
    """
    measured: Measured = {name: [] for name in contenders}
    for number in range(-warm_up, rounds):
        order = list(contenders.items())
        for name, measure in order if number % 2 == 0 else reversed(order):
            figures = await measure()
            if number >= 0:
                measured[name].append(figures)
        if number >= 0 and after_round:
            after_round(measured)
    return measured


def medians(rounds: Sequence[Figures]) -> dict[str, float]:
    """The median of each figure over the rounds."""
    return {key: statistics.median(figures[key] for figures in rounds) for key in rounds[0]}


def ratio(rounds: Sequence[Figures], base: Sequence[Figures], figure: str) -> float:
    """How many times the base's figure: the median of the ratios of each round, not the ratio of
    the medians.
    """
    return statistics.median(
        one[figure] / other[figure] for one, other in zip(rounds, base, strict=True)
    )


@dataclass(frozen=True, slots=True)
class Spread:
    """The median of what was measured, and between which two the true one lies."""

    median: float
    low: float
    high: float


def spread(measured: Sequence[float]) -> Spread:
    """With a probability of at least 95 %, without assuming how they are distributed; of fewer than
    six, the smallest and the largest (of five it is 94 %, of three 75 %).

    Each is below the true median with a probability of a half, so the number of those that are is
    binomial (W. J. Conover, Practical Nonparametric Statistics, 3.2).
    """
    ordered, count = sorted(measured), len(measured)
    outside, left = 0, 0
    """What is left out on either side, and in how many of the 2**count cases the true median would
    be there."""
    while 2 * (left + math.comb(count, outside)) <= 0.05 * 2**count:
        left += math.comb(count, outside)
        outside += 1
    outside = max(0, outside - 1)
    return Spread(statistics.median(ordered), ordered[outside], ordered[-1 - outside])
