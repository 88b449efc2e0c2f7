"""`Durable`: opens the rooms, runs threads, and is the current one of its event loop while it is open."""

from __future__ import annotations

import asyncio
import os
import socket
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import AbstractAsyncContextManager, AsyncExitStack, asynccontextmanager
from typing import Any, Self
from weakref import WeakKeyDictionary

from langchain_core.runnables import RunnableConfig
from langgraph.checkpoint.serde.base import SerializerProtocol

from aiodurable.checkpoints import AsyncCheckpointerPool, DurableSaver
from aiodurable.dsn import direct_dsn, parse_dsn
from aiodurable.errors import ClosedError, ConfigurationError
from aiodurable.events import Observer
from aiodurable.locks import PostgresLockManager
from aiodurable.postgres import schema
from aiodurable.postgres.starting import until_ready
from aiodurable.runs.graphs import BoundGraph, Graph, Graphs
from aiodurable.runs.guard import ThreadLease
from aiodurable.runs.health import Health, health
from aiodurable.runs.hold import OnBusy, hold
from aiodurable.runs.ledger import Ledger
from aiodurable.runs.rooms import Rooms
from aiodurable.runs.run import DurableRun, run
from aiodurable.settings import Settings
from aiodurable.threads import Threads
from aiodurable.verbs import Verbs

__all__ = [
    "Durable",
    "current",
    "opened",
]

_open: WeakKeyDictionary[asyncio.AbstractEventLoop, list[Durable]] = WeakKeyDictionary()


class Durable(Verbs):
    """Durable LangGraph runs on one Postgres: `async with Durable(dsn, graphs={…}) as durable`.

    Args:
        dsn: where Postgres is; None: `AIODURABLE_DSN`, `DATABASE_URL`, or libpq's `PG*` variables, in this order.
        graphs: the graphs by the names under which runs are recorded: builders, compiled graphs or entrypoints.
        settings: how to work; None: `Settings.from_env()`.
        observers: called with every event; see `aiodurable.events`.
        serde: how states and the inputs in the ledger are serialised, such as LangGraph's `EncryptedSerializer`; None:
            as its stock savers do it.

    Opening makes or migrates the tables (unless `settings.setup` is False), opens the pools, and makes this the current
    `Durable` of the event loop, which the free functions use. Closing takes at most `settings.close_timeout_s` seconds
    for each room.

    Raises (on opening):
        ConfigurationError: no DSN, one that cannot be read, or a graph that cannot be run.
        PostgresUnavailableError: Postgres is away or refuses; with `settings.start_timeout_s`, all that time.
        SchemaMismatchError: the tables are newer than this library, or missing with `setup=False`.
        PoolerNotSupportedError: the connection for the locks cannot hold them.
    """

    def __init__(
        self,
        dsn: str | None = None,
        *,
        graphs: Mapping[str, Graph] | None = None,
        settings: Settings | None = None,
        observers: Sequence[Observer] = (),
        serde: SerializerProtocol | None = None,
    ) -> None:
        self.settings = settings or Settings.from_env()
        self.dsn = parse_dsn(dsn)
        self._given = dict(graphs or {})
        self._observers = tuple(observers)
        self._serde = serde
        self._stack: AsyncExitStack | None = None
        self._opening = asyncio.Lock()
        self._rooms: Rooms | None = None
        self._graphs: Graphs | None = None

    async def __aenter__(self) -> Self:
        await self.open()
        return self

    async def __aexit__(self, *exc_info: object) -> None:
        await self.aclose()

    async def open(self) -> None:
        """Open the rooms; see the class. Idempotent."""
        async with self._opening:  # of two at once the second would leave the first one's rooms open for ever
            if self._stack is not None:
                return
            if self.settings.start_timeout_s:
                await until_ready(self._open_rooms, wanted="a Durable", timeout_s=self.settings.start_timeout_s)
            else:
                await self._open_rooms()

    async def _open_rooms(self) -> None:
        settings = self.settings
        direct = direct_dsn(self.dsn, settings.lock_dsn)
        await (schema.migrate if settings.setup and settings.lock_sessions else schema.check)(direct)
        async with AsyncExitStack() as stack:
            checkpoints = await stack.enter_async_context(
                AsyncCheckpointerPool(
                    self.dsn.conninfo,
                    min_size=settings.pool_min_size,
                    max_size=settings.pool_max_size,
                    writers=settings.writers,
                    serde=self._serde,
                    settings=settings,
                )
            )
            locks = await stack.enter_async_context(
                PostgresLockManager(
                    direct.conninfo,
                    sessions=settings.lock_sessions,
                    namespace=settings.namespace,
                    mode=settings.lock_mode,
                    settings=settings,
                    allow_proxy=settings.lock_allow_proxy,
                )
            )
            serde = checkpoints.get_checkpointer().serde
            database, links = checkpoints.database, checkpoints.links
            threads = Threads(database, namespace=settings.namespace, serde=serde, links=links)
            self._rooms = Rooms(
                locks=locks,
                checkpoints=checkpoints,
                threads=threads,
                ledger=Ledger(
                    database,
                    links,
                    threads.classifier,
                    serde=serde,
                    namespace=settings.namespace,
                    worker=f"{socket.gethostname()}:{os.getpid()}",
                ),
                recovery_grace_s=settings.recovery_grace_s,
                observers=self._observers,
            )
            self._graphs = Graphs(self._given, checkpoints.get_checkpointer())
            opened_here = _open.setdefault(asyncio.get_running_loop(), [])
            opened_here.append(self)
            stack.callback(opened_here.remove, self)
            self._stack = stack.pop_all()

    async def aclose(self) -> None:
        """Close the rooms. Idempotent; bounded in time. Leases that are still held are let go by closing."""
        stack, self._stack = self._stack, None
        self._rooms = self._graphs = None
        if stack is not None:
            await stack.aclose()

    @property
    def checkpointer(self) -> DurableSaver:
        """The saver every graph of this `Durable` writes through; may be given to `StateGraph.compile`."""
        return self._opened().checkpoints.get_checkpointer()

    @property
    def locks(self) -> PostgresLockManager:
        """The lock manager, for locks of your own."""
        return self._opened().locks

    def health(self) -> Health:
        """How this `Durable` is, as the process knows it: at once, without asking Postgres. Raises `ClosedError`."""
        return health(self._opened())

    def _opened(self) -> Rooms:
        if self._rooms is None:
            raise ClosedError("this Durable is not open: use it inside `async with Durable(…) as durable`")
        return self._rooms

    def _bound(self, graph: Graph) -> BoundGraph:
        self._opened()
        assert self._graphs is not None
        return self._graphs.bind(graph)

    def run(
        self,
        graph: Graph,
        thread_id: str,
        *,
        run_id: str | None = None,
        on_busy: OnBusy = "reject",
        timeout: float | None = None,
        config: RunnableConfig | None = None,
        context: Any = None,
    ) -> AbstractAsyncContextManager[DurableRun]:
        """Hold a thread and run it: `async with durable.run("report", thread_id) as run: await run.ainvoke(…)`.

        Args:
            graph: a registered name, a `StateGraph`, a compiled graph, or an `@entrypoint`.
            thread_id: the thread, 1 to 512 bytes in UTF-8.
            run_id: names what is to be done; the same run_id never runs twice: it resumes, or
                returns the stored result.
            on_busy: "reject": at once or `WorkflowAlreadyRunningError`; "wait": until the thread is free.
            timeout: seconds to wait at most, with "wait"; None: as long as it takes.
            config: a LangGraph config to run with (callbacks, tags, recursion_limit, configurable values of your own).
            context: the graph's run context. It is stored with the run, so that a resumption elsewhere sees it.

        Raises (on entering):
            WorkflowAlreadyRunningError: another run advances the thread; says who and since when.
            LockTimeoutError: the thread did not become free in time.
            InvalidArgumentError: thread_id, run_id, config or an option cannot be used.
            ConfigurationError, GraphNotRegisteredError: the graph cannot be used.
            ClosedError: this `Durable` is not open.
        Raises (out of the body):
            LeaseLostError: the lease was lost; the body was cancelled.
        """
        rooms = self._opened()
        assert self._graphs is not None
        self._graphs.refuse_swapped(graph, thread_id)
        return run(
            rooms,
            self._graphs.bind(graph),
            thread_id,
            run_id=run_id,
            on_busy=on_busy,
            timeout=timeout,
            config=config,
            context=context,
        )

    def hold(
        self, thread_id: str, *, on_busy: OnBusy = "reject", timeout: float | None = None
    ) -> AbstractAsyncContextManager[ThreadLease]:
        """Hold the lease of a thread without running it; no run of it can start meanwhile. Raises as `run` does."""
        return hold(self._opened(), thread_id, on_busy=on_busy, timeout=timeout)


def current() -> Durable | None:
    """The `Durable` that was opened last in this event loop and is open still."""
    durables = _open.get(asyncio.get_running_loop())
    return durables[-1] if durables else None


@asynccontextmanager
async def opened(durable: Durable | None = None, dsn: str | None = None) -> AsyncIterator[Durable]:
    """The given `Durable`, else one opened on `dsn` for the body, else the current one.

    Raises:
        ConfigurationError: there is none of the three.
    """
    if durable is not None:
        yield durable
    elif dsn is not None:
        async with Durable(dsn) as own:
            yield own
    elif (found := current()) is not None:
        yield found
    else:
        raise ConfigurationError(
            "no Postgres to work on. There are three ways: open a Durable around this call (`async with Durable(dsn)`), "
            "pass `durable=`, or pass `dsn=`"
        )
