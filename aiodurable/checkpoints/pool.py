"""`AsyncCheckpointerPool`: a pool for reads, a few writers, and the saver that uses both. A process
opens it once.
"""

from __future__ import annotations

import asyncio
import logging
import weakref
from collections.abc import AsyncGenerator, Sequence
from concurrent.futures import Executor, ThreadPoolExecutor
from contextlib import asynccontextmanager
from typing import Any, Literal, Self

from langgraph.checkpoint.memory import InMemorySaver
from langgraph.checkpoint.serde.base import SerializerProtocol

from aiodurable.checkpoints import fences
from aiodurable.checkpoints.encoding import lost_history
from aiodurable.checkpoints.group_commit import GroupCommitter
from aiodurable.checkpoints.health import CheckpointsHealth
from aiodurable.checkpoints.maintenance import ThreadMaintenance
from aiodurable.checkpoints.saver import DurableSaver
from aiodurable.checkpoints.write_session import WriteSession, WriteSessions
from aiodurable.dsn import PasswordFunction, direct_dsn, parse_dsn
from aiodurable.errors import ClosedError, ConfigurationError, PostgresUnavailableError
from aiodurable.events import CircuitChanged, Observer, emit
from aiodurable.observers import prepared
from aiodurable.postgres import schema
from aiodurable.postgres.circuit_breaker import CircuitBreaker, State
from aiodurable.postgres.direct import DirectPool
from aiodurable.postgres.pool import PsycopgPool
from aiodurable.postgres.same_database import prove_same_database
from aiodurable.settings import Settings
from aiodurable.shield import run_to_completion

__all__ = ["RUN_CONNECTIONS", "AsyncCheckpointerPool", "create_checkpointer"]

_log = logging.getLogger(__name__)

_SERIALISERS = 2
"""OS threads that serialise large values. More would only wait for the interpreter's lock."""


RUN_CONNECTIONS = 2
"""Connections for the statements at the start and end of runs. While one waits for a commit, the
other is free.
"""


class AsyncCheckpointerPool:
    """The connections and the saver of one event loop. Use it with `async with`, or with `open` and
    `aclose`.

    Opening connects to Postgres but creates no tables: `setup` does.

    Args:
        dsn: the database; None: `AIODURABLE_DSN`, `DATABASE_URL`, `PG*`, in this order.
        password: gives the password of each new connection; see `Durable`.
        min_size: connections for reads that stay open.
        max_size: connections for reads, at most.
        checkpoint_connections: connections that commit checkpoints; each opens on first use.
        serde: the serializer of values; None: LangGraph's own.
        settings: the time limits, and `lock_dsn`, which the writers use if `dsn` leads through a
            pooler; None: from the environment.
        observers: are sent an event for each batch, each refused write and each change of the
            circuit.

    Attributes:
        database: the pool for reads and other statements.
        direct: direct connections for the statements that every run needs.
        sessions: the write sessions of the threads that this process has leased.
        maintenance: removes and copies whole threads.

    Raises:
        ConfigurationError: there is no DSN, it is invalid, or a size is.
    """

    def __init__(
        self,
        dsn: str | None = None,
        *,
        password: PasswordFunction | None = None,
        min_size: int = 1,
        max_size: int = 10,
        checkpoint_connections: int = 2,
        serde: SerializerProtocol | None = None,
        settings: Settings | None = None,
        observers: Sequence[Observer] = (),
    ) -> None:
        if checkpoint_connections < 1:
            raise ConfigurationError(
                f"checkpoint_connections must be at least 1, got {checkpoint_connections}"
            )
        self._settings = settings or Settings.from_env()
        self.database = PsycopgPool(
            parse_dsn(
                dsn,
                password=password,
                schema=self._settings.schema,
                compression=self._settings.compression,
            ),
            min_size=min_size,
            max_size=max_size,
            connect_timeout_s=self._settings.connect_timeout_s,
            breaker=_breaker(self._settings),
        )
        self._observers = prepared(observers)
        if self._observers and self.database.breaker is not None:
            self.database.breaker.on_change = self._circuit_changed
        self._direct_dsn = direct_dsn(self.database.dsn, self._settings.lock_dsn)
        self._writers = checkpoint_connections
        self._serde = serde
        self.sessions = WriteSessions()
        self.maintenance = ThreadMaintenance(self.database, self.sessions, self._settings.namespace)
        self.direct = DirectPool(
            self._direct_dsn,
            role="runs",
            size=RUN_CONNECTIONS,
            timeout_s=self._settings.connect_timeout_s,
        )
        self._opening = asyncio.Lock()
        self._loop: asyncio.AbstractEventLoop | None = None
        self._committer: GroupCommitter | None = None
        self._threads: ThreadPoolExecutor | None = None
        self._saver: DurableSaver | None = None

    @classmethod
    async def get_or_create(cls, dsn: str | None = None, **options: Any) -> Self:
        """The open pool of this DSN, schema and event loop. The first call creates and opens it,
        with `options` as for the class.

        Closing it closes it for all of its users; the next call then creates a new one.

        Raises:
            PostgresUnavailableError: Postgres could not be reached or refused.
        """
        known = _pools.setdefault(asyncio.get_running_loop(), {})
        new = cls(dsn, **options)  # not open yet; its DSN has the schema of the settings
        identity = (cls, new.database.dsn.identity)
        pool = known.get(identity)
        if pool is None or pool.closed:
            pool = known[identity] = new
        await pool.open()
        return pool

    async def __aenter__(self) -> Self:
        await self.open()
        return self

    async def __aexit__(self, *exc_info: object) -> None:
        await self.aclose()

    async def open(self) -> None:
        """Connect to Postgres and start the writers. Idempotent.

        Raises:
            PostgresUnavailableError: Postgres could not be reached or refused.
            ConfigurationError: `lock_dsn` leads to another database.
            ClosedError: it was closed, or belongs to another event loop.
        """
        async with self._opening:
            if self._loop is not None:
                self._of_this_loop()
                return
            await self.database.open()
            try:
                await prove_same_database(
                    self.database, self._direct_dsn, timeout_s=self._settings.connect_timeout_s
                )
            except BaseException:  # a cancellation too: the pool has no owner yet
                await run_to_completion(self.database.aclose(self._settings.close_timeout_s))
                raise
            self._loop = asyncio.get_running_loop()
            self.direct.open()
            self._committer = GroupCommitter(
                self._direct_dsn,
                connections=self._writers,
                connect_timeout_s=self._settings.connect_timeout_s,
                leased=self.sessions.__len__,
                observers=self._observers,
            )
            self._committer.open()
            self._threads = ThreadPoolExecutor(
                _SERIALISERS, thread_name_prefix="aiodurable serialise"
            )
            self._saver = DurableSaver(
                self.database,
                self._committer,
                self.sessions,
                self.maintenance,
                threads=self._threads,
                serde=self._serde,
                keep_step_writes=self._settings.keep_step_writes,
            )

    @property
    def serialisers(self) -> Executor | None:
        """The OS threads that serialise large values; None while it is not open."""
        return self._threads

    @property
    def closed(self) -> bool:
        """Whether it was closed, which is final."""
        return self._loop is not None and self._saver is None

    def _of_this_loop(self) -> None:
        if self.closed:
            raise ClosedError("cannot open this checkpointer pool: it was closed; create a new one")
        if self._loop is not asyncio.get_running_loop():
            raise ClosedError(
                "cannot use this checkpointer pool: it belongs to another event loop; open one in"
                " each loop"
            )

    async def aclose(self) -> None:
        """Commit the queued writes and close all connections, within the `close_timeout_s` of the
        settings, also when cancelled. Idempotent.
        """
        await run_to_completion(self._close())

    async def _close(self) -> None:
        committer, self._committer = self._committer, None
        threads, self._threads = self._threads, None
        saver, self._saver = self._saver, None
        if saver is not None:
            await saver.rows.aclose()
        try:
            if committer is not None:
                await committer.aclose(self._settings.close_timeout_s)
        finally:
            if threads is not None:
                threads.shutdown(wait=False)
            self.direct.close()
            await self.database.aclose(self._settings.close_timeout_s)

    async def setup(self) -> None:
        """Create or migrate LangGraph's tables and our own; several processes may do so at once.
        Raises what `schema.migrate` raises.
        """
        await schema.migrate(self._direct_dsn)

    def _circuit_changed(self, state: State) -> None:
        emit(self._observers, CircuitChanged(state=state))

    def health(self) -> CheckpointsHealth:
        """The health of the connections, as this process knows it. Works before `open` and after
        `aclose`, too.
        """
        breaker, stats = self.database.breaker, self.database.stats()
        circuit = None if breaker is None else breaker.state
        return CheckpointsHealth(
            healthy=self._saver is not None and circuit != "open",
            circuit=circuit,
            retry_after_s=0.0 if breaker is None else breaker.retry_after_s,
            connections=stats.get("pool_size", 0),
            idle=stats.get("pool_available", 0),
            waiting=stats.get("requests_waiting", 0),
            writes=0 if self._committer is None else self._committer.backlog.waiting,
            retries=0 if self._committer is None else self._committer.failures,
        )

    def get_checkpointer(self) -> DurableSaver:
        """The saver, always the same one. Raises `ClosedError` before `open` and after `aclose`."""
        if self._saver is None:
            raise ClosedError(
                "cannot get a checkpointer: the pool is not open; use it inside `async with`, or"
                " call open() first"
            )
        return self._saver

    async def bump(self, thread_id: str) -> int:
        """Raise the thread's token, under its lock, and return it; see `fences.bump`."""
        return (await self.new_fence(thread_id)).token

    async def new_fence(self, thread_id: str) -> fences.Fence:
        """Raise the fencing token of the thread and return the fence of the new lease."""
        return fences.Fence(thread_id, *await fences.bump(self.database, thread_id))

    def has_history(self, session: WriteSession) -> bool:
        """Whether the session's newest acknowledged commit is certainly there: `direct` leads to
        the server of that commit.
        """
        origins = self.direct.origins
        return session.history.mark is None or (
            bool(origins) and not any(map(session.history.unproven, origins))
        )

    async def check_history(self, session: WriteSession) -> None:
        """Revoke the session's fence if its newest acknowledged commit is gone.

        Queries only if `direct` may lead to another server than the one of that commit.
        """
        if self.has_history(session):
            return
        statement, parameters = lost_history([session])
        if await self.direct.fetch(statement, *parameters):
            session.history_lost()

    async def token(self, thread_id: str) -> int | None:
        """The thread's fencing token in the database; None: it was never leased."""
        standing = await self.standing(thread_id)
        return None if standing is None else standing.token

    async def standing(self, thread_id: str) -> fences.Standing | None:
        """The thread's fence in the database; None: it was never leased."""
        return await fences.read_standing(self.database, thread_id)


def _breaker(settings: Settings) -> CircuitBreaker | None:
    if settings.circuit_open_after_s == 0:
        return None
    pause = settings.circuit_probe_interval_s
    return CircuitBreaker(
        after_s=settings.circuit_open_after_s, pause_s=min(1.0, pause), max_pause_s=pause
    )


_pools: weakref.WeakKeyDictionary[asyncio.AbstractEventLoop, dict[Any, Any]] = (
    weakref.WeakKeyDictionary()
)


@asynccontextmanager
async def create_checkpointer(
    dsn: str | None = None,
    *,
    password: PasswordFunction | None = None,
    on_unavailable: Literal["raise", "memory"] = "raise",
    settings: Settings | None = None,
) -> AsyncGenerator[DurableSaver | InMemorySaver, None]:
    """A checkpointer for the body, with its tables created or migrated.

    Args:
        dsn: the database; None: `AIODURABLE_DSN`, `DATABASE_URL`, `PG*`, in this order.
        password: gives the password of each new connection; see `Durable`.
        on_unavailable: "raise"; or "memory": if Postgres cannot be reached now, use LangGraph's
            `InMemorySaver`, which loses everything when the process ends, and log that as critical.
        settings: `auto_migrate=False` checks the tables instead of migrating them; None: from the
            environment.

    Raises:
        PostgresUnavailableError: Postgres cannot be reached, with "raise".
        ConfigurationError: there is no DSN, or it is invalid; with "memory", too.
        SchemaMismatchError: the tables are newer than this library, or not ready with
            `auto_migrate=False`.
    """
    if on_unavailable not in ("raise", "memory"):
        raise ConfigurationError(
            f'on_unavailable must be "raise" or "memory", got {on_unavailable!r}'
        )
    settings = settings or Settings.from_env()
    pool = AsyncCheckpointerPool(
        dsn,
        password=password,
        min_size=settings.pool_min_size,
        max_size=settings.pool_max_size,
        checkpoint_connections=settings.checkpoint_connections,
        settings=settings,
    )
    saver: DurableSaver | InMemorySaver
    try:
        await pool.open()
        await (pool.setup() if settings.auto_migrate else schema.check(pool.database.dsn))
        saver = pool.get_checkpointer()
    except BaseException as error:  # close the connections, also after a cancellation
        await pool.aclose()
        if on_unavailable != "memory" or not isinstance(error, PostgresUnavailableError):
            raise
        _log.critical(
            "NOT DURABLE: checkpoints are kept in memory and lost with this process, because: %s",
            error,
        )
        saver = InMemorySaver()
    try:
        yield saver
    finally:
        await pool.aclose()
