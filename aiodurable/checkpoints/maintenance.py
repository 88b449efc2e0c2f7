"""Deletes, prunes and copies threads, never while a run holds them.

Each transaction first locks the fences of its threads, so that no lease of them starts until it
commits, and refuses a leased thread. For a thread without a fence it inserts one.

Removing a thread also raises its token. A holder that is recovering its lost lock, or was frozen,
may hold no lock at that moment; its token no longer matches afterwards, so it cannot write. The
fence row stays, with the time of the removal in place of a lease id, until a prune removes it (see
`threads.prune`).
"""

from __future__ import annotations

from collections.abc import AsyncGenerator, Generator, Mapping, Sequence
from contextlib import asynccontextmanager
from typing import Any

from langgraph.checkpoint.postgres.base import (
    _aexecute,  # pyright: ignore[reportPrivateUsage]
    _keep_latest,  # pyright: ignore[reportPrivateUsage]
    _refuse_delta_threads,  # pyright: ignore[reportPrivateUsage]
)
from psycopg import AsyncConnection, AsyncCursor, AsyncRawCursor
from psycopg.rows import DictRow, dict_row

from aiodurable.checkpoints.fences import Standing
from aiodurable.checkpoints.write_session import WriteSession, WriteSessions
from aiodurable.errors import (
    CheckpointNotFoundError,
    ThreadExistsError,
    ThreadNotFoundError,
    WorkflowAlreadyRunningError,
    WorkflowExecutionError,
)
from aiodurable.lock_keys import lock_key
from aiodurable.postgres.locked_rows import patiently
from aiodurable.postgres.pool import PsycopgPool
from aiodurable.postgres.pool_connection import transaction_on
from aiodurable.postgres.sql import load
from aiodurable.thread_id import validate_text

__all__ = ["ThreadMaintenance"]

_SQL = load("checkpoints")
_BUSY = load("busy")
_ROW = "a row of a thread"


class ThreadMaintenance:
    """Removes and copies whole threads.

    It refuses a thread that any process has leased, because its run would go on without the
    removed rows. The holder of the lease passes the write session of its run as `own`.

    The methods raise `WorkflowAlreadyRunningError` for a leased thread, `LeaseLostError` where the
    lease of `own` was lost, and `LockTimeoutError` where other transactions kept a row of a thread
    locked, or changed it, for 10 seconds; see the saver's methods for the rest.

    Args:
        pool: runs the transactions.
        sessions: the write sessions of the threads that this process has leased.
        namespace: of the threads' locks.
    """

    def __init__(self, pool: PsycopgPool, sessions: WriteSessions, namespace: str) -> None:
        self._pool = pool
        self._sessions = sessions
        self._namespace = namespace

    async def remove(self, ids: Sequence[str], *, own: WriteSession | None) -> frozenset[str]:
        """Delete all of the threads or none. Returns those that had rows."""
        for thread_id in ids:
            validate_text(thread_id=thread_id)

        async def work() -> frozenset[str]:
            async with self._undisturbed(ids, own=own) as connection:
                removed = await _run(connection, _SQL["delete_threads"], ids)
                await _run(connection, _SQL["raise_removed"], ids)
                return frozenset(row["thread_id"] for row in removed)

        what = f"delete thread {ids[0]!r}" if len(ids) == 1 else f"delete {len(ids)} threads"
        removed = await patiently(work, what, _lone(ids), row=_ROW)
        if own is not None and own.thread_id in ids:
            own.fence.delete()
        return removed

    async def keep_latest(self, ids: Sequence[str]) -> None:
        """Delete all checkpoints of the threads but the newest of each, a thread at a time."""
        for thread_id in ids:
            validate_text(thread_id=thread_id)
        async with self._cursor() as cursor:
            await _aexecute(cursor, _refuse_delta_threads(ids))
        for thread_id in ids:
            await patiently(
                lambda thread_id=thread_id: self._keep_latest(thread_id),
                f"prune thread {thread_id!r}",
                thread_id,
                row=_ROW,
            )

    async def _keep_latest(self, thread_id: str) -> None:
        async with self._cursor() as cursor, transaction_on(cursor.connection):
            statements = _keep_latest(thread_id)
            # It sets the isolation level, which must come before all other statements.
            first = next(statements)

            def after_the_first() -> Generator[
                tuple[str, Sequence[Any], bool], list[DictRow], None
            ]:
                yield from statements

            await cursor.execute(first[0].encode())
            await self._hold(cursor.connection, [thread_id], own=self._sessions.of(thread_id))
            await _run(cursor.connection, _SQL["record_consumed"], [thread_id])
            await _aexecute(cursor, after_the_first())
            await _run(cursor.connection, _SQL["remove_past_effects"], thread_id)
            await _run(cursor.connection, _SQL["delete_unused_fences"], [thread_id])

    async def copy(self, source: str, target: str, *, own: WriteSession | None) -> None:
        """Copy all checkpoints of a thread to an empty one."""
        validate_text(source_thread_id=source, target_thread_id=target)
        await patiently(
            lambda: self._copy(source, target, own=own),
            f"copy thread {source!r} to {target!r}",
            target,
            row=_ROW,
        )

    async def _copy(self, source: str, target: str, *, own: WriteSession | None) -> None:
        async with self._undisturbed([target], own=own) as connection:
            [row] = await _run(connection, _SQL["has_checkpoints"], target)
            if row["has_checkpoints"]:
                raise ThreadExistsError(
                    f"cannot copy thread {source!r} to {target!r}: the target"
                    " has checkpoints already; delete it first, or choose another thread_id",
                    thread_id=target,
                )
            if not await _count(connection, "copy_thread", source, target):
                raise ThreadNotFoundError(
                    f"cannot copy thread {source!r}: it has no checkpoint; check the id",
                    thread_id=source,
                )
            if own is None:
                # Keep the fence row: a process that waits to insert its own would take the thread
                # for a new one.
                await _run(connection, _SQL["raise_fences"], [target])

    async def delete_runs(self, ids: Sequence[str], *, own: WriteSession | None) -> None:
        """Delete runs and what they wrote."""
        for run_id in ids:
            validate_text(run_id=run_id)
        threads = [row["thread_id"] for row in await self._pool.fetch(_SQL["threads_of_runs"], ids)]

        async def work() -> None:
            async with self._undisturbed(threads, own=own) as connection:
                built_on = [
                    row["thread_id"]
                    for row in await _run(connection, _SQL["built_on_runs"], ids, threads)
                ]
                if built_on:
                    async with connection.cursor(binary=True, row_factory=dict_row) as cursor:
                        await _aexecute(cursor, _refuse_delta_threads(built_on))
                await _run(connection, _SQL["delete_effects_of_runs"], ids, threads)
                await _run(connection, _SQL["delete_ledger_of_runs"], ids, threads)
                await _run(connection, _SQL["delete_runs"], ids, threads)
                await _run(connection, _SQL["orphan_parents"], threads)
                await _run(connection, _SQL["orphan_blobs"], threads)
                others = [
                    thread_id for thread_id in threads if own is None or thread_id != own.thread_id
                ]
                await _run(connection, _SQL["raise_removed"], others)

        await patiently(work, f"delete {len(ids)} runs", _lone(threads), row=_ROW)

    async def roll_back(self, run_id: str, base: str | None, *, own: WriteSession) -> None:
        """Remove what a run wrote after the checkpoint that its thread had when it began, and
        record the run as superseded.
        """
        thread_id = own.thread_id

        async def work() -> Mapping[str, bool]:
            async with self._undisturbed([thread_id], own=own) as connection:
                [line] = await _run(connection, _BUSY["off_the_line"], thread_id, base)
                statement = "keep" if line["gone"] or line["branched"] else "roll_back"
                given = (run_id,) if statement == "keep" else (thread_id, run_id, base)
                await _run(connection, _BUSY[statement], *given)
                return line

        rolling_back = f"roll back run {run_id!r} of thread {thread_id!r}"
        line = await patiently(work, rolling_back, thread_id, row=_ROW)
        what = f"cannot {rolling_back}: "
        instead = '; use on_busy="interrupt", which goes on from what it wrote'
        if line["gone"]:
            raise CheckpointNotFoundError(
                f"{what}the checkpoint that the thread had when it began was removed{instead}",
                thread_id=thread_id,
                checkpoint_id=base,
            )
        if line["branched"]:
            raise WorkflowExecutionError(
                f"{what}the thread has later checkpoints that do not come from the one it had when"
                f" the run began{instead}",
                thread_id=thread_id,
            )

    @asynccontextmanager
    async def _cursor(self) -> AsyncGenerator[AsyncCursor[DictRow], None]:
        async with (
            self._pool.connection() as connection,
            connection.cursor(binary=True, row_factory=dict_row) as cursor,
        ):
            yield cursor

    @asynccontextmanager
    async def _undisturbed(
        self, thread_ids: Sequence[str], *, own: WriteSession | None
    ) -> AsyncGenerator[AsyncConnection[DictRow], None]:
        """Open a transaction during which nobody else holds, or can acquire, a lease of these
        threads.
        """
        async with self._pool.connection() as connection, transaction_on(connection):
            await _run(connection, _SQL["on_disk"])
            await self._hold(connection, thread_ids, own=own)
            yield connection

    async def _hold(
        self,
        connection: AsyncConnection[DictRow],
        thread_ids: Sequence[str],
        *,
        own: WriteSession | None,
    ) -> None:
        await _run(connection, _SQL["insert_missing_fences"], list(thread_ids))
        held = await _run(connection, _SQL["hold_fences"], list(thread_ids))
        standings = {row["thread_id"]: Standing(row["token"], row["lease_id"]) for row in held}
        strangers: dict[int, str] = {}
        for thread_id in thread_ids:
            if own is None or own.thread_id != thread_id:
                strangers[lock_key(thread_id, self._namespace)] = thread_id
                known = self._sessions.of(thread_id)
                # It may be recovering its lost lock, so `pg_locks` would not show it.
                if known is not None and not known.fence.revoked:
                    raise _leased(thread_id)
                continue
            own.fence.check()
            own.forget_rows()
            own.history.forget()  # the row of its mark may be removed
            if (standing := standings.get(thread_id)) != own.fence.standing:
                raise own.fence.overtaken(standing)
        for row in await _run(connection, _SQL["locked"], list(strangers)):
            raise _leased(strangers[row["key"]])


def _leased(thread_id: str) -> WorkflowAlreadyRunningError:
    return WorkflowAlreadyRunningError(
        f"cannot delete, prune or overwrite thread {thread_id!r}: it is leased. Wait until its"
        " run has ended; inside of that run, pass its config",
        thread_id=thread_id,
    )


async def _run(connection: AsyncConnection[DictRow], statement: str, *args: Any) -> list[DictRow]:
    async with AsyncRawCursor(connection, row_factory=dict_row) as cursor:
        await cursor.execute(statement.encode(), args)
        return await cursor.fetchall() if cursor.description else []


async def _count(connection: AsyncConnection[DictRow], block: str, *args: Any) -> int:
    async with AsyncRawCursor(connection) as cursor:
        await cursor.execute(_SQL[block].encode(), args)
        return cursor.rowcount


def _lone(thread_ids: Sequence[str]) -> str | None:
    return thread_ids[0] if len(thread_ids) == 1 else None
