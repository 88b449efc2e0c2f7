"""Questions that travel together: each gets its answer, whatever kind of task asks them."""

from __future__ import annotations

import asyncio
import sys
import threading
from collections.abc import Mapping, Sequence
from typing import Any

import pytest

from aiodurable import CircuitOpenError, ClosedError
from aiodurable.postgres.batcher import Batcher
from tests.support.other_loop import in_another_loop
from tests.support.waiting import wait_until, within

eager = pytest.mark.skipif(
    sys.version_info < (3, 12), reason="asyncio has eager tasks since Python 3.12"
)


@eager
async def test_a_question_that_failed_at_once_does_not_keep_the_next_one_waiting() -> None:
    """What an eager task does without waiting is done before the task is there to be remembered."""
    asyncio.get_running_loop().set_task_factory(asyncio.eager_task_factory)  # pyright: ignore[reportAttributeAccessIssue]
    refused = True

    async def ask(keys: Sequence[str]) -> Mapping[str, str]:
        if refused:
            raise CircuitOpenError("open", retry_after_s=1.0)
        return {key: key.upper() for key in keys}

    together = Batcher(ask, name="test")
    with pytest.raises(CircuitOpenError):
        await together("a")
    refused = False
    assert await within(30, together("a"), what="the answer after one that failed") == "A"
    assert await within(30, asyncio.gather(*map(together, "abc")), what="three answers") == [
        "A",
        "B",
        "C",
    ]
    await together.aclose()


async def test_who_leaves_while_its_question_is_under_way_leaves_the_others_their_answers() -> None:
    asked: asyncio.Queue[Sequence[str]] = asyncio.Queue()
    answered = asyncio.Semaphore(0)

    async def ask(keys: Sequence[str]) -> Mapping[str, str]:
        asked.put_nowait(keys)
        await answered.acquire()
        return {key: key.upper() for key in keys}

    together = Batcher(ask, name="test")
    async with asyncio.timeout(30):
        first = asyncio.create_task(together("first"))
        assert await asked.get() == ("first",)
        leaving, *staying = (asyncio.create_task(together(key)) for key in "abc")
        answered.release()
        await first
        assert await asked.get() == ("a", "b", "c")
        leaving.cancel()
        answered.release()
        assert await asyncio.gather(*staying) == ["B", "C"]
    assert leaving.cancelled()
    await together.aclose()


async def test_a_question_of_another_loop_is_refused_at_any_moment() -> None:
    """Nothing would wake its loop when the answer is there."""
    asked, go_on, refused = threading.Event(), threading.Event(), threading.Event()

    async def ask(keys: Sequence[str]) -> Mapping[str, str]:
        go_on.set()
        await wait_until(refused.is_set, what="the other question, which may not join a batch")
        return {key: key.upper() for key in keys}

    together = Batcher(ask, name="test")

    async def elsewhere() -> None:
        loop = asyncio.get_running_loop()
        create_future = loop.create_future

        def later() -> asyncio.Future[Any]:
            """This thread rests where nothing says yet in which loop questions are asked."""
            loop.create_future = create_future  # type: ignore[method-assign]
            asked.set()
            go_on.wait(30)
            return create_future()

        loop.create_future = later  # type: ignore[method-assign]
        with pytest.raises(ClosedError, match="another event loop"):
            await together("theirs")
        refused.set()
        asked.set()

    other = asyncio.create_task(in_another_loop(elsewhere))
    await wait_until(asked.is_set)
    assert await together("ours") == "OURS"
    await other
    await together.aclose()
