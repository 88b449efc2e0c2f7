"""Work that must end although its caller is cancelled: releases, outcomes."""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine
from functools import partial
from typing import Any, TypeVar

__all__ = ["run_to_completion"]

T = TypeVar("T")


async def run_to_completion(work: Coroutine[Any, Any, T]) -> T:
    """Run `work` to its end in a task of its own; a cancellation that arrives meanwhile is raised afterwards.

    `work` must be bounded in time by itself. Its own exception is raised unless a cancellation takes its place, of
    which it is then the cause. anyio's shielded scopes are no help here: they do not hold off `Task.cancel()`.
    """
    loop = asyncio.get_running_loop()
    task = loop.create_task(work)
    cancelled: asyncio.CancelledError | None = None
    while not task.done():
        ended: asyncio.Future[None] = loop.create_future()
        task.add_done_callback(partial(_tell, ended))
        try:
            await ended  # what asyncio.wait does, for two thirds of its price
        except asyncio.CancelledError as error:
            cancelled = error
    if cancelled is not None:
        raise cancelled from (None if task.cancelled() else task.exception())
    return task.result()


def _tell(ended: asyncio.Future[None], task: asyncio.Task[Any]) -> None:
    del task
    if not ended.done():
        ended.set_result(None)
