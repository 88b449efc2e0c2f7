"""`DurableSaver`: LangGraph's Postgres saver for all runs of a process, with fenced writes."""

from __future__ import annotations

import asyncio
import copy
import inspect
from collections.abc import AsyncGenerator, Callable, Coroutine, Mapping, Sequence
from concurrent.futures import Executor
from contextlib import asynccontextmanager
from functools import partial
from typing import Any, TypeVar, cast

from langchain_core.runnables import RunnableConfig
from langgraph.checkpoint.base import (
    WRITES_IDX_MAP,
    ChannelVersions,
    Checkpoint,
    CheckpointMetadata,
    CheckpointTuple,
    get_checkpoint_id,
    get_serializable_checkpoint_metadata,
)
from langgraph.checkpoint.postgres.aio import AsyncPostgresSaver
from langgraph.checkpoint.postgres.base import PRUNE_STRATEGIES
from langgraph.checkpoint.serde.base import SerializerProtocol
from langgraph.checkpoint.serde.types import (
    ERROR,
    INTERRUPT,
    RESUME,
    _DeltaSnapshot,  # pyright: ignore[reportPrivateUsage]
)
from langgraph.errors import is_invalid_resume
from psycopg import AsyncCursor
from psycopg.rows import DictRow, dict_row

from aiodurable.checkpoints.encoding import Rows, dump_json
from aiodurable.checkpoints.fenced_writer import FencedWriter
from aiodurable.checkpoints.finished import as_finished
from aiodurable.checkpoints.group_commit import GroupCommitter
from aiodurable.checkpoints.maintenance import ThreadMaintenance
from aiodurable.checkpoints.row_reader import RowReader, refuse_damaged
from aiodurable.checkpoints.size_estimate import HEAVY_BYTES
from aiodurable.checkpoints.write_session import (
    SESSION_KEY,
    WriteSession,
    WriteSessions,
    session_in,
)
from aiodurable.errors import WorkflowExecutionError
from aiodurable.inert import Shown
from aiodurable.postgres import schema
from aiodurable.postgres.pool import PsycopgPool
from aiodurable.postgres.sql import qualified

__all__ = ["DurableSaver"]

_T = TypeVar("_T")
_MethodT = TypeVar("_MethodT", bound=Callable[..., Any])

_DELTA = ("counters_since_delta_snapshot", "delta_writes_versioned")
"""What the metadata of a checkpoint has whose state depends on the writes before it."""

_ABOUT_THE_TASK = frozenset((ERROR, "__error_source_node__", INTERRUPT, RESUME))
"""LangGraph's `CONTROL_WRITES`: the channels of a task's state, not of its output."""


def _with_its_signature(method: _MethodT) -> _MethodT:
    """Keep a method's signature with it. LangGraph asks for that of `aput_writes` whenever it runs
    a graph or subgraph, and `inspect` takes some fifty calls to find it out.
    """
    vars(method)["__signature__"] = inspect.signature(method)
    return method


class DurableSaver(AsyncPostgresSaver):
    """A checkpointer that any number of graphs and runs may share; see
    `AsyncCheckpointerPool.get_checkpointer`.

    It writes the threads that this process has leased through the group commit, under their fences,
    and all other threads exactly as `AsyncPostgresSaver` does. The rows are the same, and each
    saver can continue the other's threads.

    On a leased thread it differs from the stock saver in two ways. It does not store a failed
    task's partial output beside its error: LangGraph would take the task for finished and skip the
    rest of it (langgraph#8834). And it refuses a checkpoint whose id does not sort after its
    parent's: LangGraph reads the highest id as the newest, so it would never read this one.

    Without `keep_step_writes` it leaves out what the tasks of a step returned, where that is in one
    batch with the checkpoint that came of it, and the step had no error, question or answer: a
    reader of an older checkpoint finds it as a crash before these writes would have left it.

    Attributes:
        sessions: the write sessions of the threads that this process has leased.
        writer: writes under their fences.
        rows: reads the rows of newest checkpoints, for `aget_tuple` and for comparing a graph with
            what is stored.
    """

    SELECT_SQL = qualified(AsyncPostgresSaver.SELECT_SQL)

    def __init__(
        self,
        pool: PsycopgPool,
        committer: GroupCommitter,
        sessions: WriteSessions,
        maintenance: ThreadMaintenance,
        *,
        threads: Executor,
        serde: SerializerProtocol | None = None,
        keep_step_writes: bool = True,
    ) -> None:
        super().__init__(pool.pool, serde=serde)
        # The clones that `with_allowlist` makes with `copy.copy` share all of these.
        self.sessions = sessions
        self.rows = RowReader(pool)
        self.writer = FencedWriter(committer, threads)
        self._maintenance = maintenance
        self._pool = pool
        self._threads = threads
        self._keep_step_writes = keep_step_writes

    async def setup(self) -> None:
        """Create LangGraph's tables and our own. Several processes may do so at once, unlike with
        the stock saver.
        """
        await schema.migrate(self._pool.dsn)

    @asynccontextmanager
    async def _cursor(
        self, *, pipeline: bool = False
    ) -> AsyncGenerator[AsyncCursor[DictRow], None]:
        """The cursor of all the stock saver's statements. It takes no lock: the stock saver's is
        for a single connection.
        """
        async with self._pool.connection() as connection:
            if not pipeline:
                async with connection.cursor(binary=True, row_factory=dict_row) as cursor:
                    yield cursor
            elif self.supports_pipeline:
                async with (
                    connection.pipeline(),
                    connection.cursor(binary=True, row_factory=dict_row) as cursor,
                ):
                    yield cursor
            else:
                async with (
                    connection.transaction(),
                    connection.cursor(binary=True, row_factory=dict_row) as cursor,
                ):
                    yield cursor

    def inert(self) -> DurableSaver:
        """A copy of this saver that reads values without building the stored objects."""
        clone = copy.copy(self)
        clone.serde = Shown(self.serde)
        return clone

    async def aget_tuple(self, config: RunnableConfig) -> CheckpointTuple | None:
        """The checkpoint that the config names, or the thread's newest. One statement reads the
        newest ones for many concurrent calls.
        """
        if get_checkpoint_id(config):
            return await super().aget_tuple(config)
        configurable = _configurable(config)
        thread_id, namespace = configurable["thread_id"], configurable.get("checkpoint_ns", "")
        carried: WriteSession | None = configurable.get(SESSION_KEY)
        head: Mapping[str, Any] | None = None
        if carried is not None and carried.thread_id == thread_id and not namespace:
            if carried.blank:
                carried.blank = False
                return None
            head, carried.head = carried.head, None
        row = await self.rows.latest((thread_id, namespace)) if head is None else dict(head)
        if row is None:
            return None
        refuse_damaged(row)
        # An old format stores the pending sends with the parent.
        if row["checkpoint"]["v"] < 4 and row["parent_checkpoint_id"]:
            return await super().aget_tuple(config)
        return await self._load_checkpoint_tuple(row)

    async def in_a_thread(self, call: Callable[..., _T], *args: Any) -> _T:
        """Run heavy work in the saver's own OS threads: sync nodes may occupy all of the loop's."""
        return await self.loop.run_in_executor(self._threads, call, *args)

    async def _load_checkpoint_tuple(self, value: DictRow) -> CheckpointTuple:
        """Decode a row, a large one in the saver's own OS threads. The stock saver always uses the
        loop's, which sync nodes may occupy.
        """
        blobs, writes = value["channel_values"] or (), value["pending_writes"] or ()
        size = sum(len(blob[2] or b"") for blob in blobs) + sum(
            len(write[3] or b"") for write in writes
        )
        if size > HEAVY_BYTES:
            return await self.in_a_thread(self._load, value)
        return self._load(value)

    def _load(self, value: DictRow) -> CheckpointTuple:
        def config(checkpoint_id: str) -> RunnableConfig:
            place = {"thread_id": value["thread_id"], "checkpoint_ns": value["checkpoint_ns"]}
            return {"configurable": {**place, "checkpoint_id": checkpoint_id}}

        checkpoint, parent_id = value["checkpoint"], value["parent_checkpoint_id"]
        inline: dict[str, Any] = checkpoint.get("channel_values") or {}
        return CheckpointTuple(
            config(value["checkpoint_id"]),
            cast(
                "Checkpoint",
                {
                    **checkpoint,
                    "channel_values": {**inline, **self._load_blobs(value["channel_values"])},
                },
            ),
            value["metadata"],
            config(parent_id) if parent_id else None,
            self._load_writes(value["pending_writes"]),
        )

    async def aput(
        self,
        config: RunnableConfig,
        checkpoint: Checkpoint,
        metadata: CheckpointMetadata,
        new_versions: ChannelVersions,
    ) -> RunnableConfig:
        """Store a checkpoint. Returns after its commit; that of a run's input may go with the next
        write (`WriteSession.holds_input`).

        Raises:
            LeaseLostError: this process has lost the lease; nothing was written.
            ConfigurationError: a value cannot be stored; nothing was written.
            WorkflowExecutionError: its id does not sort after its parent's; nothing was written.
            PostgresUnavailableError: Postgres could not be reached for longer than a restart takes.
        """
        configurable = _configurable(config)
        session = self._session_of(configurable)
        if session is None:
            return await super().aput(config, checkpoint, metadata, new_versions)
        thread_id: str = configurable["thread_id"]
        namespace: str = configurable["checkpoint_ns"]
        parent_id: str | None = configurable.get("checkpoint_id")
        if parent_id and checkpoint["id"] <= parent_id:
            raise _out_of_order(thread_id, checkpoint["id"], parent_id)
        # Split the values as the stock saver does: scalars stay in the checkpoint, all others
        # become blobs. A delta channel's snapshot becomes a blob, too, with a true in its place.
        inline: dict[str, Any] = {}
        values: dict[str, Any] = {}
        for channel, value in checkpoint["channel_values"].items():
            if isinstance(value, _DeltaSnapshot):
                values[channel] = value
                inline[channel] = True
            elif value is None or isinstance(value, (str, int, float, bool)):
                inline[channel] = value
            else:
                values[channel] = value
        versions: ChannelVersions = {}
        weighed = list(inline.values())
        for channel, version in new_versions.items():
            if channel in values:
                versions[channel] = str(version)
                weighed.append(values[channel])

        finished = None if namespace else as_finished(checkpoint, metadata)
        completes_step = (
            not self._keep_step_writes
            and session.begin_step(namespace, checkpoint["id"], parent_id)
            and metadata.get("source") == "loop"
            and metadata.keys().isdisjoint(_DELTA)
        )
        await self.writer.commit(
            session,
            # Not a closure: its cells would live until the commit, for the garbage collector.
            partial(
                self._checkpoint_rows,
                *(session, config, checkpoint, metadata, inline, values, versions),
                finished=finished is not None,
                completes_step=completes_step,
            ),
            weighed,
            hold=(
                session.holds_input
                and session.unconsumed is not None
                and not namespace
                and metadata.get("source") == "input"
            ),
        )
        if not namespace:
            session.finished = finished
        return {
            "configurable": {
                "thread_id": thread_id,
                "checkpoint_ns": namespace,
                "checkpoint_id": checkpoint["id"],
            }
        }

    def _checkpoint_rows(
        self,
        session: WriteSession,
        config: RunnableConfig,
        checkpoint: Checkpoint,
        metadata: CheckpointMetadata,
        inline: dict[str, Any],
        values: dict[str, Any],
        versions: ChannelVersions,
        *,
        finished: bool,
        completes_step: bool,
    ) -> Rows:
        """The rows of a checkpoint: `inline` is stored in it, `values` beside it."""
        configurable = _configurable(config)
        thread_id, namespace = configurable["thread_id"], configurable["checkpoint_ns"]
        row = (
            thread_id,
            namespace,
            checkpoint["id"],
            configurable.get("checkpoint_id"),
            dump_json({**checkpoint, "channel_values": inline}, floats=inline.values()),
            dump_json(get_serializable_checkpoint_metadata(config, metadata)),
        )
        # A change of the state (`update_state`) is not a step of the run.
        advances = not namespace and metadata.get("source") in ("input", "loop")
        blobs = self._dump_blobs(thread_id, namespace, values, versions)
        taken = session.unconsumed
        return Rows(
            blobs=blobs,
            checkpoints=(row,),
            consumes=taken if advances else None,
            ends=session.completes if advances and finished and taken is None else None,
            completes_step=completes_step,
        )

    @_with_its_signature
    async def aput_writes(
        self,
        config: RunnableConfig,
        writes: Sequence[tuple[str, Any]],
        task_id: str,
        task_path: str = "",
    ) -> None:
        """Store the writes of a task. Returns after the commit. Raises what `aput` raises."""
        configurable = _configurable(config)
        session = self._session_of(configurable)
        if session is None:
            return await super().aput_writes(config, writes, task_id, task_path)
        channels, values = zip(*writes, strict=True) if writes else ((), ())
        if ERROR in channels:
            errors = [value for channel, value in writes if channel == ERROR]
            if any(map(is_invalid_resume, errors)):
                return None  # the question's schema refused the answer: the question stays open
            writes = [write for write in writes if write[0] in _ABOUT_THE_TASK]
            channels, values = zip(*writes, strict=True)
        if not writes:
            return None
        if not (self._keep_step_writes or _ABOUT_THE_TASK.isdisjoint(channels)):
            session.disturb_step(configurable["checkpoint_ns"])
        return await self.writer.commit(
            session, partial(self._write_rows, configurable, writes, task_id, task_path), values
        )

    def _write_rows(
        self,
        configurable: Mapping[str, Any],
        writes: Sequence[tuple[str, Any]],
        task_id: str,
        task_path: str,
    ) -> Rows:
        rows = self._dump_writes(
            configurable["thread_id"],
            configurable["checkpoint_ns"],
            configurable["checkpoint_id"],
            task_id,
            task_path,
            writes,
        )
        replace = WRITES_IDX_MAP.keys() >= {channel for channel, _ in writes}
        return Rows(writes=rows, replace=replace)

    def _session_of(self, configurable: Mapping[str, Any]) -> WriteSession | None:
        thread_id = configurable["thread_id"]
        carried: WriteSession | None = configurable.get(SESSION_KEY)
        # A graph that a node runs on another thread inherits the outer configurable, including the
        # session.
        return (
            carried
            if carried is not None and carried.thread_id == thread_id
            else self.sessions.of(thread_id)
        )

    # ---- whole threads --------------------------------------------------------------------------

    async def adelete_thread(self, thread_id: str, *, config: RunnableConfig | None = None) -> None:
        """Delete everything that is stored of the thread, including its runs in the ledger.

        Args:
            thread_id: the thread. An unknown thread is no error.
            config: the config of the caller's own run of the thread, whose lease then ends; None:
                nobody may hold the lease.

        Raises:
            WorkflowAlreadyRunningError: it is leased; nothing was deleted.
            LeaseLostError: the lease of `config` was lost; nothing was deleted.
            LockTimeoutError: another transaction kept a row of it locked for 10 seconds; nothing
                was deleted.
        """
        await self._maintenance.remove([str(thread_id)], own=session_in(config))

    async def aprune(
        self,
        thread_ids: Sequence[str],
        *,
        strategy: str = "keep_latest",
        config: RunnableConfig | None = None,
    ) -> None:
        """Keep only the latest checkpoint of each thread ("keep_latest"), or nothing ("delete").

        "keep_latest" may prune a thread while a run of this process holds it.

        Args:
            thread_ids, strategy: as for the stock saver.
            config: as for `adelete_thread`, with "delete".

        Raises:
            TypeError, ValueError: as the stock saver.
            NotImplementedError: with "keep_latest", a thread uses a `DeltaChannel`, whose state
                depends on its history.
            WorkflowAlreadyRunningError: a thread is leased. "delete" has deleted nothing;
                "keep_latest" has pruned the threads before it.
            LeaseLostError: this process has lost its lease of a thread; as above.
            LockTimeoutError: another transaction kept a row of a thread locked for 10 seconds; as
                above.
        """
        if isinstance(thread_ids, str):
            raise TypeError("thread_ids must be a sequence of thread IDs, not a str")
        if strategy not in PRUNE_STRATEGIES:
            raise ValueError(
                f"strategy must be one of {', '.join(PRUNE_STRATEGIES)}, got {strategy!r}"
            )
        ids = [str(thread_id) for thread_id in thread_ids]
        if strategy == "delete":
            await self._maintenance.remove(ids, own=session_in(config))
        elif ids:
            await self._maintenance.keep_latest(ids)

    async def acopy_thread(
        self, source_thread_id: str, target_thread_id: str, *, config: RunnableConfig | None = None
    ) -> None:
        """Copy all checkpoints of a thread to an empty one, without the source's runs.

        Args:
            source_thread_id, target_thread_id: the threads.
            config: as for `adelete_thread`, for the target; its lease goes on.

        Raises:
            ThreadNotFoundError: the source has no checkpoint.
            ThreadExistsError: the target has rows already; nothing was copied.
            WorkflowAlreadyRunningError, LeaseLostError, LockTimeoutError: of the target, as for
                `adelete_thread`.
        """
        await self._maintenance.copy(source_thread_id, target_thread_id, own=session_in(config))

    async def adelete_for_runs(
        self, run_ids: Sequence[str], *, config: RunnableConfig | None = None
    ) -> None:
        """Delete these runs and what they wrote, by LangGraph's `run_id` or a durable run's.

        Deletes their checkpoints in all namespaces and their rows in the ledger, including the row
        of a durable run that keeps no checkpoint. No index covers the run of a checkpoint, so this
        scans all checkpoints of the database.

        Args:
            run_ids: the runs. Unknown runs are ignored.
            config: the config of the caller's own run of their thread, whose lease goes on; None:
                nobody may hold the lease.

        Raises:
            NotImplementedError: later checkpoints of a thread use a `DeltaChannel`, so their state
                depends on deleted ones; nothing was deleted.
            WorkflowAlreadyRunningError, LeaseLostError, LockTimeoutError: of a thread, as for
                `adelete_thread`.
        """
        ids = [str(run_id) for run_id in run_ids]
        if ids:
            await self._maintenance.delete_runs(ids, own=session_in(config))

    def copy_thread(self, source_thread_id: str, target_thread_id: str) -> None:
        """`acopy_thread` for a caller in another OS thread."""
        self._from_outside(self.acopy_thread(source_thread_id, target_thread_id))

    def delete_for_runs(self, run_ids: Sequence[str]) -> None:
        """`adelete_for_runs` for a caller in another OS thread."""
        self._from_outside(self.adelete_for_runs(run_ids))

    def _from_outside(self, work: Coroutine[Any, Any, None]) -> None:
        try:
            inside = asyncio.get_running_loop() is self.loop
        except RuntimeError:
            inside = False
        if inside:
            work.close()
            raise asyncio.InvalidStateError(
                "cannot wait for the event loop on the loop itself: await the method with the same"
                " name and an `a` before it"
            )
        asyncio.run_coroutine_threadsafe(work, self.loop).result()


def _configurable(config: RunnableConfig) -> dict[str, Any]:
    return config["configurable"]  # pyright: ignore[reportTypedDictNotRequiredAccess]  # a saver is never called without


def _out_of_order(thread_id: str, checkpoint_id: str, parent_id: str) -> WorkflowExecutionError:
    return WorkflowExecutionError(
        f"cannot store checkpoint {checkpoint_id} of thread {thread_id!r}: it does not sort after"
        f" its parent {parent_id}, which a host with a clock ahead of this one's wrote, so no"
        " reader would take it for the newest. Nothing was written; synchronise the clocks, then"
        " resume the thread",
        thread_id=thread_id,
    )
