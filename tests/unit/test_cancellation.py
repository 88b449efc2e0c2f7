"""The source of a cancellation: only a request raises `RunCancelledError`; any other one stays
`CancelledError`.
"""

from __future__ import annotations

import asyncio
from datetime import UTC, datetime
from typing import Any

import pytest
from langgraph.runtime import RunControl

from aiodurable.runs.cancellation import Cancelling

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
