"""Runs that people began with the dashboard, in this process, after their pages were answered.

The dashboard owns their tasks. They end with the `Durable`: closing it ends their leases, and a
worker goes on with a run that the ledger has as running.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Coroutine
from typing import Any

from aiodurable.errors import AiodurableError, InvalidArgumentError

__all__ = ["Background"]

_log = logging.getLogger(__name__)
_MOST = 20
_LOOKED_AT_S = 1.0


class Background:
    """The runs that were begun here and are not over."""

    def __init__(self) -> None:
        self._tasks: set[asyncio.Task[Any]] = set()

    async def begin(self, what: str, work: Coroutine[Any, Any, Any]) -> str:
        """Begin something, and wait a moment for an early end: a refusal is one.

        Args:
            what: names it, in the log.
            work: what to await.

        Returns:
            How it stands, as the end of a sentence.

        Raises:
            AiodurableError: what it raised in that moment.
            InvalidArgumentError: too much is at work here already; it was not begun.
        """
        if len(self._tasks) >= _MOST:
            work.close()
            raise InvalidArgumentError(
                f"cannot begin {what}: {_MOST} of these are at work in this process; wait for one,"
                " or let workers do it",
                argument="action",
            )
        task = asyncio.create_task(work, name=f"dashboard: {what}")
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        done, _ = await asyncio.wait({task}, timeout=_LOOKED_AT_S)
        if not done:
            task.add_done_callback(_ended)
            return "it goes on in this process"
        try:
            task.result()
        except AiodurableError:
            raise
        except Exception as error:  # a node's own: its text may have parts of a state
            return f"it ended with {type(error).__name__}"
        return "it has ended"


def _ended(task: asyncio.Task[Any]) -> None:
    if not task.cancelled() and (error := task.exception()) is not None:
        _log.warning("%s ended with %s", task.get_name(), type(error).__name__)
