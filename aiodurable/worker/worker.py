"""The worker: claims runs as long as it has capacity, and stops in bounded time."""

from __future__ import annotations

import asyncio
import logging
import math
import random
import signal
import time
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from typing import Any, Final, Self

import anyio

from aiodurable.dsn import Dsn
from aiodurable.errors import AiodurableError, ConfigurationError, InvalidArgumentError
from aiodurable.events import RunClaimed, emit
from aiodurable.models import ClaimState
from aiodurable.postgres.errors import DRIVER_FAILURES
from aiodurable.postgres.queue_bell import QueueBell
from aiodurable.runs.retry_policy import RetryPolicy
from aiodurable.runs.services import Services
from aiodurable.worker.claims import Claimed, Claims, Signs
from aiodurable.worker.executor import Execution
from aiodurable.worker.health import LoopLag, WorkerHealth
from aiodurable.worker.pace import LookPace
from aiodurable.worker.registration import Registration
from aiodurable.worker.rescuer import Rescuer
from aiodurable.worker.runs_at_work import STOP_S, RunsAtWork
from aiodurable.worker.scheduler import Scheduler
from aiodurable.worker.suspects import Suspects

__all__ = ["Worker"]

_log = logging.getLogger(__name__)

_SOONEST_S: Final = (0.02, 0.5)
"""Seconds between two looks where something is due, at least; and where it stays so, at most."""
_STALE_S: Final = 10.0
"""Seconds without a look after which something is wrong."""
_TIDY_S: Final = 0.8
"""Seconds after a claim, or after waiting runs were looked at, until the next without news."""
_POLL_S: Final = (4.0, 6.0)
"""Seconds between two claims without any sign that there is something to claim."""


class Worker:
    """Executes accepted runs: `async with durable.work() as worker: await worker.run_forever()`.

    Args:
        opened: gives the services of the `Durable`, or raises `ClosedError`.
        dsn: for the connection on which it sleeps, not through a pooler.
        queues: those it serves.
        concurrency: how many runs at a time.
        drain_timeout_s: how long runs may go on to their next superstep when it stops.
        retry_policy: when a run is tried again that was accepted without a policy of its own; or by
            graph.
        connect_timeout_s: seconds to reach Postgres.
        namespace: that of the locks.
    """

    def __init__(
        self,
        opened: Callable[[], Services],
        dsn: Dsn,
        *,
        queues: Sequence[str],
        concurrency: int,
        drain_timeout_s: float,
        retry_policy: RetryPolicy | Mapping[str, RetryPolicy] | None,
        connect_timeout_s: float,
        namespace: str,
    ) -> None:
        if isinstance(queues, str) or not queues:
            raise InvalidArgumentError(
                f"cannot work with queues={queues!r}: name at least one, in a list",
                argument="queues",
            )
        if not concurrency >= 1:
            raise InvalidArgumentError(
                f"cannot work with concurrency={concurrency!r}: it must be 1 or more",
                argument="concurrency",
            )
        if not drain_timeout_s >= 0:
            raise InvalidArgumentError(
                f"cannot work with drain_timeout_s={drain_timeout_s!r}: it must be 0 or more",
                argument="drain_timeout_s",
            )
        self._opened = opened
        self._namespace = namespace
        self.queues = tuple(dict.fromkeys(queues))
        self.concurrency = concurrency
        self._drain_timeout_s = drain_timeout_s
        self._given_policies = (
            {"": retry_policy}
            if isinstance(retry_policy, RetryPolicy)
            else dict(retry_policy or {})
        )
        self._bell = QueueBell(dsn, self.queues, timeout_s=connect_timeout_s)
        self._at_work = RunsAtWork(self._bell.rung.set)
        self._loops: list[asyncio.Task[None]] = []
        self._stopping = asyncio.Event()
        self._drained = asyncio.Event()
        self._draining: asyncio.Task[None] | None = None
        self._lag = LoopLag()
        self._pace = LookPace()
        self._signs: Signs | None = None
        self._claimed_at = self._tidied_at = -math.inf
        self._looked_at: float | None = None
        self._look_failed = self._claim_failed = False
        self._failure: BaseException | None = None

    async def __aenter__(self) -> Self:
        services = self._opened()
        if not services.graphs.registered:
            raise ConfigurationError(
                "cannot work: this Durable has no graphs by name; open it with graphs={…}"
            )
        self._services = services
        # A policy for all its runs stands before those of the Durable.
        of_graphs = {} if "" in self._given_policies else services.retry_policies
        self._policies = {"": RetryPolicy(), **of_graphs, **self._given_policies}
        self._claims = Claims(services, self.queues)
        self._rescuer = Rescuer(services, self._claims.graphs, queue=self.queues[0])
        self._suspects = Suspects(self._claims, self._policies)
        self._registration = Registration(
            services,
            self._claims,
            concurrency=self.concurrency,
            health=self.health,
            pace=self._pace,
        )
        self._scheduler = Scheduler(services, self._namespace)
        self._loops = [
            asyncio.create_task(self._claim_forever(), name="aiodurable worker claims"),
            asyncio.create_task(self._look_forever(), name="aiodurable worker looks"),
            asyncio.create_task(self._scheduler.run_forever(), name="aiodurable worker schedules"),
            asyncio.create_task(
                self._lag.measure(services.observers), name="aiodurable worker loop lag"
            ),
        ]
        for loop in self._loops:
            loop.add_done_callback(self._loop_ended)
        self._registration.start()
        return self

    async def __aexit__(self, *exc_info: object) -> None:
        await self.drain()

    @property
    def graphs(self) -> tuple[str, ...]:
        """The names of the graphs that it has."""
        return tuple(bound.name for bound in self._opened().graphs.registered if bound.name)

    async def run_forever(self, *, signals: bool = False) -> None:
        """Work until somebody calls `drain`, from another task.

        Args:
            signals: until SIGTERM or SIGINT comes, too; the second one cancels what is still at
                work. Only in the main thread.

        Raises:
            Exception: a defect stopped a part of the worker; it has drained.
        """
        if not signals:
            await self._drained.wait()
            self._raise_failure()
            return
        with anyio.open_signal_receiver(signal.SIGTERM, signal.SIGINT) as received:
            waiting = asyncio.create_task(self._drained.wait())
            try:
                async for number in _until(received, waiting):
                    if self._stopping.is_set():
                        _log.warning("%s again: cancelling what is at work", number.name)
                        self.cancel()
                    else:
                        _log.warning("%s: claiming no more, draining", number.name)
                        self._drain_in_background()
            finally:
                waiting.cancel()
        self._raise_failure()

    async def drain(self) -> None:
        """Claim no more, have the graphs at work stop at their next superstep, and hand their runs
        back, unless they end; bounded by `drain_timeout_s`. Idempotent.
        """
        await asyncio.shield(self._drain_in_background())

    def cancel(self) -> None:
        """Cancel what is at work, and hand it back; no attempt is counted."""
        self._at_work.cancel()

    @property
    def failed(self) -> bool:
        """Whether a defect stopped a part of it."""
        return self._failure is not None

    def health(self) -> WorkerHealth:
        """How it is, at once, without asking Postgres."""
        now = time.monotonic()
        stale = self._looked_at is not None and now - self._looked_at > _STALE_S
        draining = self._stopping.is_set()
        lag_s = self._lag.now_s
        return WorkerHealth(
            healthy=not (
                draining or stale or self._look_failed or self._claim_failed or lag_s > 1.0
            ),
            draining=draining,
            running=tuple(self._at_work.run_ids),
            capacity=0 if draining else self.concurrency - len(self._at_work),
            queues=self.queues,
            loop_lag_s=lag_s,
            loop_lag_max_s=self._lag.max_s,
            last_claim_s=None if math.isinf(self._claimed_at) else now - self._claimed_at,
        )

    def _drain_in_background(self) -> asyncio.Task[None]:
        if self._draining is None:
            self._draining = asyncio.create_task(self._drain(), name="aiodurable worker drain")
        return self._draining

    async def _drain(self) -> None:
        self._stopping.set()
        self._at_work.stop()  # now: a claim or a connection under way may take seconds to end
        self._bell.rung.set()
        self._registration.hurry()
        try:
            if self._loops:
                claiming, *others = self._loops
                for loop in others:
                    loop.cancel()
                await asyncio.wait(self._loops, timeout=STOP_S)
                claiming.cancel()
            await self._at_work.drain(self._drain_timeout_s)
        finally:
            await self._give_back()
            self._claims.close()
            await self._registration.aclose()
            await self._bell.aclose()
            self._drained.set()

    async def _give_back(self) -> None:
        try:
            async with asyncio.timeout(STOP_S):
                await self._suspects.give_back()
                await self._claims.give_back(self._mine())
        except (AiodurableError, *DRIVER_FAILURES) as error:
            _log.warning("what this worker had claimed is not given back: %s", type(error).__name__)

    def _mine(self) -> list[str]:
        """The runs that this worker knows of."""
        return self._at_work.run_ids + self._suspects.mine

    def _free(self) -> int:
        """How many runs may be claimed."""
        if self._suspects.busy_with(self._at_work.executions):
            return 0
        return self.concurrency - len(self._at_work)

    async def _claim_forever(self) -> None:
        """One claim after the other; only this task claims, so it knows what it has claimed."""
        while not self._stopping.is_set():
            self._bell.rung.clear()
            claimed: list[Claimed] = []
            try:
                await self._tidy()
                free = self._free()
                if free:
                    claimed = await self._claims.claim(free)
                begun = await self._suspects.admit(claimed, self._at_work.executions)
                if self._stopping.is_set() and begun:
                    await self._claims.put_back(begun, ClaimState.READY)
                    return
                self._claimed_at, self._claim_failed = time.monotonic(), False
            except (AiodurableError, *DRIVER_FAILURES) as error:
                self._claim_failed = True
                _log.warning("a worker cannot look at its queues: %s", error)
                await self._sleep(_TIDY_S)
                continue
            for one in begun:
                self._start(one)
            if not self._free():
                await self._bell.take_down()
                await self._sleep(random.uniform(*_POLL_S))
            elif not claimed:
                await self._wait_for_work()

    async def _wait_for_work(self) -> None:
        if not self._bell.up:
            await self._bell.put_up()
            if self._bell.up:
                return  # look once more: what was accepted before is not announced
        wait_s, again_s = random.uniform(*_POLL_S), self._claims.again_s
        if again_s is not None:
            wait_s = min(wait_s, max(again_s, _SOONEST_S[0]))
        await self._sleep(wait_s)

    async def _tidy(self) -> None:
        """Make ready what has become so, where there is a sign of it."""
        signs = self._signs
        late = time.monotonic() - self._tidied_at >= _TIDY_S
        if signs is None or signs.is_due or (signs.untidy and late):
            self._signs = await self._claims.tidy(self._mine(), free=self._free())
            self._tidied_at = time.monotonic()

    async def _sleep(self, seconds: float) -> None:
        """Sleep until a run is announced, one has ended, or the worker stops."""
        try:
            async with asyncio.timeout(seconds):
                await self._bell.rung.wait()
        except TimeoutError:
            pass

    def _start(self, claimed: Claimed) -> None:
        if self._services.observers:
            emit(
                self._services.observers,
                RunClaimed(
                    claimed.thread_id,
                    run_id=claimed.run_id,
                    graph=claimed.graph,
                    queue=claimed.queue,
                    waited_s=claimed.waited_s,
                ),
            )
        self._at_work.begin(Execution(self._services, self._claims, claimed, self._policies))

    def _loop_ended(self, task: asyncio.Task[None]) -> None:
        """Drain where a part of the worker has failed: half of it would look alive."""
        if not task.cancelled() and (error := task.exception()) is not None:
            _log.error("the worker's task %r failed: draining", task.get_name(), exc_info=error)
            self._failure = error
            self._drain_in_background()

    def _raise_failure(self) -> None:
        if self._failure is not None:
            raise self._failure

    async def _look_forever(self) -> None:
        """See what there is to do: one statement each time where that is nothing."""
        soon_s = _SOONEST_S[0]
        while True:
            wait_s = self._pace.wait_s()
            try:
                self._signs = signs = await self._claims.signs()
                self._looked_at, self._look_failed = time.monotonic(), False
                if signs.running and await self._rescuer.look():
                    self._bell.rung.set()
                if signs.is_due or (self._has_waited() and (signs.ready or signs.untidy)):
                    self._bell.rung.set()
                # what is due and stays so has been locked by somebody: look less and less often
                soon_s = min(soon_s * 2, _SOONEST_S[1]) if signs.is_due else _SOONEST_S[0]
                if signs.due_s is not None:
                    wait_s = min(wait_s, max(signs.due_s, soon_s))
                if signs.slot_due_s is not None and signs.slot_due_s <= 0:
                    self._scheduler.due.set()
                elif signs.slot_due_s is not None:
                    wait_s = min(wait_s, signs.slot_due_s)
            except (AiodurableError, *DRIVER_FAILURES) as error:
                self._look_failed = True
                _log.debug("a worker cannot look for what to do: %s", type(error).__name__)
            await asyncio.sleep(wait_s)

    def _has_waited(self) -> bool:
        """Whether the last claim is so long ago that what it left is worth another one."""
        return time.monotonic() - self._claimed_at >= _TIDY_S


async def _until(
    received: AsyncIterator[signal.Signals], over: asyncio.Task[Any]
) -> AsyncIterator[signal.Signals]:
    """The signals that come until `over` has ended."""
    iterator = aiter(received)
    while not over.done():
        coming = asyncio.ensure_future(anext(iterator))
        await asyncio.wait({coming, over}, return_when=asyncio.FIRST_COMPLETED)
        if not coming.done():
            coming.cancel()
            return
        yield coming.result()
