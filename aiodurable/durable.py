"""`Durable`, the entry point: opens the services and runs threads."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Collection, Mapping, Sequence
from contextlib import AbstractAsyncContextManager, AsyncExitStack
from dataclasses import replace
from typing import Any, Final, Self, overload

from langchain_core.runnables import RunnableConfig
from langgraph.checkpoint.serde.base import SerializerProtocol
from langgraph.graph import StateGraph
from langgraph.pregel import Pregel

from aiodurable import which_durable
from aiodurable.checkpoints import DurableSaver
from aiodurable.dsn import PasswordFunction, direct_dsn, parse_dsn
from aiodurable.errors import ClosedError, ConfigurationError
from aiodurable.events import Observer
from aiodurable.insights import Insights
from aiodurable.locks import PostgresLockManager
from aiodurable.observers import ObserverThread, of_a_durable
from aiodurable.postgres.startup import wait_until_ready
from aiodurable.queue import Queues, RetryPolicy, Runs, Schedules
from aiodurable.runs.acquire import acquire_lease
from aiodurable.runs.busy import OnBusy
from aiodurable.runs.call_types import ContextT, InputT, OutputT
from aiodurable.runs.durable_run import DurableRun
from aiodurable.runs.graphs import Graph
from aiodurable.runs.health import Health, health
from aiodurable.runs.lease import ThreadLease
from aiodurable.runs.open_services import open_services
from aiodurable.runs.renamed_nodes import Renamed
from aiodurable.runs.run import run
from aiodurable.runs.services import Services
from aiodurable.runs.threads import Threads
from aiodurable.runs.wrapped_graph import DurableGraph
from aiodurable.settings import Settings
from aiodurable.worker import Worker

__all__ = ["Durable"]

_OBSERVERS_S: Final = 1.0
"""How long closing waits for observers."""


class Durable:
    """Durable LangGraph runs on one Postgres: `async with Durable(dsn, graphs={…}) as durable`.

    Args:
        dsn: where Postgres is; None: `AIODURABLE_DSN`, `DATABASE_URL`, or libpq's `PG*` variables,
            in this order.
        password: a function, async or not, that returns the password of a new connection, such as
            the access token of a managed Postgres. Called for each attempt to connect, also to
            `settings.lock_dsn`. None: the password of the DSN.
        graphs: the graphs by the names that the ledger records: builders, compiled graphs or
            entrypoints.
        settings: the settings; None: `Settings.from_env()`.
        observers: called with every event, in threads of their own unless they are inline; see
            `aiodurable.events`.
        serde: the serializer of states and of the inputs in the ledger, such as LangGraph's
            `EncryptedSerializer`; None: that of LangGraph's savers.
        renamed: renamed nodes, old names to new ones, or by graph: `{"report": {"pay": "charge"}}`.
            Threads that would run the old node next run the new one; see docs/howto/deploys.md.
        retry_policies: by graph, when its runs are tried again that were accepted without a policy
            of their own; see docs/howto/workers.md.
        repair_tool_calls: names of graphs that are chats: before a worker begins a run of one, each
            tool call that an interrupted or cancelled run left open gets a `ToolMessage`, as
            `DurableRun.repair_tool_calls` gives it.

    Opening creates or migrates the tables (unless `settings.auto_migrate` is False) and opens the
    pools. Inside its `async with`, this is the current `Durable` of that task and the tasks that it
    starts; the free functions use the current one. For other tasks of the event loop, such as the
    requests of a web server, call `install`. Closing takes at most `settings.close_timeout_s`
    seconds per service.

    Raises (on opening):
        ConfigurationError: there is no DSN, it is invalid, a graph cannot be run, or the tables
            have another namespace.
        PostgresUnavailableError: Postgres cannot be reached or refuses the connection; with
            `settings.startup_timeout_s`, for all that time.
        SchemaMismatchError: the tables are newer than this library, or missing with
            `auto_migrate=False`.
        SessionLocksUnsupportedError: the connection for locks cannot hold session locks.
    """

    def __init__(
        self,
        dsn: str | None = None,
        *,
        password: PasswordFunction | None = None,
        graphs: Mapping[str, Graph] | None = None,
        settings: Settings | None = None,
        observers: Sequence[Observer] = (),
        serde: SerializerProtocol | None = None,
        renamed: Renamed | None = None,
        retry_policies: Mapping[str, RetryPolicy] | None = None,
        repair_tool_calls: Collection[str] = (),
    ) -> None:
        self.settings = settings or Settings.from_env()
        self.dsn = parse_dsn(
            dsn,
            password=password,
            schema=self.settings.schema,
            compression=self.settings.compression,
        )
        self._given = _by_name(graphs)
        self._observers = of_a_durable(observers)
        self._serde = serde
        self._renamed: dict[str, Any] = dict(renamed or {})
        self._retry_policies = _policies(retry_policies or {}, self._given)
        self._chats = _chats(repair_tool_calls, self._given)
        self.loop: asyncio.AbstractEventLoop | None = None
        self._stack: AsyncExitStack | None = None
        self._opening = asyncio.Lock()
        self._services: Services | None = None
        self._threads = Threads(self._opened_here)
        self._queues = Queues(self._opened_here)
        self._runs = Runs(self._opened_here, namespace=self.settings.namespace)
        self._schedules = Schedules(self._opened_here, namespace=self.settings.namespace)
        self._insights = Insights(self._opened_here)

    def read_only(self, settings: Settings, renamed: Renamed) -> Durable:
        """A copy, not yet open, with the same database, graphs and serializer, with other settings
        and more renamed nodes.
        """
        kept = replace(
            settings,
            namespace=self.settings.namespace,
            schema=self.settings.schema,
            strict_msgpack=self.settings.strict_msgpack,
            allowed_msgpack_modules=self.settings.allowed_msgpack_modules,
        )
        return Durable(
            self.dsn.conninfo,
            password=self.dsn.password,
            graphs=self._given,
            settings=kept,
            serde=self._serde,
            renamed={**self._renamed, **renamed},
            retry_policies=self._retry_policies,
            repair_tool_calls=self._chats,
        )

    async def __aenter__(self) -> Self:
        await self.open()
        which_durable.enter(self)
        return self

    async def __aexit__(self, *exc_info: object) -> None:
        which_durable.leave(self)
        await self.aclose()

    async def open(self) -> None:
        """Open the services; see the class. Idempotent. It does not become the current one: see
        `install`.

        Raises:
            ClosedError: it is open in another event loop, and that one is not closed.
        """
        # Without the lock, the second of two concurrent calls would leak the first one's services.
        async with self._opening:
            self._refuse_other_loop("open")
            if self.is_open:
                return
            await self.aclose()  # what was open in a loop that is closed
            if self.settings.startup_timeout_s:
                await wait_until_ready(
                    self._open_services,
                    wanted="a Durable",
                    timeout_s=self.settings.startup_timeout_s,
                )
            else:
                await self._open_services()

    async def _open_services(self) -> None:
        async with AsyncExitStack() as stack:
            self._services = await open_services(
                stack,
                self.dsn,
                self.settings,
                graphs=self._given,
                observers=self._observers,
                serde=self._serde,
                renamed=self._renamed,
                retry_policies=self._retry_policies,
                repair_tool_calls=self._chats,
            )
            self.loop = asyncio.get_running_loop()
            self._stack = stack.pop_all()

    def drain(self) -> None:
        """Say that the process stops: graphs at work stop at their next superstep, with LangGraph's
        `GraphDrained`, and a run that is cancelled from now on, or whose stream is left, ends as
        drained. A worker goes on with it, or the next call.

        Call it before the requests or tasks of the process are cancelled, or right after. For good;
        idempotent. A worker of this `Durable` goes on claiming until it drains, too.

        Raises:
            ClosedError: it is not open.
        """
        self._opened().cancellations.drain()

    async def aclose(self) -> None:
        """Close the services. Idempotent; bounded in time. Closing drains the runs that are at
        work, as `drain` does, cancels them, and releases the leases that are still held.

        Raises:
            ClosedError: it is open in another event loop, and that one is not closed; it stays open
                there.
        """
        self._refuse_other_loop("close")
        stack, self._stack = self._stack, None
        self._services = None
        which_durable.uninstall(self)
        if stack is None:
            return
        if self.loop is not None and self.loop.is_closed():
            # Nothing of it can be awaited any more. Its sockets close when they are collected.
            stack.pop_all()
        else:
            await stack.aclose()
            await self._observed()

    async def _observed(self) -> None:
        """Wait until the observers have seen every event, or for a second."""
        threads = [one for one in self._observers if isinstance(one, ObserverThread)]
        until = time.monotonic() + _OBSERVERS_S
        while not all(one.idle for one in threads) and time.monotonic() < until:  # noqa: ASYNC110 - of threads
            await asyncio.sleep(0.01)

    def observe(self, observer: Observer) -> None:
        """Add an observer, before this is opened.

        Raises:
            ConfigurationError: it is open.
        """
        if self._services is not None:
            raise ConfigurationError(
                "cannot add an observer: this Durable is open; add it before, or pass observers="
            )
        self._observers += of_a_durable((observer,))

    def _refuse_other_loop(self, verb: str) -> None:
        if self._services is None or self.loop is None or self.loop.is_closed():
            return
        if self.loop is not asyncio.get_running_loop():
            raise ClosedError(
                f"cannot {verb} this Durable: it is open in another event loop; close it there, and"
                " open one in each loop"
            )

    def install(self) -> Self:
        """Make this the default of the event loop until it closes, for every task outside of
        `async with Durable(…)`.

        For web servers and test fixtures, whose requests and tests run in other tasks than the one
        that opens the `Durable`.

        Raises:
            ClosedError: this `Durable` is not open.
            ConfigurationError: another one is the default of this event loop.
        """
        self._opened()
        if self.loop is not asyncio.get_running_loop():
            raise ClosedError(
                "cannot install this Durable: it is open in another event loop; open one in each"
                " loop, and install it there"
            )
        which_durable.install(self)
        return self

    @property
    def is_open(self) -> bool:
        """Whether it is open in the running event loop."""
        return self._services is not None and self.loop is asyncio.get_running_loop()

    @property
    def checkpointer(self) -> DurableSaver:
        """The saver of every graph of this `Durable`; may be passed to `StateGraph.compile`."""
        return self._opened().checkpoints.get_checkpointer()

    @property
    def threads(self) -> Threads:
        """The threads of the database: read them, resume, retry, cancel, fork, delete and prune
        them.
        """
        return self._threads

    @property
    def runs(self) -> Runs:
        """The runs of the database: accept them for workers, read, await and cancel them."""
        return self._runs

    @property
    def schedules(self) -> Schedules:
        """The schedules of the database: create, read, pause, trigger, backfill and delete them."""
        return self._schedules

    @property
    def queues(self) -> Queues:
        """The queues of the database: read, pause, resume and limit them."""
        return self._queues

    @property
    def insights(self) -> Insights:
        """What the database is doing, in numbers, and what people did to it."""
        return self._insights

    @property
    def graphs(self) -> Mapping[str, Pregel[Any, Any, Any, Any]]:
        """The registered graphs by name, compiled and bound to the saver."""
        registered = self._opened().graphs.registered
        return {bound.name: bound.pregel for bound in registered if bound.name is not None}

    @property
    def locks(self) -> PostgresLockManager:
        """The lock manager, for locks of your own."""
        return self._opened().locks

    def health(self) -> Health:
        """The health of this `Durable`, as the process knows it, without a query. Raises
        `ClosedError`.
        """
        return health(self._opened())

    def _opened(self) -> Services:
        if self._services is None:
            raise ClosedError(
                "cannot use this Durable: it is not open; use it inside `async with Durable(…) as"
                " durable`"
            )
        return self._services

    def _opened_here(self) -> Services:
        """Before anything is shared with a call of the loop in which it is open."""
        self._refuse_other_loop("use")
        return self._opened()

    @overload
    def run(
        self,
        thread_id: str,
        graph: StateGraph[Any, ContextT, InputT, OutputT] | Pregel[Any, ContextT, InputT, OutputT],
        *,
        run_id: str | None = None,
        on_busy: OnBusy = "reject",
        timeout: float | None = None,
        config: RunnableConfig | None = None,
        context: ContextT | None = None,
    ) -> AbstractAsyncContextManager[DurableRun[InputT, OutputT, ContextT]]: ...
    @overload
    def run(
        self,
        thread_id: str,
        graph: str,
        *,
        run_id: str | None = None,
        on_busy: OnBusy = "reject",
        timeout: float | None = None,
        config: RunnableConfig | None = None,
        context: Any = None,
    ) -> AbstractAsyncContextManager[DurableRun[Any, Any, Any]]: ...
    def run(
        self,
        thread_id: str,
        graph: Graph,
        *,
        run_id: str | None = None,
        on_busy: OnBusy = "reject",
        timeout: float | None = None,
        config: RunnableConfig | None = None,
        context: Any = None,
    ) -> AbstractAsyncContextManager[DurableRun[Any, Any, Any]]:
        """Hold a thread and run it: `async with durable.run(thread_id, "report") as run: await
        run.ainvoke(…)`.

        Args:
            thread_id: the thread, 1 to 512 bytes in UTF-8.
            graph: a registered name, a `StateGraph`, a compiled graph, or an `@entrypoint`.
            run_id: the id of the run. A run_id never runs twice: the second call resumes it or
                returns its stored result.
            on_busy: what to do if the thread is busy: "reject" raises
                `WorkflowAlreadyRunningError`; "wait" waits for the lease; "enqueue" waits until the
                runs that were accepted before have begun, then for the lease; "interrupt" cancels
                the run at work, gives up what waits or is left unfinished, and starts its input
                after what that wrote; "rollback" removes what it wrote, too.
            timeout: seconds to wait at most, not with "reject"; None: without a limit.
            config: a LangGraph config (callbacks, tags, recursion_limit, your own configurable
                values).
            context: the graph's run context. The ledger stores it, so that a resumption in another
                process has it.

        Raises (on entering):
            WorkflowAlreadyRunningError: another run holds the thread; the error names its holder.
            LockTimeoutError: the thread did not become free in time; or another transaction kept
                its fence, or a run that is to make way, locked for 10 seconds.
            WorkflowExecutionError: what an earlier run wrote cannot be removed ("rollback").
            InvalidArgumentError: thread_id, run_id, config or an option is invalid.
            ConfigurationError, GraphNotRegisteredError: the graph cannot be used.
            ClosedError: this `Durable` is not open.
        Raises (out of the body):
            LeaseLostError: the lease was lost; the body was cancelled.
        """
        services = self._opened()
        return run(
            services,
            thread_id,
            services.graphs.bind(graph),
            run_id=run_id,
            on_busy=on_busy,
            timeout=timeout,
            config=config,
            context=context,
        )

    def work(
        self,
        queues: Sequence[str] = ("default",),
        *,
        concurrency: int = 10,
        drain_timeout_s: float = 30.0,
        retry_policy: RetryPolicy | Mapping[str, RetryPolicy] | None = None,
    ) -> Worker:
        """A worker that executes accepted runs: `async with durable.work() as worker: await
        worker.run_forever()`.

        It claims the runs of `durable.runs.create` whose graphs this `Durable` has, retries failed
        runs, and resumes runs whose process died, also those of `run`. Any number of workers on any
        number of hosts share the work.

        Args:
            queues: the queues that it serves.
            concurrency: runs at a time, at most.
            drain_timeout_s: seconds that runs get to reach their next superstep when it stops.
            retry_policy: the policy for runs that were accepted without one; or policies by graph.

        Raises:
            InvalidArgumentError: an argument is invalid.
        Raises (on entering):
            ConfigurationError: this `Durable` has no graphs by name.
            ClosedError: it is not open.
        """
        return Worker(
            self._opened,
            direct_dsn(self.dsn, self.settings.lock_dsn),
            queues=queues,
            concurrency=concurrency,
            drain_timeout_s=drain_timeout_s,
            retry_policy=retry_policy,
            connect_timeout_s=self.settings.connect_timeout_s,
            namespace=self.settings.namespace,
        )

    @overload
    def wrap(
        self,
        graph: StateGraph[Any, ContextT, InputT, OutputT] | Pregel[Any, ContextT, InputT, OutputT],
        *,
        on_busy: OnBusy = "reject",
        timeout: float | None = None,
    ) -> DurableGraph[InputT, OutputT, ContextT]: ...
    @overload
    def wrap(
        self, graph: str, *, on_busy: OnBusy = "reject", timeout: float | None = None
    ) -> DurableGraph[Any, Any, Any]: ...
    def wrap(
        self, graph: Graph, *, on_busy: OnBusy = "reject", timeout: float | None = None
    ) -> Any:
        """A graph that runs durably. Its `ainvoke`, `astream` and `aget_state` take LangGraph's own
        config.

        For an app that already calls a graph: its calls do not change. May be created before this
        `Durable` is open. See docs/howto/adopt-an-app.md.

        Args:
            graph: as for `run`.
            on_busy, timeout: as for `run`, for each call that changes a thread.
        """
        return DurableGraph[Any, Any, Any](self._opened, graph, on_busy=on_busy, timeout=timeout)

    def hold(
        self, thread_id: str, *, on_busy: OnBusy = "reject", timeout: float | None = None
    ) -> AbstractAsyncContextManager[ThreadLease]:
        """Hold the lease of a thread without running it, so that no run of it can start. Raises
        what `run` raises.
        """
        return acquire_lease(
            self._opened(), thread_id, on_busy=on_busy, timeout=timeout, on_disk=True
        )


def _by_name(graphs: Mapping[str, Graph] | None) -> dict[str, Graph]:
    if graphs is None:
        return {}
    if not isinstance(graphs, Mapping):  # pyright: ignore[reportUnnecessaryIsInstance]
        raise ConfigurationError(
            f"cannot register graphs given as {type(graphs).__name__}: pass a dict of them by name,"
            " graphs={'report': report}"
        )
    return dict(graphs)


def _policies(
    given: Mapping[str, RetryPolicy], graphs: Mapping[str, Graph]
) -> Mapping[str, RetryPolicy]:
    for name, policy in given.items():
        if name not in graphs:
            raise ConfigurationError(
                f"cannot retry runs of graph {name!r}: graphs={{…}} has none of that name"
            )
        if not isinstance(policy, RetryPolicy):  # pyright: ignore[reportUnnecessaryIsInstance]
            raise ConfigurationError(
                f"cannot retry runs of graph {name!r} by {type(policy).__name__}: pass a"
                " RetryPolicy of aiodurable"
            )
    return dict(given)


def _chats(given: Collection[str], graphs: Mapping[str, Graph]) -> frozenset[str]:
    names = {given} if isinstance(given, str) else set(given)
    if unknown := sorted(names.difference(graphs)):
        raise ConfigurationError(
            f"cannot repair tool calls of graph {unknown[0]!r}: graphs={{…}} has none of that name"
        )
    return frozenset(names)
