"""`Durable`: opens the services and runs threads. Also keeps which `Durable` is the current one."""

from __future__ import annotations

import asyncio
import os
import socket
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import AbstractAsyncContextManager, AsyncExitStack, asynccontextmanager
from contextvars import ContextVar
from dataclasses import replace
from typing import Any, Self, overload
from weakref import WeakKeyDictionary

from langchain_core.runnables import RunnableConfig
from langgraph.checkpoint.serde.base import SerializerProtocol
from langgraph.graph import StateGraph
from langgraph.pregel import Pregel

from aiodurable.checkpoints import AsyncCheckpointerPool, DurableSaver
from aiodurable.dsn import PasswordFunction, direct_dsn, parse_dsn
from aiodurable.errors import ClosedError, ConfigurationError
from aiodurable.events import Observer
from aiodurable.locks import PostgresLockManager
from aiodurable.postgres import schema
from aiodurable.postgres.namespace import agree_on_namespace
from aiodurable.postgres.notifier import Notifier
from aiodurable.postgres.startup import wait_until_ready
from aiodurable.queue import Queues, RetryPolicy, Runs
from aiodurable.runs.acquire import OnBusy, acquire_lease
from aiodurable.runs.call_types import ContextT, InputT, OutputT
from aiodurable.runs.cancellation import CHANNEL, Cancellations
from aiodurable.runs.graphs import Graph, Graphs
from aiodurable.runs.health import Health, health
from aiodurable.runs.lease import ThreadLease
from aiodurable.runs.ledger import Ledger
from aiodurable.runs.renamed_nodes import Renamed
from aiodurable.runs.run import DurableRun, run
from aiodurable.runs.services import Services
from aiodurable.runs.threads import Threads
from aiodurable.runs.wrapped_graph import DurableGraph
from aiodurable.settings import Settings
from aiodurable.threads import ThreadReader
from aiodurable.worker import Worker

__all__ = [
    "Durable",
    "current",
    "no_durable",
    "opened",
]

_entered: ContextVar[tuple[Durable, ...]] = ContextVar("aiodurable entered", default=())
"""Those that this task, or the one that started it, is inside of (`async with`); the innermost
last.
"""
_installed: WeakKeyDictionary[asyncio.AbstractEventLoop, Durable] = WeakKeyDictionary()
"""The default of each event loop."""


class Durable:
    """Durable LangGraph runs on one Postgres: `async with Durable(dsn, graphs={…}) as durable`.

    Args:
        dsn: where Postgres is; None: `AIODURABLE_DSN`, `DATABASE_URL`, or libpq's `PG*` variables,
            in this order.
        password: a function, async or not, that returns the password of one new connection, such
            as the access token of a managed Postgres. Called at each try to connect, to
            `settings.lock_dsn` too. None: the password of the DSN.
        graphs: the graphs by the names under which runs are recorded: builders, compiled graphs or
            entrypoints.
        settings: how to work; None: `Settings.from_env()`.
        observers: called with every event; see `aiodurable.events`.
        serde: how states and the inputs in the ledger are serialised, such as LangGraph's
            `EncryptedSerializer`; None: as its stock savers do it.
        renamed: nodes that have another name now, old names to new ones, or by graph: `{"report":
            {"pay": "charge"}}`. Threads that stand before the old name go on with the new node; see
            docs/howto/deploys.md.

    Opening makes or migrates the tables (unless `settings.auto_migrate` is False) and opens the
    pools. Inside its `async with` it is the current one, which the free functions use: for that
    task, and the tasks started there. For all others of the event loop, such as the requests of a
    web server, `install` it. Closing takes at most `settings.close_timeout_s` seconds for each
    service.

    Raises (on opening):
        ConfigurationError: no DSN, one that cannot be read, a graph that cannot be run, or another
            namespace than that of these tables.
        PostgresUnavailableError: Postgres is away or refuses; with `settings.startup_timeout_s`,
            all that time.
        SchemaMismatchError: the tables are newer than this library, or missing with
            `auto_migrate=False`.
        SessionLocksUnsupportedError: the connection for the locks cannot hold them.
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
    ) -> None:
        self.settings = settings or Settings.from_env()
        self.dsn = parse_dsn(dsn, password=password, schema=self.settings.schema)
        self._given = dict(graphs or {})
        self._observers = tuple(observers)
        self._serde = serde
        self._renamed: dict[str, Any] = dict(renamed or {})
        self.loop: asyncio.AbstractEventLoop | None = None
        self._stack: AsyncExitStack | None = None
        self._opening = asyncio.Lock()
        self._loop: asyncio.AbstractEventLoop | None = None
        self._services: Services | None = None
        self._threads = Threads(self._opened)
        self._queues = Queues(self._opened)
        self._runs = Runs(self._opened, namespace=self.settings.namespace)

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
        )

    async def __aenter__(self) -> Self:
        await self.open()
        _entered.set((*_entered.get(), self))
        return self

    async def __aexit__(self, *exc_info: object) -> None:
        # Not ContextVar.reset(): the exit may come in another context than the entry, and not in
        # reverse order.
        _entered.set(tuple(durable for durable in _entered.get() if durable is not self))
        await self.aclose()

    async def open(self) -> None:
        """Open the services; see the class. Idempotent. Makes this nobody's current one: see
        `install`.
        """
        # of two at once the second would leave the first one's services open for ever
        async with self._opening:
            if self._stack is not None:
                return
            if self.settings.startup_timeout_s:
                await wait_until_ready(
                    self._open_services,
                    wanted="a Durable",
                    timeout_s=self.settings.startup_timeout_s,
                )
            else:
                await self._open_services()

    async def _open_services(self) -> None:
        settings = self.settings
        lock_dsn = direct_dsn(self.dsn, settings.lock_dsn)
        await (
            schema.migrate if settings.auto_migrate and settings.lock_connections else schema.check
        )(lock_dsn)
        async with AsyncExitStack() as stack:
            checkpoints = await stack.enter_async_context(
                AsyncCheckpointerPool(
                    self.dsn.conninfo,
                    password=self.dsn.password,
                    min_size=settings.pool_min_size,
                    max_size=settings.pool_max_size,
                    checkpoint_connections=settings.checkpoint_connections,
                    serde=self._serde,
                    settings=settings,
                )
            )
            cancellations = Cancellations(checkpoints.database, every_s=settings.lease_heartbeat_s)
            stack.push_async_callback(cancellations.aclose)
            notifier = Notifier()
            notifier.subscribe(CHANNEL, cancellations.hurry)
            locks = await stack.enter_async_context(
                PostgresLockManager(
                    lock_dsn.conninfo,
                    password=lock_dsn.password,
                    sessions=settings.lock_connections,
                    namespace=settings.namespace,
                    settings=settings,
                    observers=self._observers,
                    allow_proxy=settings.lock_allow_proxy,
                    notifier=notifier,
                )
            )
            # After the locks, which refuse a standby for what it is: this one writes.
            await agree_on_namespace(
                checkpoints.database, settings.namespace, declare=bool(settings.lock_connections)
            )
            serde = checkpoints.get_checkpointer().serde
            database, direct = checkpoints.database, checkpoints.direct
            threads = ThreadReader(
                database, namespace=settings.namespace, serde=serde, direct=direct
            )
            self._services = Services(
                locks=locks,
                checkpoints=checkpoints,
                threads=threads,
                ledger=Ledger(
                    database,
                    direct,
                    threads.classifier,
                    serde=serde,
                    namespace=settings.namespace,
                    worker=f"{socket.gethostname()}:{os.getpid()}",
                    threads=checkpoints.serialisers,
                ),
                cancellations=cancellations,
                graphs=Graphs(
                    self._given,
                    checkpoints.get_checkpointer(),
                    renamed=self._renamed,
                    settings=settings,
                ),
                recovery_grace_s=settings.recovery_grace_s,
                observers=self._observers,
            )
            self.loop = asyncio.get_running_loop()
            self._stack = stack.pop_all()
            self._loop = asyncio.get_running_loop()

    async def aclose(self) -> None:
        """Close the services. Idempotent; bounded in time. Closing releases the leases that are
        still held.

        Raises:
            ClosedError: it is open in another event loop, and that one is not closed; it stays open
                there.
        """
        if (
            self._loop is not None
            and self._loop is not asyncio.get_running_loop()
            and not self._loop.is_closed()
        ):
            raise ClosedError(
                "cannot close this Durable: it was opened in another event loop; close it there"
            )
        self._loop = None
        stack, self._stack = self._stack, None
        self._services = None
        if self.loop is not None and _installed.get(self.loop) is self:
            del _installed[self.loop]
        if stack is not None:
            await stack.aclose()

    def install(self) -> Self:
        """Make this the default of the event loop, for every task that is in no `async with
        Durable(…)`, until it closes.

        For web servers and test fixtures: their requests and tests are not tasks of the one that
        opens the `Durable`.

        Raises:
            ClosedError: this `Durable` is not open.
            ConfigurationError: another one is the default of this event loop.
        """
        self._opened()
        loop = asyncio.get_running_loop()
        if self.loop is not loop:
            raise ClosedError(
                "cannot install this Durable: it is open in another event loop; open one in each"
                " loop, and install it there"
            )
        if _installed.setdefault(loop, self) is not self:
            raise ConfigurationError(
                f"cannot install this Durable: that of {_installed[loop].dsn.safe} is installed in"
                " this event loop already; close it first, or pass durable= where you mean"
                " this one"
            )
        return self

    @property
    def is_open(self) -> bool:
        """Whether it is open in the running event loop."""
        return self._services is not None and self.loop is asyncio.get_running_loop()

    @property
    def checkpointer(self) -> DurableSaver:
        """The saver every graph of this `Durable` writes through; may be given to
        `StateGraph.compile`.
        """
        return self._opened().checkpoints.get_checkpointer()

    @property
    def threads(self) -> Threads:
        """The threads of the database: read them, resume, retry, cancel, fork, delete and prune
        them.
        """
        return self._threads

    @property
    def runs(self) -> Runs:
        """The runs of the database: accept them for workers, look at them, wait for and cancel
        them.
        """
        return self._runs

    @property
    def queues(self) -> Queues:
        """The queues of the database: look at them, pause, resume and limit them."""
        return self._queues

    @property
    def locks(self) -> PostgresLockManager:
        """The lock manager, for locks of your own."""
        return self._opened().locks

    def health(self) -> Health:
        """How this `Durable` is, as the process knows it: at once, without asking Postgres. Raises
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
            run_id: names what is to be done; the same run_id never runs twice: it resumes, or
                returns the stored result.
            on_busy: "reject": at once or `WorkflowAlreadyRunningError`; "wait": until the thread is
                free.
            timeout: seconds to wait at most, with "wait"; None: as long as it takes.
            config: a LangGraph config to run with (callbacks, tags, recursion_limit, configurable
                values of your own).
            context: the graph's run context. It is stored with the run, so that a resumption
                elsewhere sees it.

        Raises (on entering):
            WorkflowAlreadyRunningError: another run advances the thread; says who and since when.
            LockTimeoutError: the thread did not become free in time.
            InvalidArgumentError: thread_id, run_id, config or an option cannot be used.
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

        It claims the runs of `durable.runs.create` whose graphs this `Durable` has, tries again
        what failed, and goes on with runs whose process died, those of `run` too. Any number of
        workers on any number of hosts share the work.

        Args:
            queues: those it serves.
            concurrency: how many runs at a time.
            drain_timeout_s: how long runs may go on to their next superstep when it stops.
            retry_policy: when a run is tried again that was accepted without a policy of its own;
                or by graph.

        Raises:
            InvalidArgumentError: an argument cannot be used.
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
        """A graph whose `ainvoke`, `astream` and `aget_state` take LangGraph's own config, and run
        durably.

        For an app that calls a graph already: its calls stay as they are. May be made before this
        `Durable` is open. See docs/howto/adopt-an-app.md.

        Args:
            graph: as for `run`.
            on_busy, timeout: as for `run`, for each call that changes a thread.
        """
        return DurableGraph[Any, Any, Any](self._opened, graph, on_busy=on_busy, timeout=timeout)

    def hold(
        self, thread_id: str, *, on_busy: OnBusy = "reject", timeout: float | None = None
    ) -> AbstractAsyncContextManager[ThreadLease]:
        """Hold the lease of a thread without running it; no run of it can start meanwhile. Raises
        as `run` does.
        """
        return acquire_lease(self._opened(), thread_id, on_busy=on_busy, timeout=timeout)


def current() -> Durable | None:
    """The `Durable` whose `async with` this task was started in, the innermost; else the one
    installed in the event loop.

    Raises:
        ClosedError: that one is closed, or open in another event loop; another database must not
            take its place.
    """
    loop = asyncio.get_running_loop()
    entered = _entered.get()
    here = [durable for durable in entered if durable.loop is loop]
    found = here[-1] if here else _installed.get(loop)
    if found is None and entered:
        raise ClosedError(
            "cannot use the Durable around this call: it is open in another event loop; open one in"
            " each loop, or pass `durable=` or `dsn=`"
        )
    if found is not None and not found.is_open:
        raise ClosedError(
            "cannot use the Durable around this call: it is closed; end the tasks that use it"
            " before its `async with` ends, or pass `durable=` or `dsn=`"
        )
    return found


@asynccontextmanager
async def opened(durable: Durable | None = None, dsn: str | None = None) -> AsyncIterator[Durable]:
    """The given `Durable`, else one opened on `dsn` for the body and current for nobody, else the
    current one.

    Raises:
        ConfigurationError: there is none of the three.
        ClosedError: see `current`.
    """
    if durable is not None:
        yield durable
    elif dsn is not None:
        own = Durable(dsn)
        try:
            await own.open()
            yield own
        finally:
            await own.aclose()
    elif (found := current()) is not None:
        yield found
    else:
        raise no_durable()


def no_durable() -> ConfigurationError:
    """What is raised where there is no `Durable` to work with."""
    return ConfigurationError(
        "cannot find a Postgres to work on. There are four ways: open a Durable around this call"
        " (`async with Durable(dsn)`), install one (`durable.install()`), pass `durable=`, or pass"
        " `dsn=`"
    )
