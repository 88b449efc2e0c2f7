"""A circuit that opens, lets one probe through, and counts only what says something about
Postgres.
"""

from __future__ import annotations

import asyncio

import pytest

from aiodurable.errors import CircuitOpenError, ConfigurationError, PostgresUnavailableError
from aiodurable.postgres.circuit_breaker import CircuitBreaker


class Clock:
    now = 100.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def breaker(clock: Clock) -> CircuitBreaker:
    return CircuitBreaker(threshold=3, pause_s=10, max_pause_s=25, clock=clock)


async def fails(
    breaker: CircuitBreaker, error: type[BaseException] = PostgresUnavailableError
) -> None:
    with pytest.raises(error):
        async with breaker.call():
            raise error("gone") if error is not asyncio.CancelledError else asyncio.CancelledError


async def opened(breaker: CircuitBreaker) -> None:
    for _ in range(3):
        assert breaker.state == "closed"
        await fails(breaker)
    assert breaker.state == "open"


async def test_so_many_failures_in_a_row_open_it(breaker: CircuitBreaker) -> None:
    await fails(breaker)
    await fails(breaker)
    async with breaker.call():
        pass
    await opened(breaker)
    with pytest.raises(CircuitOpenError) as refused:
        async with breaker.call():
            pytest.fail("called")
    assert 5 <= refused.value.retry_after_s <= 10
    assert refused.value.retry_after_s == breaker.retry_after_s


@pytest.mark.parametrize("error", [asyncio.CancelledError, ValueError, KeyboardInterrupt])
async def test_what_says_nothing_about_postgres_does_not_count(
    breaker: CircuitBreaker, error: type[BaseException]
) -> None:
    for _ in range(10):
        await fails(breaker, error)
    assert breaker.state == "closed"


async def test_one_probe_is_let_through_and_its_success_closes_it(
    breaker: CircuitBreaker, clock: Clock
) -> None:
    await opened(breaker)
    clock.now += 10
    assert breaker.state == "half-open"
    assert breaker.retry_after_s == 0
    through = 0

    async def call() -> None:
        nonlocal through
        async with breaker.call():
            through += 1
            await asyncio.sleep(0)

    results = await asyncio.gather(*(call() for _ in range(20)), return_exceptions=True)
    assert through == 1
    assert sum(isinstance(result, CircuitOpenError) for result in results) == 19
    assert breaker.state == "closed"
    await opened(breaker)


async def test_a_failed_probe_opens_it_for_longer_up_to_a_bound(
    breaker: CircuitBreaker, clock: Clock
) -> None:
    await opened(breaker)
    for least, most in ((10, 20), (12.5, 25), (12.5, 25)):
        clock.now += breaker.retry_after_s
        await fails(breaker)
        assert breaker.state == "open"
        assert least <= breaker.retry_after_s <= most


@pytest.mark.parametrize("error", [asyncio.CancelledError, ValueError])
async def test_a_probe_that_says_nothing_leaves_the_next_to_probe(
    breaker: CircuitBreaker, clock: Clock, error: type[BaseException]
) -> None:
    await opened(breaker)
    clock.now += 10
    await fails(breaker, error)
    assert breaker.state == "half-open"
    async with breaker.call():
        pass
    assert breaker.state == "closed"


async def test_a_straggler_from_before_neither_closes_nor_prolongs(
    breaker: CircuitBreaker, clock: Clock
) -> None:
    late_success, late_failure = breaker.call(), breaker.call()
    await late_success.__aenter__()
    await late_failure.__aenter__()
    await opened(breaker)
    after = breaker.retry_after_s
    await late_success.__aexit__(None, None, None)
    await late_failure.__aexit__(OSError, OSError(), None)
    assert breaker.state == "open"
    assert breaker.retry_after_s == after
    clock.now += 10
    assert breaker.state == "half-open"


async def test_a_burst_of_failures_opens_nothing_before_they_have_lasted(clock: Clock) -> None:
    breaker = CircuitBreaker(threshold=3, after_s=15, clock=clock)
    for _ in range(100):
        await fails(breaker)
    assert breaker.state == "closed", "a restart fails whatever is under way in one moment"
    clock.now += 10
    await fails(breaker)
    assert breaker.state == "closed"
    clock.now += 5
    await fails(breaker)
    assert breaker.state == "open"


async def test_failures_far_apart_are_no_row(clock: Clock) -> None:
    breaker = CircuitBreaker(threshold=3, after_s=15, clock=clock)
    for _ in range(10):
        await fails(breaker)
        clock.now += 16
    assert breaker.state == "closed"


async def test_calls_in_a_row_that_wait_for_long_before_they_fail_open_it(clock: Clock) -> None:
    breaker = CircuitBreaker(threshold=3, after_s=15, clock=clock)
    for _ in range(3):
        assert breaker.state == "closed"
        with pytest.raises(PostgresUnavailableError):
            async with breaker.call():
                clock.now += 16
                raise PostgresUnavailableError("no answer")
    assert breaker.state == "open"


async def test_an_urgent_call_goes_through_and_only_its_success_counts(
    breaker: CircuitBreaker, clock: Clock
) -> None:
    await opened(breaker)
    after = breaker.retry_after_s
    with pytest.raises(OSError, match="away"):
        async with breaker.call(urgent=True):
            raise OSError("away")
    assert (breaker.state, breaker.retry_after_s) == ("open", after)
    async with breaker.call(urgent=True):
        assert breaker.state == "open"
    assert breaker.state == "closed"


@pytest.mark.parametrize(
    "options", [{"threshold": 0}, {"after_s": -1}, {"pause_s": 0}, {"pause_s": 2, "max_pause_s": 1}]
)
def test_a_breaker_that_cannot_work_is_refused(options: dict[str, float]) -> None:
    with pytest.raises(ConfigurationError):
        CircuitBreaker(**options)  # pyright: ignore[reportArgumentType]


async def test_the_message_says_for_how_long_nothing_has_succeeded(clock: Clock) -> None:
    """Also where the failures lie further apart than a row of them may."""
    breaker = CircuitBreaker(threshold=1, after_s=5, pause_s=10, clock=clock)
    await fails(breaker)
    for _ in range(3):
        clock.now += 8
        await fails(breaker)
    clock.now += 4
    await fails(breaker)
    clock.now += 1
    await fails(breaker)
    with pytest.raises(CircuitOpenError, match="for 29 s"):
        async with breaker.call():
            pytest.fail("called")


async def test_a_call_that_finds_nothing_waits_less_the_longer_the_outage_lasts(
    clock: Clock,
) -> None:
    breaker = CircuitBreaker(threshold=5, after_s=15, clock=clock)
    assert breaker.patience_s == 15
    await fails(breaker)
    clock.now += 10
    assert breaker.patience_s == 5
    await fails(breaker)
    clock.now += 10
    assert breaker.patience_s == 1
    async with breaker.call():
        pass
    assert breaker.patience_s == 15
