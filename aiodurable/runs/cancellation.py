"""Cancelling a run on request: a ledger column requests it, and the process that runs it sees it.
And stopping every run where the process stops.

NOTIFY only speeds this up: a process with active runs polls once per heartbeat, with one statement
for all of them.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import random
from collections.abc import Callable, Coroutine, Generator
from datetime import datetime
from typing import Any, Final

from langgraph.errors import GraphDrained
from langgraph.runtime import RunControl

from aiodurable.errors import AiodurableError, RunCancelledError
from aiodurable.postgres.errors import DRIVER_FAILURES
from aiodurable.postgres.pool import PsycopgPool
from aiodurable.postgres.sql import load
from aiodurable.shield import run_to_completion

__all__ = ["CHANNEL", "Cancellations", "Cancelling"]

CHANNEL: Final = "aiodurable_cancel"
"""The NOTIFY channel for cancel requests; the payload is the run_id."""

PATIENCE_S: Final = 0.04
"""Seconds that a node may take to end once it is cancelled; then its run ends without it."""

HELD_BACK_S: Final = 2.0
"""Seconds that the consumer of a stream may take for a chunk once its run is cancelled; then the
run ends without it. A client that hangs never asks for the next one."""

AGAIN_S: Final = 5.0
"""Seconds until a node that has outlived its run is cancelled again."""

_HOPS: Final = 50
"""Iterations of the event loop that a cancellation may take on its way out of a graph, however slow
the machine is."""

_SQL = load("runs")
_log = logging.getLogger(__name__)


class Cancellations:
    """The active runs of this process, and the task that polls for requests to cancel them.

    Args:
        database: the database with the ledger.
        every_s: seconds between polls.
    """

    def __init__(self, database: PsycopgPool, *, every_s: float) -> None:
        self._database = database
        self._every_s = every_s
        self._runs: dict[str, Callable[[datetime], None]] = {}
        self._task: asyncio.Task[None] | None = None
        self._started, self._hurried = asyncio.Event(), asyncio.Event()
        self._open = set[Cancelling]()
        self._all_over = asyncio.Event()
        self.draining = self._closed = False

    def opened(self, cancelling: Cancelling) -> None:
        """An attempt is at work."""
        self._open.add(cancelling)
        if self.draining:
            cancelling.drain()

    def over(self, cancelling: Cancelling) -> None:
        """The end of an attempt is recorded."""
        self._open.discard(cancelling)
        if not self._open:
            self._all_over.set()

    def drain(self) -> None:
        """The process stops: have every graph stop at its next superstep. What is cancelled from
        now on ends as drained. Idempotent.
        """
        self.draining = True
        for cancelling in self._open:
            cancelling.drain()

    async def stop(self, timeout_s: float) -> None:
        """Drain, cancel every run at work, and wait until their ends are recorded, at most so many
        seconds.
        """
        self.drain()
        self._all_over.clear()
        for cancelling in self._open:
            cancelling.stop()
        if self._open:
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(timeout_s):
                    await self._all_over.wait()

    def add(self, run_id: str, cancel: Callable[[datetime], None]) -> None:
        """Register a run: every poll calls `cancel` while a request for it is pending."""
        self._runs[run_id] = cancel
        self._started.set()
        if self._task is None and not self._closed:  # a run may begin as its process stops
            self._task = asyncio.create_task(self._poll_forever(), name="aiodurable cancellations")

    def remove(self, run_id: str, cancel: Callable[[datetime], None]) -> None:
        """Unregister a run; not a later attempt of it, where a node has outlived this one."""
        if self._runs.get(run_id) == cancel:
            del self._runs[run_id]

    def hurry(self, run_id: str) -> None:
        """Poll now, if the run is active here."""
        if run_id in self._runs:
            self._hurried.set()

    async def aclose(self) -> None:
        """Stop polling. Idempotent."""
        self._closed = True
        task, self._task = self._task, None
        if task is not None:
            task.cancel()
            await asyncio.wait({task})

    async def _poll_forever(self) -> None:
        while True:
            if not self._runs:
                self._started.clear()
                await self._started.wait()
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(self._every_s * random.uniform(0.9, 1.0)):
                    await self._hurried.wait()
            self._hurried.clear()
            if self._runs:
                await self._poll()

    async def _poll(self) -> None:
        asked = dict(self._runs)  # a request from before an attempt is not for that one
        try:
            rows = await self._database.fetch(_SQL["cancelling"])
        except (AiodurableError, *DRIVER_FAILURES) as error:  # the next poll may succeed
            _log.debug("cannot poll for requests to cancel runs: %s", type(error).__name__)
            return
        for row in rows:
            cancel = self._runs.get(row["run_id"])
            if cancel is not None and cancel is asked.get(row["run_id"]):
                try:
                    cancel(row["cancel_requested_at"])
                except Exception:  # the other runs are cancelled all the same
                    _log.exception("cannot cancel run %r: please report this", row["run_id"])


class Cancelling:
    """Cancels the task that runs an attempt, and knows afterwards whether that ended the attempt.

    It is cancelled on request, or because the process stops.

    It counts cancellations as `asyncio.timeout` does. A node that swallows the cancellation is
    cancelled again at every poll, and every few seconds once its run has ended; its graph stops
    at the next superstep. Its run does not wait for it, nor for the consumer of a stream.

    Args:
        control: of the attempt.
        run_id, thread_id: of its run.
        abandon: records the run as cancelled and gives its lease up, so that what the node still
            writes is refused; then it closes a stream that its consumer holds back.
    """

    def __init__(
        self,
        control: RunControl,
        *,
        run_id: str,
        thread_id: str,
        abandon: Callable[[], Coroutine[Any, Any, None]],
    ) -> None:
        self._control = control
        self._run_id, self._thread_id = run_id, thread_id
        self._abandon = abandon
        self._requested_at: datetime | None = None
        self._stopped = False
        self._task: asyncio.Task[Any] | None = None
        self._patience: asyncio.TimerHandle | None = None
        self._abandoning: asyncio.Task[None] | None = None
        self._ended = self._abandoned = False
        self._cancelling = self._fired = 0
        self.enter()

    def enter(self) -> None:
        """From now on the current task runs the graph."""
        self._task = asyncio.current_task()
        self._cancelling, self._fired = 0 if self._task is None else self._task.cancelling(), 0

    def request(self, at: datetime) -> None:
        """Cancel the attempt."""
        self._requested_at = at
        self._control.request_drain("cancelled")
        self._cancel()

    def drain(self) -> None:
        """Have the graph stop at its next superstep."""
        self._control.request_drain("drained")

    def stop(self) -> None:
        """Cancel the attempt, as its process stops."""
        self._stopped = True
        self._cancel()

    def _cancel(self) -> None:
        if self._task is not None:
            self._fired += 1
            self._task.cancel(f"run {self._run_id!r} was cancelled")
        if self._patience is None and not self._ended:
            wait_s = HELD_BACK_S if self._task is None else PATIENCE_S
            self._patience = asyncio.get_running_loop().call_later(wait_s, self._out_of_patience)

    def _out_of_patience(self) -> None:
        if not self._ended:
            self._abandoning = asyncio.create_task(
                self._go_on_without(), name=f"aiodurable run {self._run_id} cancelled"
            )

    async def _go_on_without(self) -> None:
        for _ in range(_HOPS):
            await asyncio.sleep(0)
        if self._ended:
            return
        self._abandoned = True
        _log.warning(
            "run %r of thread %r was cancelled, and %s: what it still writes is refused",
            self._run_id,
            self._thread_id,
            "the consumer of its stream holds it back"
            if self._task is None
            else "its node goes on",
        )
        self._patience = asyncio.get_running_loop().call_later(AGAIN_S, self._once_more)
        await self._abandon()

    def _once_more(self) -> None:
        """Cancel the node that goes on without its run: no look at the ledger shows it any more."""
        self._patience = asyncio.get_running_loop().call_later(AGAIN_S, self._once_more)
        if self._task is not None:
            self._fired += 1
            self._task.cancel(f"run {self._run_id!r} was cancelled")

    @property
    def requested(self) -> bool:
        """Whether the attempt was to end."""
        return self._stopped or self._requested_at is not None

    async def ended(self) -> bool:
        """Say that the graph has ended. Whether its run had ended without it."""
        self._ended = True
        if self._patience is not None:
            self._patience.cancel()
        if self._abandoning is not None:
            await run_to_completion(_over(self._abandoning))
        return self._abandoned

    @contextlib.contextmanager
    def outside(self) -> Generator[None, None, None]:
        """While a stream's consumer has the task: its code is not cancelled; its next step raises
        the error.
        """
        self._undo()
        self._task = None
        yield
        self.enter()
        if self.requested:
            raise self.error

    def leave(self, error: BaseException | None) -> bool:
        """Stop cancelling, and return whether the request ended the run."""
        self._ended = True
        alone = self._undo()
        self._task = None
        if not self.requested:
            return False
        if self._abandoned:
            return alone
        return isinstance(error, GraphDrained | RunCancelledError) or (
            isinstance(error, asyncio.CancelledError) and alone
        )

    @property
    def error(self) -> RunCancelledError | GraphDrained:
        """The error for the run's caller."""
        if self._requested_at is None:
            return GraphDrained("the process stops")
        return RunCancelledError(
            f"run {self._run_id!r} of thread {self._thread_id!r} was cancelled: the thread is"
            " paused, run.ainvoke() without input goes on",
            thread_id=self._thread_id,
            run_id=self._run_id,
            requested_at=self._requested_at,
        )

    def _undo(self) -> bool:
        """Undo our cancellations, and return whether no foreign one is pending."""
        if self._task is None:
            return True
        for _ in range(self._fired):
            self._task.uncancel()
        self._fired = 0
        return self._task.cancelling() <= self._cancelling


async def _over(task: asyncio.Task[None]) -> None:
    """Wait for a task, and raise what it raised."""
    await asyncio.wait({task})
    task.result()
