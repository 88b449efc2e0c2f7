"""An executor, a decorator and a mixin, which hold the same lease as `Durable.run`."""

from __future__ import annotations

import inspect
from collections.abc import AsyncIterator, Callable, Coroutine
from contextlib import asynccontextmanager
from functools import wraps
from typing import Any, Generic, ParamSpec, TypeVar, Unpack, overload

from langchain_core.runnables import RunnableConfig
from langgraph.graph import StateGraph
from langgraph.pregel import Pregel
from langgraph.types import Command

from aiodurable.durable import Durable
from aiodurable.errors import ConfigurationError
from aiodurable.models import WorkflowCheckpoint
from aiodurable.runs.busy import OnBusy
from aiodurable.runs.call_types import (
    CallOptions,
    ContextT,
    ExecuteOptions,
    InputT,
    OutputT,
    RunOptions,
)
from aiodurable.runs.decision import OnUnfinished
from aiodurable.runs.durable_run import DurableRun
from aiodurable.runs.graphs import Graph
from aiodurable.runs.lease import ThreadLease
from aiodurable.which_durable import opened

__all__ = ["LockableWorkflowMixin", "WorkflowExecutor", "with_workflow_lock"]

P = ParamSpec("P")
T = TypeVar("T")


class WorkflowExecutor(Generic[InputT, OutputT, ContextT]):
    """Runs one graph with single calls instead of a context manager.

    Args:
        graph: a registered name, a `StateGraph`, a compiled graph, or an `@entrypoint`.
        durable: the `Durable` to use; None: a new one on `dsn` for each call, or the current one.
        dsn: where Postgres is. Each call then opens connections; pass `durable` for many calls.
        on_busy: see `Durable.run`.
        timeout: seconds to wait at most, with "wait".
    """

    @overload
    def __init__(
        self,
        graph: StateGraph[Any, ContextT, InputT, OutputT] | Pregel[Any, ContextT, InputT, OutputT],
        *,
        durable: Durable | None = None,
        dsn: str | None = None,
        on_busy: OnBusy = "reject",
        timeout: float | None = None,
    ) -> None: ...
    @overload
    def __init__(
        self: WorkflowExecutor[Any, Any, Any],
        graph: str,
        *,
        durable: Durable | None = None,
        dsn: str | None = None,
        on_busy: OnBusy = "reject",
        timeout: float | None = None,
    ) -> None: ...
    def __init__(
        self,
        graph: Graph,
        *,
        durable: Durable | None = None,
        dsn: str | None = None,
        on_busy: OnBusy = "reject",
        timeout: float | None = None,
    ) -> None:
        self._graph = graph
        self._durable = durable
        self._dsn = dsn
        self._on_busy: OnBusy = on_busy
        self._timeout = timeout

    async def execute(
        self,
        thread_id: str,
        input: InputT | Command[Any] | None = None,
        *,
        run_id: str | None = None,
        config: RunnableConfig | None = None,
        context: ContextT | None = None,
        on_unfinished: OnUnfinished = "resume",
        **options: Unpack[CallOptions],
    ) -> OutputT:
        """Start the thread with `input`, or resume its unfinished run; see `DurableRun.ainvoke`."""
        async with self._run(thread_id, run_id=run_id, config=config, context=context) as run:
            return await run.ainvoke(input, on_unfinished=on_unfinished, **options)

    async def resume(self, thread_id: str, **options: Unpack[ExecuteOptions]) -> OutputT:
        """Resume an unfinished thread, or return the stored result of a complete one."""
        return await self.execute(thread_id, **options)

    async def answer(self, thread_id: str, value: Any, **options: Unpack[CallOptions]) -> OutputT:
        """Answer the open question of an interrupted thread and go on; see `DurableRun.answer`."""
        async with self._run(thread_id) as run:
            return await run.answer(value, **options)

    async def status(self, thread_id: str) -> WorkflowCheckpoint:
        """The thread's status; see `Threads.status`."""
        async with opened(self._durable, self._dsn) as durable:
            return await durable.threads.status(thread_id)

    @asynccontextmanager
    async def _run(
        self, thread_id: str, **options: Any
    ) -> AsyncIterator[DurableRun[InputT, OutputT, ContextT]]:
        async with (
            opened(self._durable, self._dsn) as durable,
            durable.run(
                thread_id, self._graph, on_busy=self._on_busy, timeout=self._timeout, **options
            ) as run,
        ):
            yield run


def with_workflow_lock(
    argument: str = "thread_id",
    *,
    durable: Durable | None = None,
    dsn: str | None = None,
    on_busy: OnBusy = "reject",
    timeout: float | None = None,
) -> Callable[[Callable[P, Coroutine[Any, Any, T]]], Callable[P, Coroutine[Any, Any, T]]]:
    """Hold the thread's lease while an async function or method runs:
    `@with_workflow_lock("order_id")`.

    The `Durable`'s saver fences the checkpoints of the thread that it writes inside the function.
    The lease is not re-entrant: a `durable_run` of the same thread inside raises; call the graph
    itself instead. A task that outlives the function does not write under the lease: await such
    tasks, or run graphs through `durable_run`, whose writes carry their fence.

    Args:
        argument: the parameter of the function that holds the thread_id.
        durable, dsn: as for `durable_run`; None: the `Durable` that is current at the call.
        on_busy, timeout: as for `Durable.run`.

    Raises (at decoration):
        ConfigurationError: the function is not async or has no such parameter.
    """

    if callable(argument):
        raise ConfigurationError(
            "cannot decorate with with_workflow_lock: it takes arguments; write"
            " @with_workflow_lock(), with parentheses"
        )

    def decorate(
        function: Callable[P, Coroutine[Any, Any, T]],
    ) -> Callable[P, Coroutine[Any, Any, T]]:
        signature = inspect.signature(function)
        name = getattr(function, "__qualname__", repr(function))
        if not inspect.iscoroutinefunction(function):
            raise ConfigurationError(
                f"cannot lock a workflow around {name}: it is not an async function; write `async"
                " def`"
            )
        if argument not in signature.parameters:
            raise ConfigurationError(
                f"cannot lock a workflow around {name}: it has no parameter {argument!r}; name its"
                f" parameter with the thread_id ({', '.join(signature.parameters)})"
            )

        @wraps(function)
        async def locked(*args: P.args, **kwargs: P.kwargs) -> T:
            bound = signature.bind(*args, **kwargs)
            bound.apply_defaults()
            async with (
                opened(durable, dsn) as d,
                d.hold(bound.arguments[argument], on_busy=on_busy, timeout=timeout),
            ):
                return await function(*args, **kwargs)

        return locked

    return decorate


class LockableWorkflowMixin:
    """For classes whose instances have one thread each.

    Attributes:
        thread_id: the thread of this object.
        durable: the `Durable` to use; None: the current one.
    """

    thread_id: str
    durable: Durable | None = None

    @asynccontextmanager
    async def workflow_lock(
        self, *, on_busy: OnBusy = "reject", timeout: float | None = None
    ) -> AsyncIterator[ThreadLease]:
        """Hold the thread's lease for the body; raises what `Durable.hold` raises."""
        async with (
            opened(self.durable) as durable,
            durable.hold(self.thread_id, on_busy=on_busy, timeout=timeout) as lease,
        ):
            yield lease

    @asynccontextmanager
    async def workflow_run(
        self, graph: Graph, *, context: Any = None, **options: Unpack[RunOptions]
    ) -> AsyncIterator[DurableRun[Any, Any, Any]]:
        """Run `graph` on this object's thread; see `Durable.run`."""
        async with (
            opened(self.durable) as durable,
            durable.run(self.thread_id, graph, context=context, **options) as run,
        ):
            yield run

    async def workflow_status(self) -> WorkflowCheckpoint:
        """The status of this object's thread."""
        async with opened(self.durable) as durable:
            return await durable.threads.status(self.thread_id)
