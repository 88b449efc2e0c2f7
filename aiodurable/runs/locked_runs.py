"""Statements that change the row of one run, while another transaction may have locked it."""

from __future__ import annotations

import time
from collections.abc import Awaitable, Callable
from typing import TypeVar

from aiodurable.errors import LockTimeoutError, StatementRefusedError
from aiodurable.postgres.errors import is_conflict
from aiodurable.postgres.retry import LOCKED_ROW
from aiodurable.runs.ledger_writes import PATIENCE_S

__all__ = ["patiently"]

T = TypeVar("T")


async def patiently(write: Callable[[], Awaitable[T]], what: str, thread_id: str | None) -> T:
    """Send a statement that waits for a locked row only shortly (`runs.short_wait`), again and
    again. In between it holds no connection: those are for other threads, too.

    Args:
        write: sends the statement.
        what: what it does: a verb with its object.
        thread_id: the thread; None: unknown.

    Raises:
        LockTimeoutError: the row stayed locked for 10 seconds; nothing was written.
    """
    deadline = time.monotonic() + PATIENCE_S
    while True:
        try:
            return await write()
        except StatementRefusedError as error:
            if not is_conflict(error):
                raise
            if time.monotonic() > deadline:
                raise LockTimeoutError(
                    f"cannot {what} within {PATIENCE_S:g} s: another transaction has locked the"
                    " run's row. Nothing was written; look in pg_stat_activity for a backend that"
                    " is idle in a transaction, and end it",
                    thread_id=thread_id,
                ) from error
        await LOCKED_ROW.pause()
