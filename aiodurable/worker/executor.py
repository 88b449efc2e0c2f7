"""Execute one claimed run, by the same way as `Durable.run`, and decide what becomes of it."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator, Awaitable, Mapping
from contextlib import asynccontextmanager
from typing import Any, Final, TypeVar

from langgraph.errors import GraphDrained

from aiodurable.errors import (
    AiodurableError,
    ClosedError,
    GraphChangedError,
    LockError,
    PostgresUnavailableError,
    RunCancelledError,
    RunInProgressError,
    RunTimeoutError,
    ThreadInterruptedError,
    ThreadNotFoundError,
    ThreadPausedError,
    ThreadQuarantinedError,
    WorkflowAlreadyRunningError,
    WorkflowExecutionError,
)
from aiodurable.models import ClaimState, PauseReason, RunStatus, ThreadStatus
from aiodurable.postgres.errors import DRIVER_FAILURES, is_transient
from aiodurable.runs.decision import asleep
from aiodurable.runs.durable_run import DurableRun
from aiodurable.runs.ending import Ending
from aiodurable.runs.error_text import error_text, traceback_text
from aiodurable.runs.graphs import BoundGraph
from aiodurable.runs.outcome import Outcome
from aiodurable.runs.retry_policy import Retries, RetryPolicy, limited
from aiodurable.runs.run import run
from aiodurable.runs.services import Services
from aiodurable.runs.signals import Sleep
from aiodurable.worker.claims import Claimed, Claims
from aiodurable.worker.left_run import outcome_of_left

__all__ = ["CANCELLED_S", "Execution", "died_too_often", "policy_of"]

T = TypeVar("T")

_log = logging.getLogger(__name__)

CANCELLED_S: Final = 2.0
"""Seconds that nodes may take to end when they are cancelled."""
_SOON_S, _LATER_S = 1.0, 10.0
"""Seconds until a run is looked at again that could not be begun."""
_FOR_A_PERSON = (
    ThreadInterruptedError,
    ThreadNotFoundError,
    ThreadPausedError,
    ThreadQuarantinedError,
)


def policy_of(claimed: Claimed, policies: Mapping[str, RetryPolicy]) -> RetryPolicy:
    """When a claimed run is tried again: as it was accepted, else as its worker says."""
    policy = claimed.policy or policies.get(claimed.graph) or policies[""]
    return limited(policy, claimed.max_attempts)


def died_too_often(claimed: Claimed, policy: RetryPolicy) -> bool:
    """Whether its process has died as often as it may, the last time with nothing else at work."""
    alone = policy.max_attempts == 1 or not claimed.beside_others
    return alone and claimed.failures >= policy.max_attempts


class Execution:
    """One claimed run.

    Args:
        services: the open services.
        claims: of the worker.
        claimed: the run.
        policies: when a run is tried again, by graph; "" for those that are not named.

    Attributes:
        draining: whether the worker stops: the run is handed back.
    """

    def __init__(
        self,
        services: Services,
        claims: Claims,
        claimed: Claimed,
        policies: Mapping[str, RetryPolicy],
    ) -> None:
        self._services = services
        self._claims = claims
        self.claimed = claimed
        self._retries = Retries(policy_of(claimed, policies), claimed.failures)
        self._run: DurableRun[Any, Any, Any] | None = None
        self._limit: asyncio.Timeout | None = None
        self._ending: Ending | None = None
        self._task: asyncio.Task[Any] | None = None
        self._blocked = False
        self.draining = False

    @property
    def progressed(self) -> bool:
        """Whether a checkpoint was written that was not there before."""
        here = self._run
        mark = None if here is None else here.lease.session.history.mark
        if here is None or mark is None:
            return False
        return mark.checkpoint_id not in (None, here.checkpoint.checkpoint_id)

    def drain(self) -> None:
        """Have the graph stop at its next superstep, and hand the run back."""
        self.draining = True
        if self._run is not None:
            self._run.drain()

    async def abandon(self) -> None:
        """Hand the run back while a node of it swallows its cancellation: what that still writes is
        refused.
        """
        if self._run is not None and self._run.began:
            await self._run.abandon()

    async def execute(self) -> None:
        """Execute the run; how it ends is in its row."""
        self._task = asyncio.current_task()
        try:
            await self._begin()
        except asyncio.CancelledError:
            if not self.draining:
                raise
            await self._put_back(ClaimState.READY)
        except Exception as error:
            await self._not_begun(error)
        finally:
            if not self._blocked:  # else it would be claimed again at once, and in vain
                await self._quietly(self._claims.ended(self.claimed))

    async def _begin(self) -> None:
        claimed = self.claimed
        if claimed.too_late:
            await self._set_aside("waited too long")
            return
        graph = self._services.graphs.bind(claimed.graph)
        async with run(
            self._services,
            claimed.thread_id,
            graph,
            run_id=claimed.run_id,
            decide_ending=self._decide,
            claim=self._claims.worker,
        ) as self._run:
            if self.draining:
                await self._put_back(ClaimState.READY)
                return
            if claimed.status == RunStatus.RUNNING and await self._settled(self._run, graph):
                return
            async with self._abandoned_late(self._run), asyncio.timeout(claimed.timeout_s) as limit:
                self._limit = limit
                await self._run.ainvoke()
            # else nothing is left to do, or not yet
            if not self._run.began and not await self._sleeps_on(self._run):
                await self._put_back(None)

    @asynccontextmanager
    async def _abandoned_late(self, here: DurableRun[Any, Any, Any]) -> AsyncIterator[None]:
        """End the attempt although a node swallows the cancellation with which its time is up."""
        if self.claimed.timeout_s is None:
            yield
            return
        abandoning = list[asyncio.Task[None]]()

        def abandon() -> None:
            _log.warning(
                "the attempt of run %r took too long, and its node goes on: what that writes is"
                " refused",
                self.claimed.run_id,
            )
            here.drain()
            abandoning.append(asyncio.create_task(self.abandon()))

        wait_s = self.claimed.timeout_s + CANCELLED_S
        late = asyncio.get_running_loop().call_later(wait_s, abandon)
        try:
            yield
        finally:
            late.cancel()
            if abandoning:
                await asyncio.wait(abandoning)

    async def _sleeps_on(self, here: DurableRun[Any, Any, Any]) -> bool:
        """Whether the run sleeps, or waits for a signal, and is not due; then its row says so."""
        thread = here.checkpoint
        if not (thread.waits and (thread.interrupts or asleep(thread))):
            return False
        await self._services.ledger.signals.sleep_on(
            self.claimed.run_id,
            fence=here.lease.fence,
            status=RunStatus.INTERRUPTED if thread.interrupts else RunStatus.PAUSED,
            reason=thread.reason,
            checkpoint_id=thread.checkpoint_id,
            sleep=Sleep.of(thread.waits),
            worker=self._claims.worker,
        )
        return True

    async def _settled(self, here: DurableRun[Any, Any, Any], graph: BoundGraph) -> bool:
        """Whether a run that its process left had stopped before; then its row says so now."""
        if here.checkpoint.waits and here.checkpoint.status is ThreadStatus.INTERRUPTED:
            return False  # what it sleeps for may be due
        failures = self.claimed.failures
        outcome = await outcome_of_left(
            here.checkpoint,
            graph,
            base_checkpoint_id=self.claimed.base_checkpoint_id,
            died=died_too_often(self.claimed, self._retries.policy),
        )
        if outcome is None:
            return False
        if outcome.status is RunStatus.QUARANTINED:
            error = f"its process died {failures} times without progress"
            await self._set_aside(outcome.reason, error)
        else:
            await self._services.ledger.queued.settle_left(
                self.claimed.run_id,
                fence=here.lease.fence,
                status=outcome.status,
                reason=outcome.reason,
                checkpoint_id=here.checkpoint.checkpoint_id,
            )
        return True

    async def _set_aside(self, reason: str | None, error: str | None = None) -> None:
        if await self._claims.set_aside(self.claimed.run_id, reason=reason, error=error):
            self._log_quarantined(error or reason)

    def _log_if_quarantined(self, raised: Exception) -> None:
        """Not where another error came out: then its row does not have that ending."""
        ending = self._ending
        if ending is None or ending.outcome.status is not RunStatus.QUARANTINED:
            return
        late = isinstance(ending.error, RunTimeoutError) and isinstance(raised, TimeoutError)
        if raised is ending.error or late:  # without its text, which may hold state
            self._log_quarantined(f"{ending.outcome.reason}, {type(ending.error).__name__}")

    def _log_quarantined(self, why: str | None) -> None:
        run_id, thread_id = self.claimed.run_id, self.claimed.thread_id
        _log.warning("run %s of thread %r is quarantined: %s", run_id, thread_id, why)

    def _decide(self, outcome: Outcome, error: BaseException | None, progressed: bool) -> Ending:
        """What becomes of the run."""
        stopped = outcome.status is RunStatus.PAUSED and outcome.reason in (
            PauseReason.DRAINED,
            PauseReason.CANCELLED,
        )
        if stopped and self._limit is not None and self._limit.expired():
            error = RunTimeoutError(
                f"cannot finish run {self.claimed.run_id!r} of thread {self.claimed.thread_id!r}:"
                f" the attempt took longer than the {self.claimed.timeout_s:g} s that it may;"
                " accept runs with a longer timeout, or split what its nodes do",
                thread_id=self.claimed.thread_id,
            )
            outcome = Outcome(RunStatus.FAILED, "timeout")
        elif stopped and (self.draining or self._task is None or self._task.cancelling() > 0):
            drained = Outcome(RunStatus.PAUSED, PauseReason.DRAINED)
            return Ending(drained, None, again_after_s=0, failures=0 if progressed else None)
        self._ending = self._retries.after(outcome, error, progressed)
        return self._ending

    async def _not_begun(self, error: Exception) -> None:
        """What came out; where the attempt was begun, its row says the rest."""
        if (self._run is not None and self._run.began) or isinstance(
            error, RunCancelledError | GraphDrained
        ):
            _log.debug("run %s ended: %s", self.claimed.run_id, type(error).__name__)
            self._log_if_quarantined(error)
            return
        waits = self.claimed.status == RunStatus.QUEUED
        match error:
            # Never scheduled: what waits behind it would pass it.
            case RunInProgressError() | WorkflowAlreadyRunningError() if waits:
                await self._put_back(ClaimState.BLOCKED)
            case _ if waits and (_passes(error) or isinstance(error, _FOR_A_PERSON)):
                await self._put_back(ClaimState.BLOCKED)
            case WorkflowAlreadyRunningError():
                running = self.claimed.status == RunStatus.RUNNING
                await self._put_back(None if running else ClaimState.SCHEDULED, _SOON_S)
            case _ if _passes(error):
                await self._put_back(ClaimState.SCHEDULED, _SOON_S)
            case GraphChangedError():
                misfit = error_text(error)
                if await self._put_back(ClaimState.SCHEDULED, _LATER_S, misfit):
                    _log.warning("%s: a worker that has the graph may do it", error)
            case WorkflowExecutionError() if not waits:  # its thread says what it waits for
                if await self._put_back(None):
                    _log.warning("run %s was left alone: %s", self.claimed.run_id, error)
            case _:
                level = logging.WARNING if isinstance(error, AiodurableError) else logging.ERROR
                text = error_text(error)
                aside = await self._quietly(
                    self._claims.set_aside(
                        self.claimed.run_id,
                        reason="cannot be begun",
                        error=text,
                        traceback=traceback_text(error),
                    )
                )
                if aside is not False:  # else it was cancelled, or somebody has it or its row
                    _log.log(level, "run %s cannot be begun: %s", self.claimed.run_id, text)

    async def _put_back(
        self, state: ClaimState | None, after_s: float | None = None, misfit: str | None = None
    ) -> bool | None:
        """Whether the run was put back; None: not known."""
        after_s = after_s if state is ClaimState.SCHEDULED else None
        self._blocked = state is ClaimState.BLOCKED
        return await self._quietly(
            self._claims.put_back([self.claimed], state, after_s, misfit=misfit)
        )

    async def _quietly(self, write: Awaitable[T]) -> T | None:
        """Where Postgres is away, the worker's next look finds what is left to do."""
        try:
            return await write
        except (AiodurableError, *DRIVER_FAILURES) as error:
            _log.debug("run %s: %s, later", self.claimed.run_id, type(error).__name__)
            return None


def _passes(error: Exception) -> bool:
    """Whether nothing is wrong with the run: Postgres or the lease cannot be had at this moment."""
    passing = isinstance(error, PostgresUnavailableError | ClosedError | LockError)
    return passing or is_transient(error)
