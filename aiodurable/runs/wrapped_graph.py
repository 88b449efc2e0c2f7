"""`durable.wrap(graph)`: a graph whose calls take LangGraph's own config and run durably."""

from __future__ import annotations

from collections.abc import AsyncGenerator, AsyncIterator, Callable, Mapping, Sequence
from contextlib import AbstractAsyncContextManager, aclosing
from typing import Any, Generic, Literal, Unpack, cast, overload

from langchain_core.runnables import RunnableConfig
from langchain_core.runnables.schema import StreamEvent
from langgraph.pregel import Pregel
from langgraph.types import Command, GraphOutput, StateSnapshot, StateUpdate, StreamMode

from aiodurable.errors import InvalidArgumentError
from aiodurable.runs.busy import OnBusy
from aiodurable.runs.call_types import (
    CallOptions,
    ContextT,
    EventOptions,
    InputT,
    OutputT,
    StreamOptions,
)
from aiodurable.runs.decision import OnUnfinished
from aiodurable.runs.durable_run import DurableRun
from aiodurable.runs.graphs import Graph
from aiodurable.runs.run import run
from aiodurable.runs.services import Services
from aiodurable.thread_id import validate_thread_id

__all__ = ["DurableGraph"]


class DurableGraph(Generic[InputT, OutputT, ContextT]):
    """A graph for code that was written for LangGraph's: made by `Durable.wrap`.

    The thread is `config["configurable"]["thread_id"]`. Every call that changes it holds its lease,
    and does with it what `DurableRun.ainvoke` does; a call that only reads needs none.

    There is no `invoke`: code that is not async calls these methods through a portal, see
    docs/howto/sync-callers.md.
    """

    def __init__(
        self,
        opened: Callable[[], Services],
        graph: Graph,
        *,
        on_busy: OnBusy,
        timeout: float | None,
    ) -> None:
        self._opened = opened
        self._graph = graph
        self._on_busy: OnBusy = on_busy
        self._timeout = timeout

    @property
    def graph(self) -> Pregel[Any, Any, Any, Any]:
        """LangGraph's own, bound to the saver of the `Durable`: for drawings, schemas and the
        like.
        """
        return self._opened().graphs.bind(self._graph).pregel

    @overload
    async def ainvoke(
        self,
        input: InputT | Command[Any] | None,
        config: RunnableConfig,
        *,
        context: ContextT | None = None,
        on_unfinished: OnUnfinished = "resume",
        version: Literal["v2"],
        **options: Unpack[CallOptions],
    ) -> GraphOutput[OutputT]: ...
    @overload
    async def ainvoke(
        self,
        input: InputT | Command[Any] | None,
        config: RunnableConfig,
        *,
        context: ContextT | None = None,
        on_unfinished: OnUnfinished = "resume",
        stream_mode: StreamMode | Sequence[StreamMode],
        **options: Unpack[CallOptions],
    ) -> list[Any]: ...
    @overload
    async def ainvoke(
        self,
        input: InputT | Command[Any] | None,
        config: RunnableConfig,
        *,
        context: ContextT | None = None,
        on_unfinished: OnUnfinished = "resume",
        **options: Unpack[CallOptions],
    ) -> OutputT: ...
    async def ainvoke(self, input: Any, config: RunnableConfig, **options: Any) -> Any:
        """LangGraph's `ainvoke`, durably; see `DurableRun.ainvoke`, also for what it raises.

        Raises:
            WorkflowAlreadyRunningError, LockTimeoutError: see `Durable.run`.
            InvalidArgumentError: the config names no thread, or a checkpoint to go back to.
        """
        async with self._run(config) as run:
            return await run.ainvoke(input, **options)

    async def astream(
        self,
        input: InputT | Command[Any] | None,
        config: RunnableConfig,
        *,
        context: ContextT | None = None,
        on_unfinished: OnUnfinished = "resume",
        **options: Unpack[StreamOptions],
    ) -> AsyncGenerator[Any, None]:
        """LangGraph's `astream`, durably; raises as `ainvoke`. The lease is held until the stream
        is closed.
        """
        async with (
            self._run(config) as run,
            aclosing(
                run.astream(input, context=context, on_unfinished=on_unfinished, **options)
            ) as chunks,
        ):
            async for chunk in chunks:
                yield chunk

    async def astream_events(
        self,
        input: InputT | Command[Any] | None,
        config: RunnableConfig,
        *,
        version: Literal["v1", "v2"] = "v2",
        context: ContextT | None = None,
        on_unfinished: OnUnfinished = "resume",
        **options: Unpack[EventOptions],
    ) -> AsyncGenerator[StreamEvent, None]:
        """LangGraph's `astream_events`, durably; raises as `ainvoke`."""
        async with (
            self._run(config) as run,
            aclosing(
                run.astream_events(
                    input, version=version, context=context, on_unfinished=on_unfinished, **options
                )
            ) as events,
        ):
            async for event in events:
                yield event

    async def aget_state(self, config: RunnableConfig, *, subgraphs: bool = False) -> StateSnapshot:
        """LangGraph's `aget_state`: no lease is needed to read.

        Raises:
            InvalidArgumentError: the config names no thread.
        """
        _split(config)
        return await self.graph.aget_state(config, subgraphs=subgraphs)

    def aget_state_history(
        self,
        config: RunnableConfig,
        *,
        filter: dict[str, Any] | None = None,
        before: RunnableConfig | None = None,
        limit: int | None = None,
    ) -> AsyncIterator[StateSnapshot]:
        """LangGraph's `aget_state_history`: no lease is needed to read.

        Raises:
            InvalidArgumentError: the config names no thread; at the call, not at the first step.
        """
        _split(config)
        return self.graph.aget_state_history(config, filter=filter, before=before, limit=limit)

    async def aupdate_state(
        self,
        config: RunnableConfig,
        values: Any,
        as_node: str | None = None,
        task_id: str | None = None,
    ) -> RunnableConfig:
        """LangGraph's `aupdate_state`, under the thread's lease; raises as `ainvoke`."""
        async with self._run(config) as run:
            return await run.aupdate_state(values, as_node, task_id)

    async def abulk_update_state(
        self, config: RunnableConfig, supersteps: Sequence[Sequence[StateUpdate]]
    ) -> RunnableConfig:
        """LangGraph's `abulk_update_state`, under the thread's lease; raises as `ainvoke`."""
        async with self._run(config) as run:
            return await run.abulk_update_state(supersteps)

    def _run(
        self, config: RunnableConfig
    ) -> AbstractAsyncContextManager[DurableRun[Any, Any, Any]]:
        services = self._opened()
        thread_id, rest = _split(config)
        graph = services.graphs.bind(self._graph)
        return run(
            services, thread_id, graph, on_busy=self._on_busy, timeout=self._timeout, config=rest
        )


def _split(config: RunnableConfig) -> tuple[str, RunnableConfig]:
    """The thread that a config names, and the rest of the config.

    Raises:
        InvalidArgumentError: it names none, or one that cannot be stored.
    """
    configurable: Any = config.get("configurable") if isinstance(config, Mapping) else None  # pyright: ignore[reportUnnecessaryIsInstance]
    named = configurable.get("thread_id") if isinstance(configurable, Mapping) else None
    if named is None:
        raise InvalidArgumentError(
            'cannot tell the thread: the config names none; pass {"configurable":'
            ' {"thread_id": …}}',
            argument="config",
        )
    rest = {
        key: value
        for key, value in cast("Mapping[str, Any]", configurable).items()
        if key != "thread_id"
    }
    thread_id = validate_thread_id(str(named))  # LangGraph takes a UUID or a number too
    return thread_id, {**config, "configurable": rest}
