"""Encodes what a run writes and queues it for the group commit, under the fence of its thread."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Sequence
from concurrent.futures import Executor
from typing import Any, Final

from aiodurable.checkpoints.encoding import Rows, Write
from aiodurable.checkpoints.group_commit import GroupCommitter
from aiodurable.checkpoints.size_estimate import MOST_BYTES, looks_large
from aiodurable.checkpoints.write_session import WriteSession
from aiodurable.errors import ClosedError, ConfigurationError

__all__ = ["FencedWriter"]


_HELD_BYTES: Final = 8192
"""The largest checkpoint that is held back: the bounds of the queue do not count it, and any number
of runs may each have one.
"""


class FencedWriter:
    """Writes for leased threads of one event loop.

    Args:
        committer: commits what is queued.
        threads: the OS threads in which large values are encoded.
    """

    def __init__(self, committer: GroupCommitter, threads: Executor) -> None:
        self._committer = committer
        self._threads = threads
        self._loop = asyncio.get_running_loop()

    async def commit(
        self,
        session: WriteSession,
        dump: Callable[[], Rows],
        values: Sequence[Any],
        *,
        hold: bool = False,
    ) -> None:
        """Encode rows and return after their commit.

        Args:
            session: that of the thread's lease.
            dump: encodes the rows.
            values: what it encodes: large ones are encoded in another OS thread.
            hold: hold them back for the next write of the session, unless they are large; then
                this returns at once.

        Raises:
            LeaseLostError: the lease was lost; nothing was written.
            ConfigurationError: a value cannot be stored; nothing was written.
            PostgresUnavailableError: Postgres stayed away for longer than a restart takes.
            ClosedError: called from another event loop.
        """
        if self._loop is not asyncio.get_running_loop():
            raise ClosedError(
                "cannot use this checkpointer: it belongs to another event loop; open a Durable in"
                " each loop",
                thread_id=session.thread_id,
            )
        session.check()
        session.blank, session.head = False, None
        backlog = self._committer.backlog
        large = looks_large(values)
        in_turn = large or backlog.is_full
        if in_turn:
            await backlog.enter()
        try:
            try:
                if large:
                    rows = await self._loop.run_in_executor(self._threads, dump)
                else:
                    rows = dump()
            except Exception as error:
                # Serializers may raise anything; our error names the thread.
                raise _unserialisable(session.thread_id, error) from error
            if in_turn:
                session.check()  # it may have been lost meanwhile
            if session.held is not None:
                rows.follow(session.held)
                session.held = None
            elif hold and rows.size() <= _HELD_BYTES:
                session.held = rows
                return
            elif not (rows.checkpoints or rows.writes):
                return  # a flush, and another write has taken what was held
            write = Write(
                session,
                rows,
                self._loop.create_future(),
                time.monotonic() + self._committer.retry_for_s,
            )
            if write.size > MOST_BYTES:
                raise _too_large(session.thread_id, write.size)
            backlog.add(write)
        finally:
            if in_turn:
                backlog.leave()
        await write.done

    async def flush(self, session: WriteSession) -> None:
        """Store the checkpoint that was held back for a write that did not come. Raises what
        `commit` raises.
        """
        if session.held is not None:
            await self.commit(session, Rows, ())

    async def settle(self, session: WriteSession) -> None:
        """Return once no write of the session's thread is queued or on its way."""
        await self._committer.backlog.settle(session.thread_id)


def _too_large(thread_id: str, size: int) -> ConfigurationError:
    return ConfigurationError(
        f"cannot store the state of thread {thread_id!r}: one step of it has {size / 1e9:.2f}"
        f" GB, and Postgres takes no statement of more than {MOST_BYTES / 1e9:.2f}; keep large"
        " values elsewhere, and where they are in the state. Nothing of this step was written; the"
        " thread's last checkpoint stands",
        thread_id=thread_id,
    )


def _unserialisable(thread_id: str, error: Exception) -> ConfigurationError:
    return ConfigurationError(
        f"cannot store the state of thread {thread_id!r}: {type(error).__name__} while"
        " serialising it; keep plain data, dataclasses, pydantic models or messages in the state,"
        " or give the pool a serde that knows your types. Nothing of this step was written; the"
        " thread's last checkpoint stands",
        thread_id=thread_id,
    )
