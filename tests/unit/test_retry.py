"""Pauses between tries: bounded, spread at random, ended by a cancellation, and free of what a
driver said.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterator

import pytest
import stamina
from hypothesis import given
from hypothesis import strategies as st
from stamina.instrumentation import RetryDetails, get_on_retry_hooks, set_on_retry_hooks

from aiodurable.errors import PostgresUnavailableError
from aiodurable.postgres import retry
from aiodurable.postgres.retry import Backoff
from aiodurable.postgres.startup import wait_until_ready
from tests.support.waiting import within

POLICIES = [value for value in vars(retry).values() if isinstance(value, Backoff)]


@given(policy=st.sampled_from(POLICIES), failures=st.integers(min_value=1, max_value=10**6))
def test_a_pause_stays_within_its_policy_after_any_number_of_failures(
    policy: Backoff, failures: int
) -> None:
    longest = min(policy.max_s, policy.first_s * 2 ** min(failures - 1, 30))
    assert longest * (1 - policy.jitter) <= policy.pause_s(failures) <= longest <= policy.max_s


@pytest.mark.parametrize("policy", POLICIES)
def test_two_processes_that_failed_together_do_not_try_again_together(policy: Backoff) -> None:
    assert len({policy.pause_s(1) for _ in range(10)}) > 1


def test_there_is_no_pause_before_the_first_failure() -> None:
    assert retry.STATEMENT.pause_s(0) == 0.0


async def test_a_cancellation_ends_a_pause_at_once() -> None:
    pausing = asyncio.create_task(Backoff(60, 60).pause())
    await asyncio.sleep(0)
    pausing.cancel()
    with pytest.raises(asyncio.CancelledError):
        await within(30, pausing, what="the end of the pause")


@pytest.fixture
def seen() -> Iterator[list[RetryDetails]]:
    before = get_on_retry_hooks()
    details: list[RetryDetails] = []
    set_on_retry_hooks([details.append])
    yield details
    set_on_retry_hooks(before)


async def test_a_hook_that_watches_a_start_gets_nothing_that_a_driver_was_given(
    seen: list[RetryDetails],
) -> None:
    tries = 0

    async def start() -> None:
        nonlocal tries
        tries += 1
        if tries == 1:
            raise PostgresUnavailableError("cannot reach it") from OSError("sent: hunter2")

    await within(30, wait_until_ready(start, wanted="a pool", timeout_s=5), what="the second try")
    [details] = seen
    assert "hunter2" not in repr((details.caused_by, details.args, details.kwargs))


async def test_a_pause_is_none_of_the_retries_that_an_application_turns_off() -> None:
    """Applications turn stamina off for their tests; a lock session must come back all the same."""
    stamina.set_active(False)
    try:
        assert retry.SESSION_RECONNECT.pause_s(3) > 0
        await Backoff(0.001, 0.001).pause()
    finally:
        stamina.set_active(True)
