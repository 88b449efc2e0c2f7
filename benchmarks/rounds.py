"""Contenders in turns, so that a ratio holds although the machine's speed drifts."""

from __future__ import annotations

import statistics
from collections.abc import Awaitable, Callable, Mapping, Sequence

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
