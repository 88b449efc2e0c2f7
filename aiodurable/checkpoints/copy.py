"""A new thread that begins at a checkpoint of another one: what that checkpoint hangs on is copied,
in one transaction.

Copied are the checkpoint and the values it refers to; of subgraphs with a memory of their own, what
they remembered then; and, where the new thread goes on in the middle of a step, what the step's
tasks wrote and the subgraphs they are in. The checkpoints before are left behind, except where the
state hangs on them: a `DeltaChannel`, and formats before 4.
"""

from __future__ import annotations

from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from typing import Any

from langgraph.checkpoint.postgres.aio import AsyncPostgresSaver
from langgraph.checkpoint.serde.base import SerializerProtocol
from psycopg import AsyncConnection, AsyncRawCursor
from psycopg.rows import DictRow, dict_row

from aiodurable.checkpoints.fences import Fence, Standing
from aiodurable.errors import CheckpointNotFoundError, ThreadExistsError
from aiodurable.postgres.pool import PsycopgPool
from aiodurable.postgres.sql import load

__all__ = ["ThreadCopy", "create_thread"]

_SQL = load("copy")


class ThreadCopy:
    """The transaction in which a thread comes to be: all of it is there afterwards, or nothing.

    Attributes:
        thread_id: the new thread.
        saver: LangGraph's saver inside the transaction.
    """

    def __init__(
        self, connection: AsyncConnection[DictRow], thread_id: str, serde: SerializerProtocol
    ) -> None:
        self._connection = connection
        self.thread_id = thread_id
        self.saver = AsyncPostgresSaver(connection, serde=serde)

    async def copy(self, source: str, checkpoint_id: str, *, in_the_step: bool) -> None:
        """Begin the thread at a checkpoint of `source`.

        Args:
            source: the thread to copy from. One snapshot of it is read, and nothing of it is
                changed.
            checkpoint_id: a checkpoint of its root graph.
            in_the_step: go on in the middle of the step after it, with what the tasks of that step
                wrote so far; else that step runs again.

        Raises:
            CheckpointNotFoundError: `source` has no such checkpoint.
        """
        row = await self.fetch_one(
            _SQL["copy_checkpoint"], source, self.thread_id, checkpoint_id, in_the_step
        )
        if row is None or not row["copied"]:
            raise CheckpointNotFoundError(
                f"cannot find checkpoint {checkpoint_id!r} of thread {source!r}: it may have been"
                " pruned; history(thread_id) lists the checkpoints",
                thread_id=source,
                checkpoint_id=checkpoint_id,
            )

    async def fetch_one(self, query: str, *args: Any) -> dict[str, Any] | None:
        """Run one statement with `$1` parameters in the transaction and return its first row, if
        any.
        """
        async with AsyncRawCursor(self._connection, row_factory=dict_row) as cursor:
            await cursor.execute(query.encode(), args)
            return await cursor.fetchone()


@asynccontextmanager
async def create_thread(
    database: PsycopgPool, fence: Fence, *, serde: SerializerProtocol
) -> AsyncGenerator[ThreadCopy, None]:
    """A transaction for the thread of `fence`, which has no checkpoint yet; it is rolled back where
    the body raises.

    Raises:
        LeaseLostError: the fence is no longer the thread's.
        ThreadExistsError: the thread has checkpoints already.
        PostgresUnavailableError: Postgres is away.
    """
    fence.check()
    async with database.connection() as connection, connection.transaction():
        new = ThreadCopy(connection, fence.thread_id, serde)
        found = await new.fetch_one(_SQL["lock_empty_thread"], fence.thread_id)
        standing = None if found is None else Standing(found["token"], found["lease_id"])
        if found is None or standing != fence.standing:
            raise fence.overtaken(standing)
        if found["occupied"]:
            raise ThreadExistsError(
                f"cannot make thread {fence.thread_id!r}: it has checkpoints already; choose"
                " another thread_id",
                thread_id=fence.thread_id,
            )
        yield new
