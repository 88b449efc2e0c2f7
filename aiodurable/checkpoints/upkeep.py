"""Deleting, pruning and copying threads, never under the feet of a run."""

from __future__ import annotations

import asyncio
import random
from collections.abc import AsyncGenerator, Callable, Coroutine, Generator, Sequence
from contextlib import asynccontextmanager
from typing import Any, Final

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

from aiodurable.checkpoints.fences import Fences, Standing
from aiodurable.errors import ThreadNotFoundError, WorkflowAlreadyRunningError, WorkflowExecutionError
from aiodurable.keys import lock_key
from aiodurable.postgres.connections import Database
from aiodurable.postgres.queries import load

__all__ = ["Upkeep"]

_SQL = load("checkpoints")
_ATTEMPTS: Final = 10


class Upkeep(AsyncPostgresSaver):
    """The saver's methods that remove or copy whole threads.

    Each holds the fences of the threads it changes until it commits, so that no lease of them begins meanwhile. A thread
    that this process has leased is changed under its fence; one that somebody else has leased is refused.
    """

    fences: Fences
    _database: Database
    _namespace: str

    async def adelete_thread(self, thread_id: str) -> None:
        """Delete the thread. Its fence stays: a token that began anew would let a zombie's old one pass.

        Raises:
            WorkflowAlreadyRunningError: somebody else has leased it; nothing was deleted.
            LeaseLostError: this process had leased it and has lost the lease; nothing was deleted.
        """
        await self.aprune([str(thread_id)], strategy="delete")

    async def aprune(self, thread_ids: Sequence[str], *, strategy: str = "keep_latest") -> None:
        """Keep the latest checkpoint of each thread ("keep_latest"), or nothing of them ("delete").

        Raises:
            TypeError, ValueError: as the stock saver.
            NotImplementedError: "keep_latest" and one of them uses a `DeltaChannel`, whose state hangs on its history.
            WorkflowAlreadyRunningError: somebody else has leased one of them; "delete" deleted nothing then, and
                "keep_latest" went through the threads before it.
            LeaseLostError: this process had leased one of them and has lost the lease; as above.
        """
        if isinstance(thread_ids, str):
            raise TypeError("thread_ids must be a sequence of thread IDs, not a str")
        if strategy not in PRUNE_STRATEGIES:
            raise ValueError(f"strategy must be one of {', '.join(PRUNE_STRATEGIES)}, got {strategy!r}")
        ids = [str(thread_id) for thread_id in thread_ids]
        if strategy == "delete":
            async with self._undisturbed(ids) as connection:
                await _run(connection, "delete_threads", ids)
            return
        if ids:
            async with self._cursor() as cursor:
                await _aexecute(cursor, _refuse_delta_threads(ids))
        for thread_id in ids:
            await _patiently(lambda thread_id=thread_id: self._keep_latest(thread_id))

    async def _keep_latest(self, thread_id: str) -> None:
        async with self._cursor() as cursor, cursor.connection.transaction():
            statements = _keep_latest(thread_id)
            first = next(statements)  # sets the isolation level, which must come before everything else

            def after_the_first() -> Generator[tuple[str, Sequence[Any], bool], list[DictRow], None]:
                yield from statements

            await cursor.execute(first[0].encode())
            await self._hold(cursor.connection, [thread_id])
            await _aexecute(cursor, after_the_first())

    async def acopy_thread(self, source_thread_id: str, target_thread_id: str) -> None:
        """Copy everything of a thread, its whole history included, to one that has nothing yet.

        Raises:
            ThreadNotFoundError: the source has no checkpoint.
            WorkflowExecutionError: the target has rows already; nothing was copied.
            WorkflowAlreadyRunningError, LeaseLostError: the target is leased, as for `adelete_thread`.
        """
        async with self._undisturbed([target_thread_id]) as connection:
            [row] = await _run(connection, "occupied", target_thread_id)
            if row["occupied"]:
                raise WorkflowExecutionError(
                    f"wanted to copy thread {source_thread_id!r} to {target_thread_id!r}, found that the target has "
                    "checkpoints already: delete it first, or choose another name",
                    thread_id=target_thread_id,
                )
            if not await _count(connection, "copy_thread", source_thread_id, target_thread_id):
                raise ThreadNotFoundError(
                    f"wanted to copy thread {source_thread_id!r}, found no checkpoint of it", thread_id=source_thread_id
                )

    async def adelete_for_runs(self, run_ids: Sequence[str]) -> None:
        """Delete the checkpoints that these runs wrote, by LangGraph's `run_id` or a durable run's, in all namespaces.

        No index knows runs: it scans the checkpoints of the whole database.

        Raises:
            NotImplementedError: later checkpoints of a thread stay and use a `DeltaChannel`: their state hangs on what is
                to be deleted; nothing was deleted.
            WorkflowAlreadyRunningError, LeaseLostError: a thread is leased, as for `adelete_thread`.
        """
        ids = [str(run_id) for run_id in run_ids]
        if not ids:
            return
        threads = [row["thread_id"] for row in await self._database.fetch(_SQL["threads_of_runs"], ids)]
        async with self._undisturbed(threads) as connection:
            built_on = [row["thread_id"] for row in await _run(connection, "built_on_runs", ids, threads)]
            if built_on:
                async with connection.cursor(binary=True, row_factory=dict_row) as cursor:
                    await _aexecute(cursor, _refuse_delta_threads(built_on))
            await _run(connection, "delete_runs", ids, threads)
            await _run(connection, "orphan_parents", threads)
            await _run(connection, "orphan_blobs", threads)

    def copy_thread(self, source_thread_id: str, target_thread_id: str) -> None:
        """`acopy_thread`, from another thread than the event loop's."""
        self._from_outside(self.acopy_thread(source_thread_id, target_thread_id))

    def delete_for_runs(self, run_ids: Sequence[str]) -> None:
        """`adelete_for_runs`, from another thread than the event loop's."""
        self._from_outside(self.adelete_for_runs(run_ids))

    def _from_outside(self, work: Coroutine[Any, Any, None]) -> None:
        try:
            inside = asyncio.get_running_loop() is self.loop
        except RuntimeError:
            inside = False
        if inside:
            work.close()
            raise asyncio.InvalidStateError(
                "called on the event loop it needs to finish: use the method with an `a` before it"
            )
        asyncio.run_coroutine_threadsafe(work, self.loop).result()

    @asynccontextmanager
    async def _undisturbed(self, thread_ids: Sequence[str]) -> AsyncGenerator[AsyncConnection[DictRow], None]:
        """A transaction during which no lease of these threads begins."""
        async with self._database.connection() as connection, connection.transaction():
            await self._hold(connection, thread_ids)
            yield connection

    async def _hold(self, connection: AsyncConnection[DictRow], thread_ids: Sequence[str]) -> None:
        held = await _run(connection, "hold_fences", list(thread_ids))
        standings = {row["thread_id"]: Standing(row["token"], row["lease_id"]) for row in held}
        strangers: dict[int, str] = {}
        for thread_id in thread_ids:
            fence = self.fences.of(thread_id)
            if fence is None:
                strangers[lock_key(thread_id, self._namespace)] = thread_id
                continue
            fence.check()
            fence.blank, fence.head = False, None
            if (standing := standings.get(thread_id)) != fence.standing:
                raise fence.overtaken(standing)
        for row in await _run(connection, "locked", list(strangers)):
            thread_id = strangers[row["key"]]
            raise WorkflowAlreadyRunningError(
                f"wanted to delete, prune or overwrite thread {thread_id!r}, found it leased: wait until its run has ended",
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


async def _patiently(work: Callable[[], Coroutine[Any, Any, None]]) -> None:
    """LangGraph's pruning fails when somebody else changes the thread at the same moment; the next try sees the change."""
    for attempt in range(1, _ATTEMPTS + 1):
        try:
            await work()
        except (SerializationFailure, DeadlockDetected):
            if attempt == _ATTEMPTS:
                raise
        else:
            return
        await asyncio.sleep(random.uniform(0.0, 0.02 * attempt))
