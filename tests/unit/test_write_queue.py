"""The queue before the writers: bounded, in order, and no place is lost to a caller that went
away.
"""

import asyncio
from typing import Any

import pytest

from aiodurable.checkpoints.encoding import Rows, Write
from aiodurable.checkpoints.fences import Fence
from aiodurable.checkpoints.write_queue import WriteQueue
from aiodurable.checkpoints.write_session import WriteSession
from aiodurable.errors import ClosedError
from tests.support.waiting import within


def write(thread: str, token: int = 1, size: int = 100) -> Write:
    rows = Rows(writes=[(thread, "", "c", "task", "", 0, "a", "bytes", b"x" * size)])
    return Write(
        WriteSession(Fence(thread, token)), rows, asyncio.get_running_loop().create_future(), 0.0
    )


def backlog(**bounds: Any) -> WriteQueue:
    return WriteQueue(
        **{"batch_rows": 10, "batch_bytes": 10_000, "rows": 5, "bytes_": 100_000, **bounds}
    )


async def enter(queue: WriteQueue, item: Write) -> None:
    await queue.enter()
    try:
        queue.add(item)
    finally:
        queue.leave()


async def settle(turns: int = 5) -> None:
    for _ in range(turns):
        await asyncio.sleep(0)


async def test_a_caller_cancelled_as_it_is_admitted_hands_its_capacity_on() -> None:
    queue = backlog(rows=1)
    for _ in range(20):  # more often than may enter at once
        await within(30, enter(queue, write("first")))
        second = asyncio.create_task(enter(queue, write("second")))
        await settle()
        [first] = await queue.take()
        queue.settled([first])  # lets the second in …
        second.cancel()  # … who is gone before it walks through
        with pytest.raises(asyncio.CancelledError):
            await second


async def test_a_newcomer_that_adds_nothing_hands_its_place_on() -> None:
    queue = backlog()
    for _ in range(50):
        await within(30, queue.enter())
        queue.leave()
    await within(30, enter(queue, write("t")))


async def test_newcomers_enter_in_the_order_they_came() -> None:
    queue = backlog(rows=1)
    await enter(queue, write("0"))
    tasks = [asyncio.create_task(enter(queue, write(str(n)))) for n in range(1, 6)]
    await settle()
    seen: list[str] = []
    while len(seen) < 6:
        batch = await within(30, queue.take())
        seen += [item.fence.thread_id for item in batch]
        queue.settled(batch)
        await settle()
    await asyncio.gather(*tasks)
    assert seen == ["0", "1", "2", "3", "4", "5"]


async def test_a_thread_is_in_one_batch_at_a_time_and_keeps_its_order() -> None:
    queue = backlog(rows=100)
    items = [write("t", size=n) for n in range(4)]
    queue.add(items[0])
    batch = await queue.take()
    for item in items[1:]:
        queue.add(item)
    queue.add(write("other"))
    assert [item.fence.thread_id for item in await queue.take()] == ["other"]
    queue.settled(batch)
    assert await queue.take() == items[1:]


async def test_what_is_put_back_comes_before_what_came_later() -> None:
    queue = backlog(rows=100)
    items = [write("t", size=n) for n in range(4)]
    for item in items[:2]:
        queue.add(item)
    batch = await queue.take()
    queue.add(items[2])
    queue.settled(batch, back=batch)
    queue.add(items[3])
    assert await queue.take() == items


async def test_a_thread_of_which_some_writes_rest_is_ready_only_once_they_have_rested() -> None:
    queue = backlog(rows=100)
    items = [write("t", size=n) for n in range(4)]
    for item in items[:2]:
        queue.add(item)
    batch = await queue.take()
    queue.add(items[2])
    queue.settled(batch, back=batch[1:], rest_s=0.0)  # the rest ends in a later turn of the loop
    queue.add(items[3])
    assert not queue.ready, "a write may go before an older one of its thread"
    assert await queue.take() == items[1:]
    await settle()
    assert not queue.ready, "the thread is ready while it is in a batch"


async def test_two_leases_of_a_thread_never_share_a_batch() -> None:
    queue = backlog(rows=100)
    old, new = write("t", 1), write("t", 2)
    queue.add(old)
    queue.add(new)
    first = await queue.take()
    assert first == [old]
    queue.settled(first)
    assert await queue.take() == [new]


@pytest.mark.parametrize(
    ("bounds", "sizes", "batches"),
    [
        ({"batch_rows": 2}, [1] * 5, [2, 2, 1]),
        ({"batch_bytes": 1000}, [300, 300, 5000, 300], [2, 1, 1]),
    ],
    ids=["rows", "bytes"],
)
async def test_a_batch_is_bounded_and_a_huge_write_goes_alone(
    bounds: dict[str, int], sizes: list[int], batches: list[int]
) -> None:
    queue = backlog(rows=100, **bounds)
    for number, size in enumerate(sizes):
        queue.add(write(f"t{number}", size=size))
    seen: list[int] = []
    while len(seen) < len(batches):
        batch = await within(30, queue.take())
        queue.settled(batch)
        seen.append(len(batch))
    assert seen == batches


async def test_closing_refuses_new_writes_and_returns_the_rest() -> None:
    queue = backlog(rows=1)
    await enter(queue, write("first"))
    second: Any = asyncio.create_task(enter(queue, write("second")))
    await settle()
    queue.close()
    with pytest.raises(ClosedError):
        await second
    with pytest.raises(ClosedError):
        await enter(queue, write("third"))
    batch = await queue.take()
    assert [item.fence.thread_id for item in batch] == ["first"]
    waiting = asyncio.create_task(queue.take())
    await settle()
    assert not waiting.done()
    queue.settled(batch)
    assert await waiting == []


async def test_settling_a_thread_waits_for_its_writes_and_for_no_others() -> None:
    queue = backlog(rows=100)
    for thread in ("other", "t", "t"):
        await enter(queue, write(thread))
    await within(30, queue.settle("unknown"))
    settling = asyncio.create_task(queue.settle("t"))
    batch = await queue.take()
    await settle()
    assert not settling.done()
    queue.settled(batch, back=[one for one in batch if one.fence.thread_id == "t"][:1])
    await settle()
    assert not settling.done()
    queue.settled(await queue.take())
    await within(30, settling)


async def test_no_batch_carries_all_threads_of_a_crowd() -> None:
    queue = backlog(batch_rows=100, rows=100, leased=lambda: 30)
    threads = [f"thread {number}" for number in range(30)]
    for thread in threads:
        await enter(queue, write(thread))
    first, second = await within(5, queue.take()), await within(5, queue.take())
    assert [item.fence.thread_id for item in first] == threads[:20]
    assert [item.fence.thread_id for item in second] == threads[20:]


async def test_a_few_threads_share_a_batch() -> None:
    queue = backlog(leased=lambda: 3)
    for thread in ("a", "b", "c"):
        await enter(queue, write(thread))
    assert len(await within(5, queue.take())) == 3


async def test_the_writer_that_served_last_gets_the_next_batch() -> None:
    queue = backlog()
    takers = [asyncio.create_task(queue.take()) for _ in range(3)]
    await settle()
    await enter(queue, write("t"))
    await settle()
    assert [taker.done() for taker in takers] == [False, False, True]
    queue.close()
    queue.settled(takers[2].result())
    assert [len(batch) for batch in await within(5, asyncio.gather(*takers))] == [0, 0, 1]


async def test_a_writer_cancelled_as_it_is_woken_hands_the_batch_on() -> None:
    queue = backlog()
    first, second = (asyncio.create_task(queue.take()) for _ in range(2))
    await settle()
    await enter(queue, write("t"))  # wakes the second …
    second.cancel()  # … which never takes it
    assert len(await within(5, first)) == 1
    with pytest.raises(asyncio.CancelledError):
        await second


async def test_a_writer_that_leaves_some_wakes_the_next() -> None:
    queue = backlog(batch_rows=2)
    takers = [asyncio.create_task(queue.take()) for _ in range(3)]
    await settle()
    for thread in ("a", "b", "c", "d", "e"):
        await enter(queue, write(thread))
    taken = await within(5, asyncio.gather(*takers))
    assert sorted(len(batch) for batch in taken) == [1, 2, 2]
