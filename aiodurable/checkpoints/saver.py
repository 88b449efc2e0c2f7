"""`DurableSaver`: LangGraph's Postgres saver for all runs of a process, with fenced writes."""

from __future__ import annotations

import asyncio
import copy
import time
from collections.abc import AsyncGenerator, Callable, Sequence
from concurrent.futures import Executor
from contextlib import asynccontextmanager
from datetime import datetime
from typing import Any, TypeVar, cast

import orjson
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
from langgraph.checkpoint.serde.base import SerializerProtocol
from langgraph.checkpoint.serde.types import (
    ERROR,
    INTERRUPT,
    RESUME,
    _DeltaSnapshot,  # pyright: ignore[reportPrivateUsage]
)
from langgraph.errors import is_invalid_resume
from psycopg import AsyncCursor, AsyncRawCursor
from psycopg.rows import DictRow, dict_row
from psycopg.types.json import set_json_loads

from aiodurable.checkpoints.encoding import Rows, Write, dump_json
from aiodurable.checkpoints.group_commit import GroupCommitter
from aiodurable.checkpoints.maintenance import ThreadMaintenance
from aiodurable.checkpoints.size_estimate import HEAVY_BYTES, MOST_BYTES, looks_large
from aiodurable.checkpoints.write_session import SESSION_KEY, Finished, WriteSession, WriteSessions
from aiodurable.errors import ClosedError, ConfigurationError, WorkflowExecutionError
from aiodurable.inert import Shown
from aiodurable.postgres import schema
from aiodurable.postgres.batcher import Batcher
from aiodurable.postgres.pool import PsycopgPool
from aiodurable.postgres.pool_connection import read_json
from aiodurable.postgres.sql import load

__all__ = ["DurableSaver"]

_LATEST = load("checkpoints")["latest"].encode()
_T = TypeVar("_T")
_SIZES = load("checkpoints")["sizes"]
_INNER = load("checkpoints")["inner_checkpoints"]

_OF_A_STATE_GRAPH = ("__start__", "branch:to:")
_STARTS_A_NODE = (*_OF_A_STATE_GRAPH, "join:", "__pregel_tasks")
"""Prefixes of the channels that trigger the next step."""

_ABOUT_THE_TASK = frozenset((ERROR, "__error_source_node__", INTERRUPT, RESUME))
"""LangGraph's `CONTROL_WRITES`: the channels of a task's state, not of its output."""


class DurableSaver(ThreadMaintenance):
    """A checkpointer that any number of graphs and runs may share; see
    `AsyncCheckpointerPool.get_checkpointer`.

    It writes the threads that this process has leased through the group commit, under their fences,
    and all other threads exactly as `AsyncPostgresSaver` does. The rows are the same, and each
    saver can continue the other's threads.

    On a leased thread it differs from the stock saver in two ways. It does not store a failed
    task's partial output beside its error: LangGraph would take the task for finished and skip the
    rest of it (langgraph#8834). And it refuses a checkpoint whose id does not sort after its
    parent's: LangGraph reads the highest id as the newest, so it would never read this one.

    Attributes:
        sessions: the write sessions of the threads that this process has leased.
        latest: reads the newest row of a thread and namespace with the stock saver's own query, for
            `aget_tuple`.
    """

    def __init__(
        self,
        database: PsycopgPool,
        writer: GroupCommitter,
        sessions: WriteSessions,
        *,
        threads: Executor,
        namespace: str = "aiodurable",
        serde: SerializerProtocol | None = None,
    ) -> None:
        super().__init__(database.pool, serde=serde)
        # The clones that `with_allowlist` makes with `copy.copy` share all of these.
        self.sessions = sessions
        self._database = database
        self._writer = writer
        self._threads = threads
        self._namespace = namespace
        self.latest: Batcher[tuple[str, str], DictRow] = Batcher(
            self._fetch_latest, name="aiodurable reads"
        )

    async def setup(self) -> None:
        """Create LangGraph's tables and our own. Several processes may do so at once, unlike with
        the stock saver.
        """
        await schema.migrate(self._database.dsn)

    @asynccontextmanager
    async def _cursor(
        self, *, pipeline: bool = False
    ) -> AsyncGenerator[AsyncCursor[DictRow], None]:
        """The cursor of all the stock saver's statements. It takes no lock: the stock saver's is
        for a single connection.
        """
        async with self._database.connection() as connection:
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
        if (
            carried is not None
            and carried.blank
            and carried.thread_id == thread_id
            and not namespace
        ):
            carried.blank = False
            return None
        row: DictRow | None = None
        if (
            carried is not None
            and carried.head is not None
            and carried.thread_id == thread_id
            and not namespace
        ):
            row, carried.head = dict(carried.head), None
        row = row or await self.latest((thread_id, namespace))
        if row is None:
            return None
        _refuse_damaged(row)
        # An old format stores the pending sends with the parent.
        if row["checkpoint"]["v"] < 4 and row["parent_checkpoint_id"]:
            return await super().aget_tuple(config)
        return await self._load_checkpoint_tuple(row)

    async def steps(self, session: WriteSession, *, inner: bool) -> list[DictRow]:
        """The newest row of a thread and, with `inner`, those of the running subgraphs of its step.

        The next `aget_tuple` of the session uses the first row instead of a query.
        """
        latest = self.latest((session.thread_id, ""))
        if inner:
            head, others = await asyncio.gather(latest, self._fetch_inner([session.thread_id]))
        else:
            head, others = await latest, dict[str, list[DictRow]]()
        if head is None:
            return []
        session.head = head
        return [head, *others.get(session.thread_id, ())]

    async def sizes(self, thread_ids: Sequence[str]) -> dict[str, int]:
        """Bytes of the values of the threads' newest checkpoints; leaves out empty threads."""
        rows = await self._database.fetch(_SIZES, list(thread_ids))
        return {row["thread_id"]: int(row["bytes"] or 0) for row in rows}

    async def steps_of(self, thread_ids: Sequence[str], *, inner: bool) -> dict[str, list[DictRow]]:
        """`steps` for many threads at once. Rounds integers of more than 64 bits in metadata."""
        heads = await self._fetch_latest(
            [(thread_id, "") for thread_id in thread_ids], loads=_read_json_fast
        )
        others = await self._fetch_inner(thread_ids) if inner else {}
        return {
            thread_id: (
                [head, *others.get(thread_id, ())] if (head := heads.get((thread_id, ""))) else []
            )
            for thread_id in thread_ids
        }

    async def in_a_thread(self, call: Callable[..., _T], *args: Any) -> _T:
        """Run heavy work in the saver's own OS threads: sync nodes may occupy all of the loop's."""
        return await self.loop.run_in_executor(self._threads, call, *args)

    async def _fetch_inner(self, thread_ids: Sequence[str]) -> dict[str, list[DictRow]]:
        rows = await self._database.fetch(_INNER, list(thread_ids))
        found: dict[str, list[DictRow]] = {}
        for row in rows:
            found.setdefault(row["thread_id"], []).append(row)
        return found

    async def _fetch_latest(
        self, keys: Sequence[tuple[str, str]], *, loads: Callable[[str | bytes], Any] = read_json
    ) -> dict[tuple[str, str], DictRow]:
        async with self._database.connection() as connection:
            cursor = AsyncRawCursor(connection, row_factory=dict_row)
            if loads is not read_json:
                set_json_loads(loads, cursor)
            await cursor.execute(
                _LATEST, ([key[0] for key in keys], [key[1] for key in keys]), binary=True
            )
            rows = await cursor.fetchall()
        return {(row["thread_id"], row["checkpoint_ns"]): row for row in rows}

    async def _load_checkpoint_tuple(self, value: DictRow) -> CheckpointTuple:
        """Decode a row, a large one in the saver's own OS threads. The stock saver always uses the
        loop's, which sync nodes may occupy.
        """
        blobs, writes = value["channel_values"] or (), value["pending_writes"] or ()
        size = sum(len(blob[2] or b"") for blob in blobs) + sum(
            len(write[3] or b"") for write in writes
        )
        if size > HEAVY_BYTES:
            return await self.loop.run_in_executor(self._threads, self._load, value)
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
        """Store a checkpoint. Returns after its commit.

        Raises:
            LeaseLostError: this process has lost the lease; nothing was written.
            ConfigurationError: a value cannot be stored; nothing was written.
            WorkflowExecutionError: its id does not sort after its parent's; nothing was written.
            PostgresUnavailableError: Postgres could not be reached for longer than a restart takes.
        """
        session = self._session_of(config)
        if session is None:
            return await super().aput(config, checkpoint, metadata, new_versions)
        session.fence.check()
        configurable = _configurable(config)
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
        versions: ChannelVersions = {
            channel: str(version) for channel, version in new_versions.items() if channel in values
        }

        # A change of the state (`update_state`) is not a step of the run.
        advances = not namespace and metadata.get("source") in ("input", "loop")

        def dump() -> Rows:
            row = (
                thread_id,
                namespace,
                checkpoint["id"],
                parent_id,
                dump_json({**checkpoint, "channel_values": inline}, floats=inline.values()),
                dump_json(get_serializable_checkpoint_metadata(config, metadata)),
            )
            blobs = self._dump_blobs(thread_id, namespace, values, versions)
            return Rows(
                blobs=blobs, checkpoint=row, consumes=session.unconsumed if advances else None
            )

        await self._commit(session, dump, [*(values[channel] for channel in versions), inline])
        if not namespace:
            session.finished = _finished(checkpoint, metadata)
        return {
            "configurable": {
                "thread_id": thread_id,
                "checkpoint_ns": namespace,
                "checkpoint_id": checkpoint["id"],
            }
        }

    async def aput_writes(
        self,
        config: RunnableConfig,
        writes: Sequence[tuple[str, Any]],
        task_id: str,
        task_path: str = "",
    ) -> None:
        """Store the writes of a task. Returns after the commit. Raises what `aput` raises."""
        session = self._session_of(config)
        if session is None:
            return await super().aput_writes(config, writes, task_id, task_path)
        session.fence.check()
        configurable = _configurable(config)
        if errors := [value for channel, value in writes if channel == ERROR]:
            if any(map(is_invalid_resume, errors)):
                return None  # the question's schema refused the answer: the question stays open
            writes = [write for write in writes if write[0] in _ABOUT_THE_TASK]
        if not writes:
            return None
        thread_id: str = configurable["thread_id"]

        def dump() -> Rows:
            rows = self._dump_writes(
                thread_id,
                configurable["checkpoint_ns"],
                configurable["checkpoint_id"],
                task_id,
                task_path,
                writes,
            )
            return Rows(
                writes=rows, replace=all(channel in WRITES_IDX_MAP for channel, _ in writes)
            )

        return await self._commit(session, dump, [value for _, value in writes])

    def _session_of(self, config: RunnableConfig) -> WriteSession | None:
        configurable = _configurable(config)
        thread_id = configurable["thread_id"]
        carried: WriteSession | None = configurable.get(SESSION_KEY)
        # A graph that a node runs on another thread inherits the outer configurable, including the
        # session.
        return (
            carried
            if carried is not None and carried.thread_id == thread_id
            else self.sessions.of(thread_id)
        )

    async def _commit(
        self, session: WriteSession, dump: Callable[[], Rows], values: Sequence[Any]
    ) -> None:
        if self.loop is not asyncio.get_running_loop():
            raise ClosedError(
                "cannot use this checkpointer: it belongs to another event loop; open a Durable in"
                " each loop",
                thread_id=session.thread_id,
            )
        session.blank, session.head = False, None
        async with self._writer.backlog as backlog:
            try:
                if looks_large(values):
                    rows = await self.loop.run_in_executor(self._threads, dump)
                else:
                    rows = dump()
            except Exception as error:
                # Serializers may raise anything; our error names the thread.
                raise _unserialisable(session.thread_id, error) from error
            session.fence.check()
            write = Write(
                session,
                rows,
                self.loop.create_future(),
                time.monotonic() + self._writer.retry_for_s,
            )
            if write.size > MOST_BYTES:
                raise _too_large(session.thread_id, write.size)
            backlog.add(write)
        await write.done


def _configurable(config: RunnableConfig) -> dict[str, Any]:
    return config["configurable"]  # pyright: ignore[reportTypedDictNotRequiredAccess]  # a saver is never called without


def _finished(checkpoint: Checkpoint, metadata: CheckpointMetadata) -> Finished | None:
    """The checkpoint, if `classify` in sql/threads.sql calls a thread certainly complete that has
    it as its head without writes.
    """
    updated = checkpoint.get("updated_channels")
    if updated is None or any(channel.startswith(_STARTS_A_NODE) for channel in updated):
        return None
    if not any(channel.startswith(_OF_A_STATE_GRAPH) for channel in checkpoint["channel_versions"]):
        return None
    return Finished(
        checkpoint["id"], metadata.get("step", 0), datetime.fromisoformat(checkpoint["ts"])
    )


def _out_of_order(thread_id: str, checkpoint_id: str, parent_id: str) -> WorkflowExecutionError:
    return WorkflowExecutionError(
        f"cannot store checkpoint {checkpoint_id} of thread {thread_id!r}: it does not sort after"
        f" its parent {parent_id}, which a host with a clock ahead of this one's wrote, so no"
        " reader would take it for the newest. Nothing was written; synchronise the clocks, then"
        " resume the thread",
        thread_id=thread_id,
    )


def _too_large(thread_id: str, size: int) -> ConfigurationError:
    return ConfigurationError(
        f"cannot store the state of thread {thread_id!r}: one step of it has {size / 1e9:.2f}"
        f" GB, and Postgres takes no statement of more than {MOST_BYTES / 1e9:.2f}; keep large"
        " values elsewhere, and where they are in the state. Nothing of this step was written; the"
        " thread's last checkpoint stands",
        thread_id=thread_id,
    )


def _read_json_fast(data: str | bytes) -> Any:
    """`read_json`, but faster; rounds integers of more than 64 bits."""
    try:
        return orjson.loads(data)
    except ValueError:
        return None


def _refuse_damaged(row: DictRow) -> None:
    """Raise if the row lacks a value that LangGraph reads without a check."""
    checkpoint, metadata = row["checkpoint"], row["metadata"]
    if not isinstance(checkpoint, dict) or not isinstance(metadata, dict):
        damaged = ["checkpoint or metadata"]
    else:
        kinds: dict[str, Any] = {
            "v": int,
            "channel_versions": dict,
            "versions_seen": dict,
            "channel_values": (dict, type(None)),
        }
        stored = cast("dict[str, Any]", checkpoint)
        damaged = [name for name, kind in kinds.items() if not isinstance(stored.get(name), kind)]
    if any(blob[1] is None for blob in row["channel_values"] or ()):
        damaged.append("a value's type")
    if any(write[2] is None for write in row["pending_writes"] or ()):
        damaged.append("a write's type")
    if damaged:
        raise WorkflowExecutionError(
            f"cannot read checkpoint {row['checkpoint_id']!r} of thread {row['thread_id']!r}:"
            f" {', '.join(damaged)} is not what LangGraph writes; restore the row, or delete the"
            " thread",
            thread_id=row["thread_id"],
        )


def _unserialisable(thread_id: str, error: Exception) -> ConfigurationError:
    return ConfigurationError(
        f"cannot store the state of thread {thread_id!r}: {type(error).__name__} while"
        " serialising it; keep plain data, dataclasses, pydantic models or messages in the state,"
        " or give the pool a serde that knows your types. Nothing of this step was written; the"
        " thread's last checkpoint stands",
        thread_id=thread_id,
    )
