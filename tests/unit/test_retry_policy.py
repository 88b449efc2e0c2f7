"""A retry policy is checked where it is made, and stored only where another process can read it."""

from __future__ import annotations

import math

import pytest

from aiodurable.errors import InvalidArgumentError
from aiodurable.runs.retry_policy import RetryPolicy, Snooze


@pytest.mark.parametrize("seconds", [math.inf, math.nan, -1, -math.inf, 1e11])
def test_a_snooze_of_no_number_of_seconds_is_refused(seconds: float) -> None:
    with pytest.raises(InvalidArgumentError, match="cannot snooze"):
        Snooze(seconds)


@pytest.mark.parametrize("name", ["max_attempts", "initial_s", "factor", "max_s", "jitter"])
@pytest.mark.parametrize("value", [math.inf, math.nan, -1])
def test_a_policy_of_no_numbers_is_refused(name: str, value: float) -> None:
    with pytest.raises(InvalidArgumentError, match=name):
        RetryPolicy(**{name: value})  # type: ignore[arg-type]


def test_a_policy_with_a_function_is_not_stored() -> None:
    with pytest.raises(InvalidArgumentError, match="cannot store a retry policy with delay"):
        RetryPolicy(delay=lambda _: 1.0).as_json()


@pytest.mark.parametrize("given", [None, math.nan, -1.0])
def test_where_a_function_gives_no_wait_the_other_fields_decide(given: float | None) -> None:
    policy = RetryPolicy(initial_s=7.0, jitter=0, delay=lambda _: given)
    assert policy.wait_s(1, ValueError()) == 7.0


def test_a_function_that_fails_leaves_the_wait_to_the_other_fields() -> None:
    def fails(error: BaseException) -> float:
        raise KeyError(str(error))

    policy = RetryPolicy(initial_s=7.0, jitter=0, delay=fails)
    assert policy.wait_s(1, ValueError()) == 7.0


def test_a_function_says_how_long_to_wait_after_an_exception() -> None:
    policy = RetryPolicy(initial_s=7.0, delay=lambda error: float(str(error)))
    assert policy.wait_s(1, ValueError("2.5")) == 2.5
