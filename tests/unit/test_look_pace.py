"""Workers that would see the same share their looks."""

from __future__ import annotations

import itertools

import pytest

from aiodurable.worker.pace import LookPace


def looks(pace: LookPace, until_s: float) -> list[float]:
    """When it looks, by a clock that starts anywhere."""
    now, at = 1_000_000.2, list[float]()
    while now < 1_000_000.2 + until_s:
        now += pace.wait_s(now)
        at.append(now)
    return at


@pytest.mark.parametrize("workers", [1, 2, 3, 8])
def test_of_those_that_share_one_looks_each_half_second_and_each_seldom(workers: int) -> None:
    at = list[float]()
    for rank in range(workers):
        pace = LookPace()
        pace.share(rank, workers - 1)
        own = looks(pace, 60)
        assert len(own) == pytest.approx(60 / (workers * 0.375), abs=10)
        at += own
    at.sort()
    assert max(b - a for a, b in itertools.pairwise(at)) < 0.51


def test_nobody_looks_less_often_than_each_three_seconds_however_many_there_are() -> None:
    pace = LookPace()
    pace.share(rank=70, others=99)
    own = looks(pace, 60)
    assert max(b - a for a, b in itertools.pairwise(own)) < 3.01


def test_one_that_dies_leaves_a_gap_of_one_slot() -> None:
    at = list[float]()
    for rank in (0, 1, 3):
        pace = LookPace()
        pace.share(rank, 3)
        at += looks(pace, 60)
    at.sort()
    assert max(b - a for a, b in itertools.pairwise(at)) < 0.76
