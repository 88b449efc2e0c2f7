"""The source of a cancellation: only a request raises `RunCancelledError`; any other one stays
`CancelledError`.
"""

from __future__ import annotations

import asyncio
from datetime import UTC, datetime
from typing import Any, cast

import pytest
from langgraph.runtime import RunControl

from aiodurable.postgres.pool import PsycopgPool
from aiodurable.runs.cancellation import Cancellations, Cancelling

NOW = datetime(2026, 1, 1, tzinfo=UTC)


async def nobody() -> None:
    """No node goes on here."""


async def cancelled(by: list[str]) -> tuple[bool, int]:
    """Whether the request is what ended it, and how many cancellations the task still has; all in
    one turn of the loop.
    """
    began: asyncio.Future[Cancelling] = asyncio.get_running_loop().create_future()

    async def attempt() -> tuple[bool, int]:
        cancelling = Cancelling(RunControl(), run_id="r", thread_id="t", abandon=nobody)
        began.set_result(cancelling)
        try:
            await asyncio.Event().wait()
        except asyncio.CancelledError as error:
            return cancelling.leave(error), task.cancelling()
        raise AssertionError("nobody cancelled it")

    task: asyncio.Task[Any] = asyncio.create_task(attempt())
    cancelling = await began
    for who in by:
        if who == "request":
            cancelling.request(NOW)
        else:
            task.cancel()
    return await task


@pytest.mark.parametrize("times", [1, 3])
async def test_a_run_with_a_cancel_request_raises_that_and_its_task_is_not_cancelled(
    times: int,
) -> None:
    assert await cancelled(["request"] * times) == (True, 0)


@pytest.mark.parametrize(
    "by", [["request", "somebody"], ["somebody", "request"], ["request", "somebody", "request"]]
)
async def test_a_cancellation_of_somebody_else_beside_a_request_reaches_the_caller(
    by: list[str],
) -> None:
    assert await cancelled(by) == (False, 1)


async def test_a_request_that_was_read_before_a_run_went_on_does_not_end_it_again() -> None:
    asked, answer = asyncio.Event(), asyncio.Event()
    cancelled, looks = list[str](), list[datetime]()

    class Database:
        async def fetch(self, statement: Any) -> list[dict[str, Any]]:
            del statement
            looks.append(NOW)
            asked.set()
            if len(looks) > 1:
                await asyncio.Event().wait()
            await answer.wait()
            return [{"run_id": "r", "cancel_requested_at": NOW}]

    cancellations = Cancellations(cast("PsycopgPool", Database()), every_s=60)

    def first(at: datetime) -> None:
        cancelled.append("the attempt that was cancelled")

    cancellations.add("r", first)
    try:
        cancellations.hurry("r")
        await asyncio.wait_for(asked.wait(), 5)
        cancellations.remove("r", first)
        cancellations.add("r", lambda at: cancelled.append("the one that goes on"))
        asked.clear()
        answer.set()
        cancellations.hurry("r")
        await asyncio.wait_for(asked.wait(), 5)
        assert cancelled == []
    finally:
        await cancellations.aclose()


async def test_the_end_of_a_node_that_outlived_its_attempt_leaves_the_next_one_cancellable() -> (
    None
):
    cancelled = asyncio.Event()

    class Database:
        async def fetch(self, statement: Any) -> list[dict[str, Any]]:
            del statement
            return [{"run_id": "r", "cancel_requested_at": NOW}]

    def outlived(at: datetime) -> None:
        raise AssertionError("that attempt is over")

    cancellations = Cancellations(cast("PsycopgPool", Database()), every_s=0.01)
    cancellations.add("r", outlived)
    cancellations.add("r", lambda at: cancelled.set())
    cancellations.remove("r", outlived)
    try:
        await asyncio.wait_for(cancelled.wait(), 5)
    finally:
        await cancellations.aclose()


async def test_a_node_that_swallows_its_cancellation_is_cancelled_again_after_its_run_has_ended(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("aiodurable.runs.cancellation.AGAIN_S", 0.01, raising=False)
    abandoned = asyncio.Event()

    async def abandon() -> None:
        abandoned.set()

    cancelling = Cancelling(RunControl(), run_id="r", thread_id="t", abandon=abandon)
    cancelling.request(NOW)
    try:
        await abandoned.wait()
    except asyncio.CancelledError:
        await abandoned.wait()
    with pytest.raises(asyncio.CancelledError):
        async with asyncio.timeout(30):
            await asyncio.Event().wait()
    assert await cancelling.ended()
    assert cancelling.leave(None)
    task = asyncio.current_task()
    assert task is not None
    assert task.cancelling() == 0


async def test_a_process_that_stops_does_not_abandon_a_run_whose_end_is_being_recorded(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("aiodurable.runs.cancellation.HELD_BACK_S", 0)
    abandoned = asyncio.Event()

    async def abandon() -> None:
        abandoned.set()

    cancelling = Cancelling(RunControl(), run_id="r", thread_id="t", abandon=abandon)
    assert not cancelling.leave(None)
    cancelling.stop()
    for _ in range(100):
        await asyncio.sleep(0)
    assert not abandoned.is_set()


async def test_a_run_that_begins_once_its_process_has_stopped_leaves_no_task() -> None:
    cancellations = Cancellations(cast("PsycopgPool", None), every_s=60)
    await cancellations.aclose()
    cancellations.add("r", lambda at: None)
    assert "aiodurable cancellations" not in [task.get_name() for task in asyncio.all_tasks()]


async def test_a_run_that_cannot_be_cancelled_keeps_no_other_from_its_cancellation() -> None:
    class Database:
        async def fetch(self, statement: Any) -> list[dict[str, Any]]:
            del statement
            return [{"run_id": name, "cancel_requested_at": NOW} for name in ("broken", "r")]

    cancelled = asyncio.Queue[datetime]()

    def breaks(at: datetime) -> None:
        raise RuntimeError("a defect")

    cancellations = Cancellations(cast("PsycopgPool", Database()), every_s=0.01)
    cancellations.add("broken", breaks)
    cancellations.add("r", cancelled.put_nowait)
    try:
        for _ in range(2):
            await asyncio.wait_for(cancelled.get(), 5)
    finally:
        await cancellations.aclose()
