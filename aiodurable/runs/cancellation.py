"""Ending a run on request: a column of the ledger says so, and the process that runs it sees it.

A NOTIFY only hurries that: each process with runs at work looks once a heartbeat, whatever number of runs it has.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import random
from collections.abc import Callable, Generator
from datetime import datetime
from typing import Any, Final

from langgraph.errors import GraphDrained
from langgraph.runtime import RunControl

from aiodurable.errors import AiodurableError, RunCancelledError
from aiodurable.postgres.errors import DRIVER_FAILURES
from aiodurable.postgres.pool import Database
from aiodurable.postgres.sql import load

__all__ = ["CHANNEL", "Cancellations", "Cancelling"]

CHANNEL: Final = "aiodurable_cancel"
"""Where it is said that a run is to be cancelled; the payload is its run_id."""

_SQL = load("runs")
_log = logging.getLogger(__name__)


class Cancellations:
    """The runs at work in this process, and the task that looks whether the end of one was requested.

    Args:
        database: where the ledger is.
        every_s: seconds between two looks.
    """

    def __init__(self, database: Database, *, every_s: float) -> None:
        self._database = database
        self._every_s = every_s
        self._runs: dict[str, Callable[[datetime], None]] = {}
        self._task: asyncio.Task[None] | None = None
        self._started, self._hurried = asyncio.Event(), asyncio.Event()

    def add(self, run_id: str, cancel: Callable[[datetime], None]) -> None:
        """Have `cancel` called, at every look, while the end of the run is requested and the run is not ended."""
        self._runs[run_id] = cancel
        self._started.set()
        if self._task is None:
            self._task = asyncio.create_task(self._look_on(), name="aiodurable cancellations")

    def remove(self, run_id: str) -> None:
        """The run is no longer at work here."""
        self._runs.pop(run_id, None)

    def hurry(self, run_id: str) -> None:
        """Look at once, if the run is at work here."""
        if run_id in self._runs:
            self._hurried.set()

    async def aclose(self) -> None:
        """Look no more. Idempotent."""
        task, self._task = self._task, None
        if task is not None:
            task.cancel()
            await asyncio.wait({task})

    async def _look_on(self) -> None:
        while True:
            if not self._runs:
                self._started.clear()
                await self._started.wait()
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(self._every_s * random.uniform(0.9, 1.0)):
                    await self._hurried.wait()
            self._hurried.clear()
            if self._runs:
                await self._look()

    async def _look(self) -> None:
        try:
            rows = await self._database.fetch(_SQL["cancelling"])
        except (AiodurableError, *DRIVER_FAILURES) as error:  # the next look may do better
            _log.debug("could not see whether a run is to be cancelled: %s", type(error).__name__)
            return
        for row in rows:
            if (cancel := self._runs.get(row["run_id"])) is not None:
                cancel(row["cancel_requested_at"])


class Cancelling:
    """Cancels the task that runs an attempt, and tells at its end whether that was what ended it.

    The accounting is that of `asyncio.timeout`. A node that swallows the cancellation is cancelled again at every look, and
    its graph stops at the next superstep.
    """

    def __init__(self, control: RunControl, *, run_id: str, thread_id: str) -> None:
        self._control = control
        self._run_id, self._thread_id = run_id, thread_id
        self._requested_at: datetime | None = None
        self._task: asyncio.Task[Any] | None = None
        self._cancelling = self._fired = 0
        self.enter()

    def enter(self) -> None:
        """The current task runs the graph from now on."""
        self._task = asyncio.current_task()
        self._cancelling, self._fired = 0 if self._task is None else self._task.cancelling(), 0

    def request(self, at: datetime) -> None:
        """End it."""
        self._requested_at = at
        self._control.request_drain("cancelled")
        if self._task is not None:
            self._fired += 1
            self._task.cancel(f"run {self._run_id!r} was cancelled")

    @contextlib.contextmanager
    def outside(self) -> Generator[None, None, None]:
        """While the consumer of a stream has the task: its own code is not cancelled; what comes next is the error."""
        self._take_back()
        self._task = None
        yield
        self.enter()
        if self._requested_at is not None:
            raise self.error

    def leave(self, error: BaseException | None) -> bool:
        """Stop; whether the request is what ended the run."""
        alone = self._take_back()
        self._task = None
        if self._requested_at is None:
            return False
        return isinstance(error, GraphDrained | RunCancelledError) or (
            isinstance(error, asyncio.CancelledError) and alone
        )

    @property
    def error(self) -> RunCancelledError:
        """What the caller of the run gets."""
        return RunCancelledError(
            f"run {self._run_id!r} of thread {self._thread_id!r} was cancelled: the thread is paused, run.ainvoke() goes on",
            thread_id=self._thread_id,
            run_id=self._run_id,
            requested_at=self._requested_at,
        )

    def _take_back(self) -> bool:
        """Undo our cancellations; whether there is none but ours."""
        if self._task is None:
            return True
        for _ in range(self._fired):
            self._task.uncancel()
        self._fired = 0
        return self._task.cancelling() <= self._cancelling
