"""Raises the tokens of many threads in one statement, and knows which statements are in flight."""

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
    """The result of raising a thread's token.

    Attributes:
        fence: the fence of the new lease.
        first: whether the thread is new: it had no lease, no checkpoint and no run.
        waits: whether it had none of them but one run, which waits in a queue.
    """

    fence: Fence
    first: bool = False
    waits: bool = False


class TokenBatcher:
    """Raises the tokens of threads under their locks.

    Args:
        database: for fences that another transaction has locked, where a statement has to wait.
        direct: for all other fences.
    """

    def __init__(self, database: PsycopgPool, direct: DirectPool) -> None:
        self._database = database
        self._direct = direct
        self._free = Batcher(self._raise_free, name="aiodurable bumps")
        self._in_flight: dict[str, asyncio.Future[None]] = {}

    async def __call__(self, thread_id: str) -> Raised:
        """Raise the token of the thread and return the fence of the new lease. Raises what `bump`
        raises.

        A cancelled call may leave its statement in flight; `ended` waits for it.
        """
        raised = await self._free(thread_id)
        if raised is None:
            return Raised(Fence(thread_id, *await self._raise_patiently(thread_id)))
        (token, lease_id), first, waits = raised
        return Raised(Fence(thread_id, token, lease_id), first, waits)

    async def ended(self, thread_id: str) -> None:
        """Wait until no statement is in flight that may raise the thread's token.

        If one arrived after the release of its lease, it would make the next lease's writes stale.
        """
        while (in_flight := self._in_flight.get(thread_id)) is not None:
            await asyncio.wait({in_flight})

    async def aclose(self) -> None:
        """Reject all further calls. Idempotent."""
        await self._free.aclose()

    async def _raise_free(
        self, thread_ids: Sequence[str]
    ) -> dict[str, tuple[Standing, bool, bool]]:
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
            task.cancel()  # it ends once the server has cancelled or answered the statement
            raise

    @contextmanager
    def _noted(self, thread_ids: Iterable[str]) -> Iterator[None]:
        ended: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._in_flight.update(dict.fromkeys(thread_ids, ended))
        try:
            yield
        finally:
            for thread_id in thread_ids:
                if self._in_flight.get(thread_id) is ended:
                    del self._in_flight[thread_id]
            ended.set_result(None)
