"""The scope of an attempt's graph: while it runs it can be cancelled, and whatever comes out of it
is recorded as the attempt's outcome.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine
from types import TracebackType
from typing import Any, Protocol

from aiodurable.events import enter
from aiodurable.runs.attempt import Attempt
from aiodurable.runs.cancellation import Cancelling
from aiodurable.runs.graph_check import ended_early
from aiodurable.runs.lease import ThreadLease
from aiodurable.runs.services import Services

__all__ = ["Closing"]


class Settle(Protocol):
    """Records how the open attempt ended: with this error, or without one."""

    def __call__(self, error: BaseException | None = None, /) -> Coroutine[Any, Any, None]: ...


class Closing:
    """`async with` it around the graph of an attempt.

    Args:
        services: the open services.
        lease: the thread's lease.
        attempt: the attempt.
        settle: records its outcome.
        abandon: see `Cancelling`.
    """

    def __init__(
        self,
        services: Services,
        lease: ThreadLease,
        attempt: Attempt,
        *,
        settle: Settle,
        abandon: Callable[[], Coroutine[Any, Any, None]],
    ) -> None:
        self._services = services
        self._lease = lease
        self._attempt = attempt
        self._settle = settle
        self._cancelling = Cancelling(
            attempt.control,
            run_id=attempt.run_id,
            thread_id=lease.thread_id,
            abandon=self._without_its_node,
        )
        self._abandon = abandon

    async def __aenter__(self) -> Cancelling:
        cancelling, control = self._cancelling, self._attempt.control
        cancelling.enter()
        self._unwatch = self._lease.on_lost(lambda: control.request_drain("lease lost"))
        self._services.cancellations.add(self._attempt.run_id, cancelling.request)
        self._services.cancellations.opened(cancelling)
        self._leaving = enter(self._services.observers, self._lease.thread_id)
        return cancelling

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        """Raises `RunCancelledError` if a request ended the run, `GraphDrained` if the end of the
        process did, and `GraphChangedError` if its graph ended for lack of the nodes that were
        next.
        """
        try:
            await self._record(error)
        finally:
            self._services.cancellations.over(self._cancelling)
            del self._cancelling  # their cycle would be left to the garbage collector
            self._unwatch()
            for leave in self._leaving:
                leave()

    async def _without_its_node(self) -> None:
        try:
            await self._abandon()
        finally:
            self._services.cancellations.over(self._cancelling)

    async def _record(self, error: BaseException | None) -> None:
        cancelling, attempt = self._cancelling, self._attempt
        self._services.cancellations.remove(attempt.run_id, cancelling.request)
        abandoned = cancelling.requested and await cancelling.ended()
        was_cancelled = cancelling.leave(error)
        if error is not None and was_cancelled:
            await self._settle(asyncio.CancelledError())
            raise cancelling.error from error
        if error is None and abandoned:
            raise cancelling.error
        await self._settle(error)
        if error is None and attempt.lacking:
            raise ended_early(self._lease.thread_id, attempt.graph.name, attempt.lacking)
