"""Creates a thread from a checkpoint of another one, in one transaction.

It copies the checkpoint, the values that it refers to, and the state that subgraphs with a memory
of their own had then. If the new thread goes on in the middle of a step, it also copies the writes
of the step's tasks and their subgraphs. It copies earlier checkpoints only if the state depends on
them: with a `DeltaChannel` those since its last snapshot, and in formats before 4.
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
from aiodurable.postgres.pool_connection import transaction_on
from aiodurable.postgres.sql import load

__all__ = ["ThreadCopy", "create_thread"]

_SQL = load("copy")


class ThreadCopy:
    """The transaction that creates a thread.

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
        """Copy a checkpoint of `source` to the new thread.

        Args:
            source: the thread to copy from. It is read in one snapshot and does not change.
            checkpoint_id: a checkpoint of its root graph.
            in_the_step: go on in the middle of the step after it, with the writes of that step's
                tasks; else the step runs again.

        Raises:
            CheckpointNotFoundError: `source` has no such checkpoint.
        """
        row = await self.fetch_one(
            _SQL["copy_checkpoint"], source, self.thread_id, checkpoint_id, in_the_step
        )
        if row is None or not row["copied"]:
            raise CheckpointNotFoundError(
                f"cannot find checkpoint {checkpoint_id!r} of thread {source!r}: it may have been"
                " pruned; threads.history(thread_id) lists the checkpoints",
                thread_id=source,
                checkpoint_id=checkpoint_id,
            )

    async def rest(self) -> None:
        """Let the transaction rest from now on for as long as the server is configured to allow:
        for code of a graph, which may take long.
        """
        await self._connection.execute("SET LOCAL idle_in_transaction_session_timeout TO DEFAULT")

    async def fetch_one(self, query: str, *args: Any) -> dict[str, Any] | None:
        """Run a statement with `$1` parameters in the transaction and return its first row."""
        async with AsyncRawCursor(self._connection, row_factory=dict_row) as cursor:
            await cursor.execute(query.encode(), args)
            return await cursor.fetchone()


@asynccontextmanager
async def create_thread(
    database: PsycopgPool, fence: Fence, *, serde: SerializerProtocol
) -> AsyncGenerator[ThreadCopy, None]:
    """Open a transaction that creates the thread of `fence`. An exception of the body rolls it
    back. It waits for locked rows only shortly: see `patiently`.

    Raises:
        LeaseLostError: another lease has replaced this one.
        ThreadExistsError: the thread has checkpoints already.
        StatementRefusedError: another transaction has locked a row of the thread.
        PostgresUnavailableError: Postgres cannot be reached.
    """
    fence.check()
    async with database.connection() as connection, transaction_on(connection):
        new = ThreadCopy(connection, fence.thread_id, serde)
        found = await new.fetch_one(_SQL["lock_empty_thread"], fence.thread_id)
        standing = None if found is None else Standing(found["token"], found["lease_id"])
        if found is None or standing != fence.standing:
            raise fence.overtaken(standing)
        if found["occupied"]:
            raise ThreadExistsError(
                f"cannot create thread {fence.thread_id!r}: it has checkpoints already; choose"
                " another thread_id",
                thread_id=fence.thread_id,
            )
        yield new
