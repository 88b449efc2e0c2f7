"""The runs that a worker executes: begins them, and ends them in bounded time when it stops."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Collection
from typing import Final

from aiodurable.worker.executor import CANCELLED_S, Execution

__all__ = ["STOP_S", "RunsAtWork"]

_log = logging.getLogger(__name__)

STOP_S: Final = 5.0
"""Seconds that a statement under way may take when the worker stops."""


class RunsAtWork:
    """The executions of a worker, each in a task of its own.

    Args:
        on_end: called when one has ended.
    """

    def __init__(self, on_end: Callable[[], None]) -> None:
        self._on_end = on_end
        self._active: dict[asyncio.Task[None], Execution] = {}
        self._hurried = asyncio.Event()

    def __len__(self) -> int:
        return len(self._active)

    @property
    def executions(self) -> Collection[Execution]:
        """Those at work now; changes when one begins or ends."""
        return self._active.values()

    @property
    def run_ids(self) -> list[str]:
        """Which runs are at work."""
        return [execution.claimed.run_id for execution in self._active.values()]

    def begin(self, execution: Execution) -> None:
        """Execute it in a task."""
        name = f"aiodurable run {execution.claimed.run_id}"
        task = asyncio.create_task(execution.execute(), name=name)
        self._active[task] = execution
        task.add_done_callback(self._ended)

    def cancel(self) -> None:
        """Cancel them all, and hand their runs back; no attempt is counted."""
        self._hurried.set()
        for task, execution in self._active.items():
            execution.drain()
            task.cancel()

    def stop(self) -> None:
        """Have the graphs stop at their next superstep."""
        for execution in self._active.values():
            execution.drain()

    async def drain(self, timeout_s: float) -> None:
        """Have the graphs stop at their next superstep; cancel those that do not, and abandon those
        that swallow that. Takes at most `timeout_s` and seven seconds.
        """
        self.stop()
        await self._ended_within(timeout_s)
        if self._active:
            if not self._hurried.is_set():
                _log.warning(
                    "%d runs did not reach their next superstep within %g s: cancelling them",
                    len(self._active),
                    timeout_s,
                )
            self.cancel()
            await asyncio.wait(self._active, timeout=CANCELLED_S)
        if self._active:
            _log.warning(
                "nodes of %d runs swallow their cancellation: handing the runs back; what the"
                " nodes still write is refused",
                len(self._active),
            )
            left = [asyncio.create_task(run.abandon()) for run in self._active.values()]
            await asyncio.wait(left, timeout=STOP_S)

    async def _ended_within(self, seconds: float) -> None:
        """Wait until all runs have ended, but no longer than that, or until they are cancelled."""
        if not self._active:
            return
        waits = {
            asyncio.create_task(asyncio.wait(self._active)),
            asyncio.create_task(self._hurried.wait()),
        }
        try:
            await asyncio.wait(waits, timeout=seconds, return_when=asyncio.FIRST_COMPLETED)
        finally:
            for wait in waits:
                wait.cancel()

    def _ended(self, task: asyncio.Task[None]) -> None:
        del self._active[task]
        self._on_end()
        if not task.cancelled() and (error := task.exception()) is not None:
            _log.error("a worker's run ended unexpectedly: please report this", exc_info=error)
