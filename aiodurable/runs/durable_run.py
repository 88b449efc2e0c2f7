"""The calls on a durable run: those of its graph, with the same arguments and results."""

from __future__ import annotations

from collections.abc import (
    AsyncGenerator,
    AsyncIterator,
    Awaitable,
    Callable,
    Iterable,
    Sequence,
)
from contextlib import aclosing
from typing import Any, Generic, Literal, TypeVar, Unpack, cast, overload

from langchain_core.runnables import RunnableConfig
from langchain_core.runnables.schema import StreamEvent
from langgraph.constants import START
from langgraph.types import Command, GraphOutput, StateSnapshot, StateUpdate, StreamMode

from aiodurable.models import ThreadStatus
from aiodurable.runs.attempt import Attempt
from aiodurable.runs.attempt_config import options_of
from aiodurable.runs.call import NONE_ANSWER, Call
from aiodurable.runs.call_types import (
    CallOptions,
    ContextT,
    EventOptions,
    InputT,
    OutputT,
    StreamOptions,
)
from aiodurable.runs.decision import OnUnfinished
from aiodurable.runs.held_thread import HeldThread, status_under
from aiodurable.runs.stored_result import (
    StoredResult,
    stored_chunks,
    stored_end_event,
    stored_result,
)
from aiodurable.runs.tool_calls import UNFINISHED_CALL, results_of_open_calls

__all__ = ["DurableRun"]

T = TypeVar("T")

_EVENT_FILTERS = tuple(
    f"{way}_{what}" for way in ("include", "exclude") for what in ("names", "types", "tags")
)


class DurableRun(HeldThread, Generic[InputT, OutputT, ContextT]):
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

    @property
    def config(self) -> RunnableConfig:
        """The LangGraph config that addresses this thread under this lease, for calls on the graph
        itself.
        """
        addressed = self._configs.addressed(self._given_config, self.run_id)
        return self._configs.within(addressed, self.run_id, self._attempt)

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
            LockTimeoutError: another transaction kept the run's row or the thread's fence locked
                for 10 seconds when the run began or ended; the same call goes on with it.
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
                attempt.input, self._config_for(attempt, call), **options_of(attempt, call)
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
                **options_of(attempt, call),
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
                try:
                    with cancelling.outside():
                        yield chunk
                except BaseException:
                    await cancelling.ended()  # it may be closing the stream
                    raise

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
            LockTimeoutError: as `ainvoke`.
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

    async def _prepare(self) -> None:
        # claim: a worker begins it; who calls `run` decides that for himself
        chats = self._services.repair_tool_calls
        if self._claim is not None and self._graph.name in chats and self.checkpoint.checkpoint_id:
            await self.repair_tool_calls()

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
        updated = await update(self._configs.addressed(self._given_config, left))
        self.checkpoint = await status_under(self._services, self.lease)
        return updated
