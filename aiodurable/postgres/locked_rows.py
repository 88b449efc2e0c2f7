"""Statements that change one row, while another transaction may have locked it."""

from __future__ import annotations

import time
from collections.abc import Awaitable, Callable
from typing import Final, TypeVar

from aiodurable.errors import LockTimeoutError, StatementRefusedError
from aiodurable.postgres.errors import is_conflict
from aiodurable.postgres.retry import LOCKED_ROW

__all__ = ["PATIENCE_S", "patiently"]

T = TypeVar("T")

PATIENCE_S: Final = 10.0
"""Seconds for which a statement is tried while another transaction has locked its row."""


async def patiently(
    write: Callable[[], Awaitable[T]],
    what: str,
    thread_id: str | None,
    *,
    row: str = "the run's row",
    timeout_s: float | None = None,
) -> T:
    """Send a statement that waits for a locked row only shortly (`runs.short_wait`), again and
    again. In between it holds no connection: those are for other threads, too.

    Args:
        write: sends the statement.
        what: what it does: a verb with its object.
        thread_id: the thread; None: unknown.
        row: the row, for the error.
        timeout_s: seconds for which it is tried; None: `PATIENCE_S`.

    Raises:
        LockTimeoutError: the row stayed locked; nothing was written.
    """
    timeout_s = PATIENCE_S if timeout_s is None else timeout_s
    deadline = time.monotonic() + timeout_s
    while True:
        try:
            return await write()
        except StatementRefusedError as error:
            if not is_conflict(error):
                raise
            if time.monotonic() > deadline:
                raise LockTimeoutError(
                    f"cannot {what} within {timeout_s:g} s: another transaction has locked {row}."
                    " Nothing was written; look in pg_stat_activity for a backend that is idle in"
                    " a transaction, and end it",
                    thread_id=thread_id,
                ) from error
        await LOCKED_ROW.pause()
