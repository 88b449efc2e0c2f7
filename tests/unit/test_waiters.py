import pytest

from tests.support.waiting import wait_until


async def test_a_fact_that_never_comes_is_named_with_the_last_value_seen() -> None:
    with pytest.raises(TimeoutError, match=r"the lock to be free; last seen: 0"):
        await wait_until(lambda: 0, timeout=0.02, what="the lock to be free")


async def test_the_value_waited_for_is_returned() -> None:
    values = iter((0, 0, 7))
    assert await wait_until(lambda: next(values)) == 7
