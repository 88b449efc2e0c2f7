"""A durable run: acquire the lease, read the thread's status, start or resume it, record how it
ended, release the lease.

`run` holds the lease and reads the status. A call on its `DurableRun` passes `_begin`, which starts
or resumes an attempt (or finds a stored result), and `_closing`, which records how it ended.
"""

from __future__ import annotations

import asyncio
from collections.abc import (
    AsyncGenerator,
    AsyncIterator,
    Awaitable,
    Callable,
    Iterable,
    Sequence,
)
from contextlib import aclosing, asynccontextmanager, suppress
from typing import Any, Generic, Literal, TypeVar, Unpack, cast, overload

from langchain_core.runnables import RunnableConfig
from langchain_core.runnables.schema import StreamEvent
from langgraph.constants import START
from langgraph.types import Command, GraphOutput, StateSnapshot, StateUpdate, StreamMode

from aiodurable.checkpoints.write_session import SESSION_KEY
from aiodurable.errors import AiodurableError, RunInProgressError
from aiodurable.events import enter
from aiodurable.models import ThreadStatus, WorkflowCheckpoint
from aiodurable.postgres.errors import DRIVER_FAILURES
from aiodurable.runs.accepted import Accepted
from aiodurable.runs.acquire import acquire_lease
from aiodurable.runs.answers import STRICT_RESUME
from aiodurable.runs.attempt import Attempt, new_run_id
from aiodurable.runs.busy import INTERRUPTING, OnBusy
from aiodurable.runs.call import NONE_ANSWER, Call
from aiodurable.runs.call_types import (
    CallOptions,
    ContextT,
    EventOptions,
    InputT,
    OutputT,
    StreamOptions,
)
from aiodurable.runs.cancellation import Cancelling
from aiodurable.runs.current_run import RUN_KEY, CurrentRun
from aiodurable.runs.decision import Action, OnUnfinished, interrupted, paused
from aiodurable.runs.durable_time import CLOCK_KEY
from aiodurable.runs.effect_steps import EFFECTS_KEY, Effects
from aiodurable.runs.ending import DecideEnding
from aiodurable.runs.graph_check import ended_early
from aiodurable.runs.graphs import BoundGraph
from aiodurable.runs.lease import ThreadLease
from aiodurable.runs.plan import Plan, plan_call
from aiodurable.runs.retry_policy import Retries
from aiodurable.runs.rollback import roll_back
from aiodurable.runs.run_config import check_call, merged, named_run, usable
from aiodurable.runs.services import Services
from aiodurable.runs.stored_result import (
    StoredResult,
    read_result,
    stored_chunks,
    stored_end_event,
    stored_result,
)
from aiodurable.runs.tool_calls import UNFINISHED_CALL, results_of_open_calls
from aiodurable.shield import run_to_completion

__all__ = ["DurableRun", "run"]

T = TypeVar("T")


@asynccontextmanager
async def run(
    services: Services,
    thread_id: str,
    graph: BoundGraph,
    *,
    run_id: str | None = None,
    on_busy: OnBusy = "reject",
    timeout: float | None = None,
    config: RunnableConfig | None = None,
    context: Any = None,
    decide_ending: DecideEnding | None = None,
    claim: str | None = None,
) -> AsyncIterator[DurableRun[Any, Any, Any]]:
    """Hold the thread for the body, and give it a `DurableRun` to start or resume it with. See
    `Durable.run`.
    """
    run_id = named_run(run_id, config, thread_id)
    config = usable(config, thread_id)
    check_call(graph.pregel, (), context, thread_id)
    fresh_id = new_run_id()
    try:
        async with acquire_lease(
            services, thread_id, on_busy=on_busy, timeout=timeout, run_id=run_id or fresh_id
        ) as lease:
            found = await _status(services, lease, new=lease.first)
            durable_run = DurableRun[Any, Any, Any](
                *(services, graph, lease, found),
                run_id=run_id,
                fresh_id=fresh_id,
                config=config,
                context=context,
                takes_over=on_busy in INTERRUPTING,
            )
            durable_run.decide_ending, durable_run.claim = decide_ending, claim
            try:
                yield durable_run
            finally:
                await durable_run.leave()
    finally:
        if services.ledger.is_awaited(thread_id) and claim is None:  # else its worker does it
            with suppress(AiodurableError, *DRIVER_FAILURES):  # else a worker finds it later
                await services.ledger.queued.promote([thread_id])


async def _status(
    services: Services, lease: ThreadLease, *, new: bool = False
) -> WorkflowCheckpoint:
    """The thread's status, its lease ignored. `new`: a first token proves that it never ran."""
    if new:
        return WorkflowCheckpoint(lease.thread_id, ThreadStatus.NEW)
    return await services.threads.status(lease.thread_id, ignore_lock=True)


_EVENT_FILTERS = tuple(
    f"{way}_{what}" for way in ("include", "exclude") for what in ("names", "types", "tags")
)


class DurableRun(Generic[InputT, OutputT, ContextT]):
    """A thread under its lease. Made by `async with durable.run(…)`; one call at a time.

    Attributes:
        thread_id: the thread.
        run_id: the run that a call goes on with or starts; a new turn after a completed one has an
            id of its own.
        status: the thread's status at entry.
        checkpoint: the thread as it was found at entry, and after each call as that left it.
        lease: what makes all this ours: `.token`, `.lost`, `.check()`, `await .wait_lost()`.
        resumed: whether the last call went on with work that was left unfinished.
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
    ) -> None:
        self._services = services
        self._graph = graph
        self._requested_run_id = run_id
        self._given_config = config
        self._context = context
        self._attempt: Attempt | None = None
        self._stream: AsyncGenerator[Any, None] | None = None
        self._starting = False
        self._attempts = 0
        self._loop = asyncio.get_running_loop()
        self._began = False
        self._stale = False
        self._draining: str | None = None
        self.decide_ending: DecideEnding | None = None
        self.claim: str | None = None
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
    def config(self) -> RunnableConfig:
        """The LangGraph config that addresses this thread under this lease, for calls on the graph
        itself.
        """
        return self._within(self._addressed(self._given_config, self.run_id), self._attempt)

    def _addressed(self, config: RunnableConfig, run_id: str | None) -> RunnableConfig:
        """The config with the thread, the write session and the metadata of checkpoints."""
        own = {
            "thread_id": self.thread_id,
            "aiodurable_graph_name": self._graph.name,
            "aiodurable_worker": self._services.ledger.worker,
            SESSION_KEY: self.lease.session,
            **({} if run_id is None else {"aiodurable_run_id": run_id}),
            STRICT_RESUME: True,
        }
        return {**config, "configurable": {**config.get("configurable", {}), **own}}

    @overload
    async def ainvoke(
        self,
        input: InputT | Command[Any] | None = None,
        config: RunnableConfig | None = None,
        *,
        context: ContextT | None = None,
        on_unfinished: OnUnfinished = "resume",
        version: Literal["v2"],
        **options: Unpack[CallOptions],
    ) -> GraphOutput[OutputT]: ...
    @overload
    async def ainvoke(
        self,
        input: InputT | Command[Any] | None = None,
        config: RunnableConfig | None = None,
        *,
        context: ContextT | None = None,
        on_unfinished: OnUnfinished = "resume",
        stream_mode: StreamMode | Sequence[StreamMode],
        **options: Unpack[CallOptions],
    ) -> list[Any]: ...
    @overload
    async def ainvoke(
        self,
        input: InputT | Command[Any] | None = None,
        config: RunnableConfig | None = None,
        *,
        context: ContextT | None = None,
        on_unfinished: OnUnfinished = "resume",
        **options: Unpack[CallOptions],
    ) -> OutputT: ...
    async def ainvoke(
        self,
        input: Any = None,
        config: RunnableConfig | None = None,
        *,
        context: Any = None,
        on_unfinished: OnUnfinished = "resume",
        **options: Any,
    ) -> Any:
        """Start the thread with `input`, or go on with what was left unfinished.

        The input of the unfinished run again is its retry. Another one waits until that run has
        finished: this call finishes it first, and returns the result of its own input.

        Args:
            input: as for the graph's own `ainvoke`; None only resumes, or returns what a complete
                thread has stored. `Command(resume=…)` answers, as `answer` does.
            config: a LangGraph config for this call, over that of `Durable.run`.
            context: the graph's run context, instead of that of `Durable.run`.
            on_unfinished: "resume"; "raise": `RunInProgressError`; "restart": give the old work up,
                an open question too, and start.
            options: LangGraph's own for `ainvoke`; `durability` is "sync" by default.

        Returns:
            What the graph's `ainvoke` returns.

        Raises:
            ThreadNotFoundError: the thread has no checkpoint and no run, and there is no input.
            ThreadInterruptedError: it waits for an answer; see `answer`.
            ThreadPausedError: it is at a gate, or somebody cancelled it, and this call has an
                input: without one it goes on.
            RunInProgressError, ThreadQuarantinedError: see `on_unfinished`, and quarantine.
            InvalidArgumentError: input, config, context or an option cannot be used, or the run
                that is named was accepted with another input; nothing was written.
            ResultPrunedError: the run is complete, but its result is not stored any more.
            LeaseLostError: the lease was lost; its next holder goes on from the last checkpoint.
            RunCancelledError: somebody cancelled the run; see `Threads.cancel`.
            Exception: a node's own, as it was raised; also one of the unfinished run, and the input
                was not taken then.
        """
        call = self._call(input, config, context, on_unfinished, options)
        attempt = await self._begin(call)
        if isinstance(attempt, StoredResult):
            values, questions = await self._read(attempt)
            return stored_result(self._graph, values, options, questions)
        async with self._closing(attempt):
            return await self._invoke(attempt, call)

    def astream(
        self,
        input: InputT | Command[Any] | None = None,
        config: RunnableConfig | None = None,
        *,
        context: ContextT | None = None,
        on_unfinished: OnUnfinished = "resume",
        **options: Unpack[StreamOptions],
    ) -> AsyncGenerator[Any, None]:
        """Like `ainvoke`, but yields what the graph's own `astream` yields; a stored result comes
        as one "values" chunk, in the shape that the options give a live one.

        A stream that is left early leaves the thread paused. Close it (`contextlib.aclosing`) where
        you may leave it.
        """
        own = cast("dict[str, Any]", options)

        def live(attempt: Attempt, call: Call) -> AsyncIterator[Any]:
            return attempt.graph.pregel.astream(
                attempt.input, self._config_for(attempt, call), **self._options(attempt, call)
            )

        def stored(values: Any, questions: Sequence[Any]) -> Iterable[Any]:
            return stored_chunks(self._graph, values, own, questions)

        return self._streamed(input, config, context, on_unfinished, own, live, stored)

    def astream_events(
        self,
        input: InputT | Command[Any] | None = None,
        config: RunnableConfig | None = None,
        *,
        version: Literal["v1", "v2"] = "v2",
        context: ContextT | None = None,
        on_unfinished: OnUnfinished = "resume",
        **options: Unpack[EventOptions],
    ) -> AsyncGenerator[StreamEvent, None]:
        """Like `astream`, but yields LangChain's events of everything that runs inside the graph.

        Of a stored result there is one event, the graph's `on_chain_end` with its output.

        Args:
            input, config, context, on_unfinished: as for `ainvoke`.
            version: the shape of the events. LangGraph's experimental "v3" is not an event stream.
            options: LangGraph's own for `astream`, and LangChain's filters: include_names,
                include_types, include_tags, exclude_names, exclude_types, exclude_tags.

        Raises: as `ainvoke`.
        """
        own = cast("dict[str, Any]", options)
        filters = {name: own.pop(name) for name in _EVENT_FILTERS if name in own}

        def live(attempt: Attempt, call: Call) -> AsyncIterator[StreamEvent]:
            return attempt.graph.pregel.astream_events(
                attempt.input,
                self._config_for(attempt, call),
                version=version,
                **filters,
                **self._options(attempt, call),
            )

        def stored(values: Any, questions: Sequence[Any]) -> Iterable[StreamEvent]:
            output = stored_result(self._graph, values, own, questions)
            return (stored_end_event(self._graph.pregel.get_name(), self.run_id, output),)

        return self._streamed(input, config, context, on_unfinished, own, live, stored)

    async def _streamed(
        self,
        input: Any,
        config: RunnableConfig | None,
        context: Any,
        on_unfinished: OnUnfinished,
        options: dict[str, Any],
        live: Callable[[Attempt, Call], AsyncIterator[T]],
        stored: Callable[[Any, Sequence[Any]], Iterable[T]],
    ) -> AsyncGenerator[T, None]:
        """One call as a stream: the chunks of its attempt, or those of a stored result."""
        call = self._call(input, config, context, on_unfinished, options)
        attempt = await self._begin(call)
        if isinstance(attempt, StoredResult):
            for chunk in stored(*await self._read(attempt)):
                yield chunk
            return
        # Closed before the outcome is recorded: by then nothing of the run works any more.
        async with (
            self._closing(attempt) as cancelling,
            aclosing(cast("AsyncGenerator[T, None]", live(attempt, call))) as self._stream,
        ):
            async for chunk in self._stream:
                with cancelling.outside():
                    yield chunk

    async def answer(self, value: Any, **options: Unpack[CallOptions]) -> OutputT:
        """Answer the open question of an interrupted thread and go on.

        An answer is delivered once: the same call again returns the result, or resumes the run.

        Args:
            value: the answer to the one open question; or a dict of interrupt ids, which answers
                one or several, and reaches no other question however often it is delivered.
            options: LangGraph's own for `ainvoke`.

        Raises:
            ThreadNotFoundError: the thread has no checkpoint and no run.
            NothingToAnswerError: the thread asks nothing, or not what a dict of ids names; or this
                run was named and is over, and another one asks.
            AlreadyAnsweredError: the question was answered otherwise; or the same bare answer was
                given to an earlier question under another lease, and may have been delivered twice.
            ThreadInterruptedError: several questions are open, and no dict of ids came.
            ValidationError: pydantic's, where the question's `response_schema` refuses the answer;
                it is still open.
        """
        # None is an answer, too, but for LangGraph Command(resume=None) is none.
        return await self.ainvoke(
            Command(resume=NONE_ANSWER if value is None else value), **options
        )

    async def aget_state(self, *, subgraphs: bool = False) -> StateSnapshot:
        """The thread's state, as LangGraph reads it."""
        return await self._graph.pregel.aget_state(
            {"configurable": {"thread_id": self.thread_id}}, subgraphs=subgraphs
        )

    async def aupdate_state(
        self, values: Any, as_node: str | None = None, task_id: str | None = None
    ) -> RunnableConfig:
        """Change the thread's state under the lease, as LangGraph's `aupdate_state` does."""
        return await self._change(
            lambda config: self._graph.pregel.aupdate_state(config, values, as_node, task_id)
        )

    async def repair_tool_calls(self, text: str = UNFINISHED_CALL) -> int:
        """Give each open tool call of the last turn a `ToolMessage`, as a step of its own, before
        the next input: without one every provider refuses the chat.

        For a chat that was interrupted or cancelled. It is what the tool has returned, or else an
        error. Nothing is left to do the second time. Not for messages of subgraphs.

        Args:
            text: what the error says.

        Returns:
            How many calls had no result in the chat.
        """
        found = results_of_open_calls(await self.aget_state(), text)
        if found:
            await self.aupdate_state(found, START)
        return sum(map(len, found.values()))

    async def aget_state_history(
        self,
        *,
        filter: dict[str, Any] | None = None,
        before: RunnableConfig | None = None,
        limit: int | None = None,
    ) -> AsyncIterator[StateSnapshot]:
        """The thread's states, newest first, as LangGraph's `aget_state_history` reads them."""
        config: RunnableConfig = {"configurable": {"thread_id": self.thread_id}}
        async for state in self._graph.pregel.aget_state_history(
            config, filter=filter, before=before, limit=limit
        ):
            yield state

    async def abulk_update_state(
        self, supersteps: Sequence[Sequence[StateUpdate]]
    ) -> RunnableConfig:
        """Change the thread's state in several supersteps, under the lease, as LangGraph's
        `abulk_update_state` does.
        """
        return await self._change(
            lambda config: self._graph.pregel.abulk_update_state(config, supersteps)
        )

    async def _change(
        self, update: Callable[[RunnableConfig], Awaitable[RunnableConfig]]
    ) -> RunnableConfig:
        """Change the state; the change belongs to the unfinished run, or to none."""
        left = None if self.checkpoint.status is ThreadStatus.COMPLETE else self.checkpoint.run_id
        updated = await update(self._addressed(self._given_config, left))
        self.checkpoint = await _status(self._services, self.lease)
        return updated

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
        """Record the attempt as cancelled while a node of it goes on, and give the lease up: what
        the node still writes is refused.
        """
        await self.settle(asyncio.CancelledError())
        await self.lease.release()

    async def leave(self) -> None:
        """End a stream that the body left open, while the lease still holds, and record it as
        closed.
        """
        try:
            if self._stream is not None:
                # another task waits for its next chunk, and is refused from now on
                with suppress(RuntimeError):
                    await self._stream.aclose()
        finally:
            await self.settle(GeneratorExit())

    async def settle(self, error: BaseException | None = None) -> None:
        """Record how an attempt that is still open ended; called after each call and when the body
        is left.
        """
        attempt, self._attempt = self._attempt, None
        if attempt is not None:
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
            self.checkpoint, self._stale = await _status(self._services, self.lease), False
        plan = await plan_call(self._services.ledger, self.lease, self.checkpoint, call)
        match plan.action:
            case Action.RETURN:
                assert plan.stored is not None
                return plan.action, plan.stored
            case Action.START:
                return plan.action, await self._start(call)
            case Action.BEGIN:
                assert plan.unfinished is not None
                if plan.rolls_back:
                    await roll_back(self._services, self.lease)
                    self.checkpoint = await _status(self._services, self.lease)
                return plan.action, await self._begin_queued(plan.unfinished)
            case Action.RESUME | Action.FINISH_FIRST:
                return plan.action, await self._resume(plan, call)

    async def _start(self, call: Call) -> Attempt:
        self._attempts += 1
        self._attempt = attempt = await Attempt.start(
            self._services,
            self.lease,
            self.checkpoint,
            graph=self._graph,
            run_id=call.run_id or self._next_id(),
            input=call.input,
            context=call.context,
            config=call.config,
            seq=self._attempts,
        )
        return self._prepared(attempt)

    async def _begin_queued(self, queued: Accepted) -> Attempt:
        self._attempts += 1
        self._attempt = attempt = await Attempt.begin(
            self._services,
            self.lease,
            self.checkpoint,
            queued,
            graph=self._graph,
            seq=self._attempts,
            claim=self.claim,
        )
        return self._prepared(attempt, queued.retries)

    async def _resume(self, plan: Plan, call: Call) -> Attempt:
        """Go on with the run that was left; of work that plain LangGraph left, or a change of the
        state, with a new one.
        """
        self._attempts += 1
        self._attempt = attempt = await Attempt.resume(
            self._services,
            self.lease,
            self.checkpoint,
            plan.unfinished,
            graph=self._graph,
            context=call.context,
            config=call.config,
            seq=self._attempts,
            claim=self.claim,
        )
        left = plan.unfinished
        command = call.command if plan.answers else None
        self._prepared(attempt, None if left is None else left.retries)
        try:
            await attempt.deliver(
                command,
                plan.answers,
                head=self.checkpoint.checkpoint_id,
                waits=self.checkpoint.waits,
                due=plan.due,
            )
        except Exception as error:
            # nothing was delivered: the attempt is over before its graph began
            await self.settle(error)
            raise
        return attempt

    def _prepared(self, attempt: Attempt, retries: Retries | None = None) -> Attempt:
        self._began = True
        attempt.decide_ending = self.decide_ending
        if attempt.decide_ending is None and retries is not None:
            policy = self._services.retry_policies.get(self._graph.name or "")
            attempt.decide_ending = retries.or_by(policy).after
        if self._draining is not None:
            attempt.control.request_drain(self._draining)
        return attempt

    def _next_id(self) -> str:
        """For a run that is started: the id that was known at entry, and another one each time
        after that.
        """
        fresh, self._fresh_id = self._fresh_id, None
        return fresh or new_run_id()

    async def _invoke(self, attempt: Attempt, call: Call) -> Any:
        return await attempt.graph.pregel.ainvoke(
            attempt.input, self._config_for(attempt, call), **self._options(attempt, call)
        )

    def _config_for(self, attempt: Attempt, call: Call) -> RunnableConfig:
        addressed = self._addressed(merged(attempt.config, call.config), attempt.run_id)
        return self._within(addressed, attempt)

    def _within(self, config: RunnableConfig, attempt: Attempt | None) -> RunnableConfig:
        """The config, from which nodes learn which run executes them."""
        current = CurrentRun(
            self.thread_id,
            run_id=self.run_id if attempt is None else attempt.run_id,
            attempt=0 if attempt is None else attempt.number,
            graph=self._graph.name,
            worker=self._services.ledger.worker,
            fencing_token=self.lease.token,
        )
        effects = Effects(
            self._services.ledger.effects,
            self.lease.fence,
            current.run_id,
            self._graph.ledger_serde,
            self._loop,
        )
        inside: dict[str, Any] = {RUN_KEY: current, EFFECTS_KEY: effects}
        if attempt is not None:
            inside[CLOCK_KEY] = attempt.clock
        return {**config, "configurable": {**config.get("configurable", {}), **inside}}

    def _options(self, attempt: Attempt, call: Call) -> dict[str, Any]:
        context = call.context if call.context is not None else attempt.context
        return {
            "durability": "sync",
            "control": attempt.control,
            **({} if context is None else {"context": context}),
            **call.options,
        }

    @asynccontextmanager
    async def _closing(self, attempt: Attempt) -> AsyncIterator[Cancelling]:
        unwatch = self.lease.on_lost(lambda: attempt.control.request_drain("lease lost"))
        cancelling = Cancelling(
            attempt.control,
            run_id=attempt.run_id,
            thread_id=self.thread_id,
            abandon=self.abandon,
        )
        self._services.cancellations.add(attempt.run_id, cancelling.request)
        leaving = enter(self._services.observers, self.thread_id)
        try:
            yield cancelling
        except BaseException as error:  # every way out is an outcome
            self._services.cancellations.remove(attempt.run_id)
            if cancelling.requested:
                await cancelling.ended()
            if cancelling.leave(error):
                await self.settle(asyncio.CancelledError())
                raise cancelling.error from error
            await self.settle(error)
            raise
        else:
            self._services.cancellations.remove(attempt.run_id)
            abandoned = cancelling.requested and await cancelling.ended()
            cancelling.leave(None)
            if abandoned:
                raise cancelling.error
            await self.settle()
            if attempt.lacking:
                raise ended_early(self.thread_id, attempt.graph.name, attempt.lacking)
        finally:
            unwatch()
            for leave in leaving:
                leave()

    async def _read(self, stored: StoredResult) -> tuple[Any, tuple[Any, ...]]:
        return await read_result(self._graph, self.checkpoint, self.run_id, stored)
