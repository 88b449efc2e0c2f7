"""An allowance: a second's worth at once, then so many a second."""

from __future__ import annotations

import math
import time

import pytest

from aiodurable.integrations.allowance import Allowance


def test_a_second_s_worth_may_be_taken_at_once_and_more_only_as_time_passes(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    now = 1000.0
    monkeypatch.setattr(time, "monotonic", lambda: now)
    allowance = Allowance(2)
    assert [allowance.take() for _ in range(3)] == [True, True, False]
    now += 0.5
    assert [allowance.take() for _ in range(2)] == [True, False]
    now += 60
    assert [allowance.take() for _ in range(3)] == [True, True, False]


def test_one_of_a_rate_below_one_is_there_at_the_start() -> None:
    allowance = Allowance(0.001)
    assert [allowance.take() for _ in range(2)] == [True, False]


@pytest.mark.parametrize(("per_s", "taken"), [(0, False), (math.inf, True)])
def test_none_or_all_may_be_taken(per_s: float, taken: bool) -> None:
    allowance = Allowance(per_s)
    assert {allowance.take() for _ in range(1000)} == {taken}
