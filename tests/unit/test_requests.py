"""The waiters for the releases of a batch wake together and in order, whatever the others do."""

from __future__ import annotations

import asyncio
from contextvars import ContextVar
from typing import Any

from aiodurable.locks.requests import ReleaseFuture

number: ContextVar[int] = ContextVar("number")


async def wait_for(release: ReleaseFuture, mine: int, woken: list[int]) -> None:
    number.set(mine)
    assert await release == {7: 0}
    woken.append(number.get())


async def test_all_are_woken_in_their_order_each_in_its_own_context() -> None:
    release, woken = ReleaseFuture(), list[int]()
    tasks = [asyncio.create_task(wait_for(release, mine, woken)) for mine in range(5)]
    await asyncio.sleep(0)
    release.set_result({7: 0})
    await asyncio.gather(*tasks)
    assert woken == [0, 1, 2, 3, 4]
    assert await release == {7: 0}, "who comes later does not wait"


async def test_one_that_fails_does_not_keep_the_others_asleep() -> None:
    failed: list[dict[str, Any]] = []
    loop = asyncio.get_running_loop()
    loop.set_exception_handler(lambda _loop, told: failed.append(told))
    release, woken = ReleaseFuture(), list[int]()
    release.add_done_callback(lambda _: 1 / 0)
    task = asyncio.create_task(wait_for(release, 1, woken))
    await asyncio.sleep(0)
    release.set_result({7: 0})
    await task
    assert woken == [1]
    assert [type(told["exception"]) for told in failed] == [ZeroDivisionError]


async def test_a_caller_cancelled_meanwhile_is_cancelled_with_the_answer() -> None:
    release, woken = ReleaseFuture(), list[int]()
    task = asyncio.create_task(wait_for(release, 1, woken))
    await asyncio.sleep(0)
    task.cancel()
    await asyncio.sleep(0)
    assert not task.done()
    release.set_result({7: 0})
    await asyncio.wait([task])
    assert task.cancelled()
    assert woken == []
