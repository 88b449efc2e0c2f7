"""Deletes, prunes and copies threads, never while a run holds them.

Each transaction first locks the fences of its threads, so that no lease of them starts until it
commits, and refuses a leased thread. For a thread without a fence it inserts one.

Removing a thread also raises its token. A holder that is recovering its lost lock, or was frozen,
may hold no lock at that moment; its token no longer matches afterwards, so it cannot write. The
fence row stays, with the time of the removal in place of a lease id, until a prune removes it (see
`threads.prune`).
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Callable, Coroutine, Generator, Sequence
from contextlib import asynccontextmanager
from typing import Any, Final, TypeVar

from langchain_core.runnables import RunnableConfig
from langgraph.checkpoint.postgres.aio import AsyncPostgresSaver
from langgraph.checkpoint.postgres.base import (
    PRUNE_STRATEGIES,
    _aexecute,  # pyright: ignore[reportPrivateUsage]
    _keep_latest,  # pyright: ignore[reportPrivateUsage]
    _refuse_delta_threads,  # pyright: ignore[reportPrivateUsage]
)
from psycopg import AsyncConnection, AsyncRawCursor
from psycopg.errors import DeadlockDetected, SerializationFailure
from psycopg.rows import DictRow, dict_row

from aiodurable.checkpoints.fences import Standing
from aiodurable.checkpoints.write_session import SESSION_KEY, WriteSession, WriteSessions
from aiodurable.errors import ThreadExistsError, ThreadNotFoundError, WorkflowAlreadyRunningError
from aiodurable.lock_keys import lock_key
from aiodurable.postgres.pool import PsycopgPool
from aiodurable.postgres.retry import TRANSACTION
from aiodurable.postgres.sql import load, qualified

__all__ = ["ThreadMaintenance"]

T = TypeVar("T")

_SQL = load("checkpoints")
_ATTEMPTS: Final = 10


class ThreadMaintenance(AsyncPostgresSaver):
    """The saver's methods that remove or copy whole threads.

    They refuse a thread that any process has leased, because its run would go on without the
    removed rows. The holder of the lease passes the `config` of its run, which carries its write
    session.
    """

    SELECT_SQL = qualified(AsyncPostgresSaver.SELECT_SQL)
    sessions: WriteSessions
    _database: PsycopgPool
    _namespace: str

    async def adelete_thread(self, thread_id: str, *, config: RunnableConfig | None = None) -> None:
        """Delete everything that is stored of the thread, including its runs in the ledger.

        Args:
            thread_id: the thread. An unknown thread is no error.
            config: the config of the caller's own run of the thread, whose lease then ends; None:
                nobody may hold the lease.

        Raises:
            WorkflowAlreadyRunningError: it is leased; nothing was deleted.
            LeaseLostError: the lease of `config` was lost; nothing was deleted.
        """
        await self.remove([str(thread_id)], config=config)

    async def remove(
        self, thread_ids: Sequence[str], *, config: RunnableConfig | None = None
    ) -> frozenset[str]:
        """Delete all of the threads or none; see `adelete_thread`. Returns those that had rows."""
        ids = list(thread_ids)
        own = _session_in(config)

        async def work() -> frozenset[str]:
            async with self._undisturbed(ids, own=own) as connection:
                removed = await _run(connection, "delete_threads", ids)
                await _run(connection, "raise_removed", ids)
                return frozenset(row["thread_id"] for row in removed)

        removed = await _patiently(work)
        if own is not None and own.thread_id in ids:
            own.fence.delete()
        return removed

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
        """
        if isinstance(thread_ids, str):
            raise TypeError("thread_ids must be a sequence of thread IDs, not a str")
        if strategy not in PRUNE_STRATEGIES:
            raise ValueError(
                f"strategy must be one of {', '.join(PRUNE_STRATEGIES)}, got {strategy!r}"
            )
        ids = [str(thread_id) for thread_id in thread_ids]
        if strategy == "delete":
            await self.remove(ids, config=config)
            return
        if ids:
            async with self._cursor() as cursor:
                await _aexecute(cursor, _refuse_delta_threads(ids))
        for thread_id in ids:
            await _patiently(lambda thread_id=thread_id: self._keep_latest(thread_id))

    async def _keep_latest(self, thread_id: str) -> None:
        async with self._cursor() as cursor, cursor.connection.transaction():
            statements = _keep_latest(thread_id)
            # It sets the isolation level, which must come before all other statements.
            first = next(statements)

            def after_the_first() -> Generator[
                tuple[str, Sequence[Any], bool], list[DictRow], None
            ]:
                yield from statements

            await cursor.execute(first[0].encode())
            await self._hold(cursor.connection, [thread_id], own=self.sessions.of(thread_id))
            await _run(cursor.connection, "record_consumed", [thread_id])
            await _aexecute(cursor, after_the_first())
            await _run(cursor.connection, "delete_unused_fences", [thread_id])

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
            WorkflowAlreadyRunningError, LeaseLostError: the target is leased, as for
                `adelete_thread`.
        """
        own = _session_in(config)
        async with self._undisturbed([target_thread_id], own=own) as connection:
            [row] = await _run(connection, "has_checkpoints", target_thread_id)
            if row["has_checkpoints"]:
                raise ThreadExistsError(
                    f"cannot copy thread {source_thread_id!r} to {target_thread_id!r}: the target"
                    " has checkpoints already; delete it first, or choose another thread_id",
                    thread_id=target_thread_id,
                )
            if not await _count(connection, "copy_thread", source_thread_id, target_thread_id):
                raise ThreadNotFoundError(
                    f"cannot copy thread {source_thread_id!r}: it has no checkpoint; check the id",
                    thread_id=source_thread_id,
                )
            if own is None:
                # Keep the fence row: a process that waits to insert its own would take the thread
                # for a new one.
                await _run(connection, "raise_fences", [target_thread_id])

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
            WorkflowAlreadyRunningError, LeaseLostError: a thread is leased, as for
                `adelete_thread`.
        """
        ids = [str(run_id) for run_id in run_ids]
        if not ids:
            return
        own = _session_in(config)
        threads = [
            row["thread_id"] for row in await self._database.fetch(_SQL["threads_of_runs"], ids)
        ]

        async def work() -> None:
            async with self._undisturbed(threads, own=own) as connection:
                built_on = [
                    row["thread_id"]
                    for row in await _run(connection, "built_on_runs", ids, threads)
                ]
                if built_on:
                    async with connection.cursor(binary=True, row_factory=dict_row) as cursor:
                        await _aexecute(cursor, _refuse_delta_threads(built_on))
                await _run(connection, "delete_ledger_of_runs", ids, threads)
                await _run(connection, "delete_runs", ids, threads)
                await _run(connection, "orphan_parents", threads)
                await _run(connection, "orphan_blobs", threads)
                others = [
                    thread_id for thread_id in threads if own is None or thread_id != own.thread_id
                ]
                await _run(connection, "raise_removed", others)

        await _patiently(work)

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

    @asynccontextmanager
    async def _undisturbed(
        self, thread_ids: Sequence[str], *, own: WriteSession | None
    ) -> AsyncGenerator[AsyncConnection[DictRow], None]:
        """Open a transaction during which nobody else holds, or can acquire, a lease of these
        threads.
        """
        async with self._database.connection() as connection, connection.transaction():
            await _run(connection, "on_disk")
            await self._hold(connection, thread_ids, own=own)
            yield connection

    async def _hold(
        self,
        connection: AsyncConnection[DictRow],
        thread_ids: Sequence[str],
        *,
        own: WriteSession | None,
    ) -> None:
        await _run(connection, "insert_missing_fences", list(thread_ids))
        held = await _run(connection, "hold_fences", list(thread_ids))
        standings = {row["thread_id"]: Standing(row["token"], row["lease_id"]) for row in held}
        strangers: dict[int, str] = {}
        for thread_id in thread_ids:
            if own is None or own.thread_id != thread_id:
                strangers[lock_key(thread_id, self._namespace)] = thread_id
                known = self.sessions.of(thread_id)
                # It may be recovering its lost lock, so `pg_locks` would not show it.
                if known is not None and not known.fence.revoked:
                    raise _leased(thread_id)
                continue
            own.fence.check()
            own.forget_rows()
            own.history.forget()  # the row of its mark may be removed
            if (standing := standings.get(thread_id)) != own.fence.standing:
                raise own.fence.overtaken(standing)
        for row in await _run(connection, "locked", list(strangers)):
            raise _leased(strangers[row["key"]])


def _session_in(config: RunnableConfig | None) -> WriteSession | None:
    return None if config is None else config.get("configurable", {}).get(SESSION_KEY)


def _leased(thread_id: str) -> WorkflowAlreadyRunningError:
    return WorkflowAlreadyRunningError(
        f"cannot delete, prune or overwrite thread {thread_id!r}: it is leased. Wait until its"
        " run has ended; inside of that run, pass its config",
        thread_id=thread_id,
    )


async def _run(connection: AsyncConnection[DictRow], block: str, *args: Any) -> list[DictRow]:
    async with AsyncRawCursor(connection, row_factory=dict_row) as cursor:
        await cursor.execute(_SQL[block].encode(), args)
        return await cursor.fetchall() if cursor.description else []


async def _count(connection: AsyncConnection[DictRow], block: str, *args: Any) -> int:
    async with AsyncRawCursor(connection) as cursor:
        await cursor.execute(_SQL[block].encode(), args)
        return cursor.rowcount


async def _patiently(work: Callable[[], Coroutine[Any, Any, T]]) -> T:
    """Run a transaction, and again if it fails because another one changed the thread meanwhile."""
    for attempt in range(1, _ATTEMPTS + 1):
        try:
            return await work()
        except (SerializationFailure, DeadlockDetected):
            if attempt == _ATTEMPTS:
                raise
        await TRANSACTION.pause(attempt)
    raise AssertionError("the last attempt returns or raises")
