"""Raising tokens for the runs of a process, many in one statement, and knowing which are under
way.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from typing import NamedTuple

from aiodurable.checkpoints.fences import Fence, Standing, bump, bump_free
from aiodurable.postgres.batcher import Batcher
from aiodurable.postgres.direct import DirectPool
from aiodurable.postgres.pool import PsycopgPool

__all__ = ["Raised", "TokenBatcher"]


class Raised(NamedTuple):
    """A thread whose token was raised.

    Attributes:
        fence: that of the new lease.
        first: nothing was known of the thread: no lease, no checkpoint, no run.
    """

    fence: Fence
    first: bool


class TokenBatcher:
    """Raises the tokens of threads under their locks.

    Args:
        database: for a fence that somebody has locked, which takes patience.
        direct: for all others.
    """

    def __init__(self, database: PsycopgPool, direct: DirectPool) -> None:
        self._database = database
        self._direct = direct
        self._free = Batcher(self._raise_free, name="aiodurable bumps")
        self._under_way: dict[str, asyncio.Future[None]] = {}

    async def __call__(self, thread_id: str) -> Raised:
        """Raise the token of the thread, and return the fence of the new lease. Raises as `bump`.

        A cancelled call may leave its statement under way; `ended` returns when it is not.
        """
        raised = await self._free(thread_id)
        if raised is None:
            return Raised(Fence(thread_id, *await self._raise_patiently(thread_id)), first=False)
        (token, lease_id), first = raised
        return Raised(Fence(thread_id, token, lease_id), first)

    async def ended(self, thread_id: str) -> None:
        """Return when no statement is under way that may raise the token of the thread.

        One that comes after its lease would make the writes of the next lease stale.
        """
        while (under_way := self._under_way.get(thread_id)) is not None:
            await asyncio.wait({under_way})

    async def aclose(self) -> None:
        """Answer nothing more. Idempotent."""
        await self._free.aclose()

    async def _raise_free(self, thread_ids: Sequence[str]) -> dict[str, tuple[Standing, bool]]:
        with self._noted(thread_ids):
            return await bump_free(self._direct, thread_ids)

    async def _raise_patiently(self, thread_id: str) -> Standing:
        async def raising() -> Standing:
            with self._noted([thread_id]):
                return await bump(self._database, thread_id)

        task = asyncio.create_task(raising(), name=f"aiodurable bump {thread_id}")
        try:
            return await asyncio.shield(task)
        except asyncio.CancelledError:
            task.cancel()  # it ends when the server has cancelled the statement, or answered it
            raise

    @contextmanager
    def _noted(self, thread_ids: Iterable[str]) -> Iterator[None]:
        ended: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._under_way.update(dict.fromkeys(thread_ids, ended))
        try:
            yield
        finally:
            for thread_id in thread_ids:
                if self._under_way.get(thread_id) is ended:
                    del self._under_way[thread_id]
            ended.set_result(None)
