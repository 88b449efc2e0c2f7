"""A worker's own row, for those who look: see `durable.insights.workers`."""

from __future__ import annotations

import asyncio
import logging
import random
import time
from collections.abc import Callable
from contextlib import suppress
from importlib.metadata import version
from typing import Final, NoReturn

from aiodurable.errors import AiodurableError
from aiodurable.postgres.errors import DRIVER_FAILURES
from aiodurable.postgres.sql import load
from aiodurable.runs.services import Services
from aiodurable.worker.claims import Claims
from aiodurable.worker.health import WorkerHealth
from aiodurable.worker.history import Sampler
from aiodurable.worker.pace import LookPace

__all__ = ["Registration"]

_SQL = load("insights")
_log = logging.getLogger(__name__)
_EVERY_S: Final = (9.5, 10.5)
_UNSEEN_S: Final = 25.0
"""Seconds after which another worker's row is that of a dead one."""
_REMOVAL_S: Final = 2.0


class Registration:
    """Writes the row each ten seconds, and removes it at the end. What fails is tried again ten
    seconds later: no run depends on it.

    Args:
        services: the open services.
        claims: the worker's, which have its name.
        concurrency: how many runs it has at work, at most.
        health: says how it is.
        pace: takes the number of workers beside it.
    """

    def __init__(
        self,
        services: Services,
        claims: Claims,
        *,
        concurrency: int,
        health: Callable[[], WorkerHealth],
        pace: LookPace,
    ) -> None:
        self._services = services
        self._worker = claims.worker
        self._graphs = claims.graphs
        self._concurrency = concurrency
        self._health = health
        self._pace = pace
        self._started = time.monotonic()
        self._version = version("aiodurable")
        self._sampler = Sampler(services)
        self._hurried = asyncio.Event()
        self._task: asyncio.Task[NoReturn] | None = None

    def start(self) -> None:
        """Write it from now on."""
        self._task = asyncio.create_task(self._run(), name="aiodurable worker registration")
        self._task.add_done_callback(_log_defect)

    def hurry(self) -> None:
        """Write it at once, because the worker has changed."""
        self._hurried.set()

    async def aclose(self) -> None:
        """Write it no more, and remove it; bounded in time. Raises nothing: the row of a worker
        whose process is gone is seen to be that.
        """
        if self._task is None:
            return
        self._task.cancel()
        await asyncio.wait([self._task])
        try:
            async with asyncio.timeout(_REMOVAL_S):
                await self._services.checkpoints.direct.fetch(_SQL["unregister"], self._worker)
        except (AiodurableError, *DRIVER_FAILURES) as error:
            _log.debug("a worker stays registered: %s", type(error).__name__)

    async def _run(self) -> NoReturn:
        while True:
            self._hurried.clear()
            try:
                await self._write()
                await self._sampler.sample()
            except (AiodurableError, *DRIVER_FAILURES) as error:
                _log.debug("a worker is not registered: %s", type(error).__name__)
            with suppress(TimeoutError):
                async with asyncio.timeout(random.uniform(*_EVERY_S)):
                    await self._hurried.wait()

    async def _write(self) -> None:
        health = self._health()
        host, _, pid = self._worker.partition("#")[0].rpartition(":")
        (row,) = await self._services.checkpoints.direct.fetch(
            _SQL["register"],
            self._worker,
            host,
            int(pid),
            self._version,
            list(health.queues),
            self._graphs,
            self._concurrency,
            len(health.running),
            health.loop_lag_s,
            health.loop_lag_max_s,
            health.draining,
            time.monotonic() - self._started,
            _UNSEEN_S,
        )
        self._pace.share(*row["others"])


def _log_defect(task: asyncio.Task[NoReturn]) -> None:
    if not task.cancelled() and (error := task.exception()) is not None:
        _log.error("a worker registers no more: please report this", exc_info=error)
