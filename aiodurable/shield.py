"""Runs work that must end although its caller is cancelled: releases, outcomes."""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine
from functools import partial
from typing import Any, TypeVar

__all__ = ["run_to_completion"]

T = TypeVar("T")


async def run_to_completion(work: Coroutine[Any, Any, T]) -> T:
    """Run `work` to its end in a task of its own, and raise a cancellation that arrives meanwhile
    afterwards.

    `work` must end in bounded time by itself. If it raises and a cancellation arrived, its
    exception is the cause of the cancellation. anyio's shielded scopes cannot do this: they do not
    shield from `Task.cancel()`.
    """
    loop = asyncio.get_running_loop()
    task = loop.create_task(work)
    cancelled: asyncio.CancelledError | None = None
    while not task.done():
        ended: asyncio.Future[None] = loop.create_future()
        task.add_done_callback(partial(_resolve, ended))
        try:
            await ended  # as asyncio.wait, at two thirds of its cost
        except asyncio.CancelledError as error:
            cancelled = error
    if cancelled is not None:
        raise cancelled from (None if task.cancelled() else task.exception())
    return task.result()


def _resolve(ended: asyncio.Future[None], task: asyncio.Task[Any]) -> None:
    del task
    if not ended.done():
        ended.set_result(None)
