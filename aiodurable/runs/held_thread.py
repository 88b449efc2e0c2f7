"""A thread under its lease: starts or resumes its attempts, and records how each one ended.

A call passes `_begin`, which starts or resumes an attempt (or finds a stored result), and
`_closing`, which records how it ended.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Awaitable
from contextlib import suppress
from typing import Any

from langchain_core.runnables import RunnableConfig

from aiodurable.errors import RunInProgressError
from aiodurable.models import ThreadStatus, WorkflowCheckpoint
from aiodurable.runs.accepted import Accepted
from aiodurable.runs.attempt import Attempt
from aiodurable.runs.attempt_config import AttemptConfig, options_of
from aiodurable.runs.attempt_opener import AttemptOpener
from aiodurable.runs.call import Call
from aiodurable.runs.closing import Closing
from aiodurable.runs.decision import Action, OnUnfinished, interrupted, paused
from aiodurable.runs.ending import DecideEnding
from aiodurable.runs.graphs import BoundGraph
from aiodurable.runs.lease import ThreadLease
from aiodurable.runs.plan import Plan, plan_call
from aiodurable.runs.rollback import roll_back
from aiodurable.runs.run_config import check_call, merged, named_run, new_run_id, usable
from aiodurable.runs.services import Services
from aiodurable.runs.stored_result import StoredResult, read_result
from aiodurable.shield import run_to_completion

__all__ = ["HeldThread", "status_under"]


async def status_under(services: Services, lease: ThreadLease) -> WorkflowCheckpoint:
    """The thread's status, its lease ignored."""
    return await services.threads.status(lease.thread_id, ignore_lock=True)


class HeldThread:
    """A thread under its lease, and its attempts there: one at a time. `DurableRun` makes the
    graph's calls on it.
    """

    def __init__(
        self,
        services: Services,
        graph: BoundGraph,
        lease: ThreadLease,
        found: WorkflowCheckpoint,
        *,
        run_id: str | None,
        fresh_id: str,
        config: RunnableConfig,
        context: Any,
        takes_over: bool = False,
        decide_ending: DecideEnding | None = None,
        claim: str | None = None,
    ) -> None:
        self._services = services
        self._graph = graph
        self._requested_run_id = run_id
        self._given_config = config
        self._context = context
        self._attempt: Attempt | None = None
        self._stream: AsyncGenerator[Any, None] | None = None
        self._starting = False
        self._opener = AttemptOpener(services, lease, graph, claim)
        self._configs = AttemptConfig(services, graph, lease)
        self._began = False
        self._stale = False
        self._draining: str | None = None
        self._decide_ending = decide_ending
        self._claim = claim
        self.thread_id = lease.thread_id
        self.lease = lease
        self.checkpoint = found
        self.status = found.status
        self.resumed = False
        left = None if found.status in (ThreadStatus.NEW, ThreadStatus.COMPLETE) else found.run_id
        self._fresh_id: str | None = fresh_id
        self._takes_over = takes_over
        self.run_id: str = run_id or left or fresh_id

    @property
    def began(self) -> bool:
        """Whether any attempt was begun: else nothing had to run."""
        return self._began

    def drain(self, reason: str = "drained") -> None:
        """Have the graph stop at its next superstep, as at a shutdown: the call raises LangGraph's
        `GraphDrained`, and anybody may go on with the run.
        """
        self._draining = reason
        if self._attempt is not None:
            self._attempt.control.request_drain(reason)

    async def abandon(self) -> None:
        """Record the attempt as cancelled while a node of it goes on, or the consumer of its stream
        holds that back, and give the lease up: what it still writes is refused.
        """
        await self.settle(asyncio.CancelledError())
        await self.lease.release()
        await self._close_stream()

    async def leave(self) -> None:
        """End a stream that the body left open, while the lease still holds, and record it as
        closed.
        """
        try:
            await self._close_stream()
        finally:
            await self.settle(GeneratorExit())

    async def _close_stream(self) -> None:
        if self._stream is not None:
            # another task waits for its next chunk, and is refused from now on
            with suppress(RuntimeError):
                await self._stream.aclose()

    async def settle(self, error: BaseException | None = None) -> None:
        """Record how an attempt that is still open ended; called after each call and when the body
        is left.
        """
        attempt, self._attempt = self._attempt, None
        if attempt is None:
            return
        if error is None and (ended := attempt.recorded()) is not None:
            self.checkpoint, self._stale = ended, False
        else:
            closing = attempt.close(error)
            if isinstance(error, (asyncio.CancelledError, GeneratorExit)):
                # who leaves does not wait for a dead link
                closing = self.lease.while_locked(closing)
            thread = await run_to_completion(closing)
            self.checkpoint, self._stale = thread or self.checkpoint, thread is None

    def _call(
        self,
        input: Any,
        config: RunnableConfig | None,
        context: Any,
        on_unfinished: OnUnfinished,
        options: dict[str, Any],
    ) -> Call:
        """The call, checked before anything is written."""
        context = self._context if context is None else context
        check_call(self._graph.pregel, options, context, self.thread_id)
        return Call(
            input,
            on_unfinished,
            named_run(self._requested_run_id, config, self.thread_id),
            merged(self._given_config, usable(config, self.thread_id)),
            context,
            options,
            takes_over=self._takes_over and not self._began,
        )

    async def _begin(self, call: Call) -> Attempt | StoredResult:
        """Decide, and write the ledger; another run that was left unfinished comes first."""
        while True:
            action, begun = await self._step(call)
            if action is not Action.FINISH_FIRST:
                break
            assert isinstance(begun, Attempt)
            await self._finish(begun)
        self.resumed = isinstance(begun, Attempt) and begun.resumed
        if isinstance(begun, Attempt):
            self.run_id = begun.run_id
        return begun

    async def _step(self, call: Call) -> tuple[Action, Attempt | StoredResult]:
        if self._starting or self._attempt is not None:
            raise RunInProgressError(
                f"cannot call the run of thread {self.thread_id!r}: it is in the middle of another"
                " call; await that one first",
                thread_id=self.thread_id,
                status=ThreadStatus.RUNNING,
            )
        self.lease.check()
        self._starting = True
        try:
            # To the end: a row that is written although its caller was cancelled must be closed
            # again.
            return await run_to_completion(self._open(call))
        except asyncio.CancelledError as error:
            await self.settle(error)
            raise
        finally:
            self._starting = False

    async def _finish(self, attempt: Attempt) -> None:
        """Run the unfinished run to its end, with what it was accepted with and nothing of this
        call.

        Raises:
            ThreadInterruptedError, ThreadPausedError: it asks, or has come to a gate.
            Exception: what it raises.
        """
        own = Call(None, "resume", attempt.run_id, {}, None, {})
        async with self._closing(attempt):
            await self._invoke(attempt, own)
        match self.checkpoint.status:
            case ThreadStatus.COMPLETE:
                return
            case ThreadStatus.INTERRUPTED:
                raise interrupted(self.checkpoint)
            case ThreadStatus.PAUSED:
                raise paused(self.checkpoint)
            case status:
                raise RunInProgressError(
                    f"cannot give thread {self.thread_id!r} another input: the run that was left is"
                    f" still {status}; resume that one by itself",
                    thread_id=self.thread_id,
                    status=status,
                )

    async def _open(self, call: Call) -> tuple[Action, Attempt | StoredResult]:
        if self._stale:
            self.checkpoint, self._stale = await status_under(self._services, self.lease), False
        plan = await plan_call(self._services.ledger, self.lease, self.checkpoint, call)
        match plan.action:
            case Action.RETURN:
                assert plan.stored is not None
                return plan.action, plan.stored
            case Action.START:
                run_id = call.run_id or self._next_id()
                attempt = await self._opener.start(self.checkpoint, call, run_id)
                return plan.action, self._opened(attempt)
            case Action.BEGIN:
                assert plan.unfinished is not None
                if plan.rolls_back:
                    await roll_back(self._services, self.lease)
                    self.checkpoint = await status_under(self._services, self.lease)
                await self._prepare()
                attempt = await self._opener.begin(self.checkpoint, call, plan.unfinished)
                return plan.action, self._opened(attempt, plan.unfinished)
            case Action.RESUME | Action.FINISH_FIRST:
                return plan.action, await self._resume(plan, call)

    async def _prepare(self) -> None:
        """Do with the thread what an accepted run needs before it begins."""

    async def _resume(self, plan: Plan, call: Call) -> Attempt:
        """Go on with the run that was left; of work that plain LangGraph left, or a change of the
        state, with a new one.
        """
        attempt = await self._opener.resume(self.checkpoint, call, plan.unfinished)
        self._opened(attempt, plan.unfinished)
        try:
            command = call.command if plan.answers else None
            await attempt.deliver(self.checkpoint, command, plan.answers, plan.due)
        except Exception as error:
            # nothing was delivered: the attempt is over before its graph began
            await self.settle(error)
            raise
        return attempt

    def _opened(self, attempt: Attempt, accepted: Accepted | None = None) -> Attempt:
        self._began, self._attempt = True, attempt
        attempt.decide_ending = self._decide_ending
        if attempt.decide_ending is None and accepted is not None and accepted.retries is not None:
            policy = self._services.retry_policies.get(self._graph.name or "")
            attempt.decide_ending = accepted.retries.or_by(policy).after
        if self._draining is not None:
            attempt.control.request_drain(self._draining)
        return attempt

    def _next_id(self) -> str:
        """For a run that is started: the id that was known at entry, and another one each time
        after that.
        """
        fresh, self._fresh_id = self._fresh_id, None
        return fresh or new_run_id()

    def _invoke(self, attempt: Attempt, call: Call) -> Awaitable[Any]:
        return attempt.graph.pregel.ainvoke(
            attempt.input, self._config_for(attempt, call), **options_of(attempt, call)
        )

    def _config_for(self, attempt: Attempt, call: Call) -> RunnableConfig:
        addressed = self._configs.addressed(merged(attempt.config, call.config), attempt.run_id)
        return self._configs.within(addressed, self.run_id, attempt)

    def _closing(self, attempt: Attempt) -> Closing:
        return Closing(
            self._services, self.lease, attempt, settle=self.settle, abandon=self.abandon
        )

    async def _read(self, stored: StoredResult) -> tuple[Any, tuple[Any, ...]]:
        return await read_result(self._graph, self.checkpoint, self.run_id, stored)
