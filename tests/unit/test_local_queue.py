"""Within a process a lock goes from task to task, but not for ever: other processes get their
chance.
"""

from __future__ import annotations

import asyncio
from typing import Any, cast

from aiodurable.locks.local_queue import LocalQueue
from tests.support.waiting import wait_until

KEY = 7
SESSION = cast("Any", object())


async def waiting(turns: LocalQueue, count: int) -> list[asyncio.Task[Any]]:
    tasks = [asyncio.create_task(turns.wait(KEY)) for _ in range(count)]
    await wait_until(lambda: turns.waiting == count, what="all to wait")
    return tasks


async def test_after_32_handoffs_the_lock_goes_back_to_postgres_although_tasks_here_wait_for_it() -> (
    None
):
    turns = LocalQueue()
    assert turns.try_enter(KEY)
    tasks = await waiting(turns, 100)
    for number in range(32):
        assert turns.hand_off(KEY, SESSION)
        assert await tasks[number] is SESSION
    assert not turns.hand_off(KEY, SESSION), (
        "another process would wait for as long as somebody waits here"
    )
    assert turns.has_waiters(KEY)
    turns.leave(KEY)
    assert await tasks[32] is None  # the next one asks Postgres, and may be refused
    for number in range(33, 65):  # and once it has the lock, it begins again
        assert turns.hand_off(KEY, SESSION)
        assert await tasks[number] is SESSION
    assert not turns.hand_off(KEY, SESSION)
    for task in tasks:
        task.cancel()
    await asyncio.wait(tasks)


async def test_a_lock_that_nobody_here_waits_for_is_not_handed_on() -> None:
    turns = LocalQueue()
    assert turns.try_enter(KEY)
    [task] = await waiting(turns, 1)
    task.cancel()
    await asyncio.wait({task})
    assert not turns.hand_off(KEY, SESSION)
    turns.leave(KEY)
    assert turns.try_enter(KEY)
