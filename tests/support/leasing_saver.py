"""A saver that leases every thread when it is first written, as a run would before it starts."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import Any

from aiodurable.checkpoints import AsyncCheckpointerPool, DurableSaver
from aiodurable.checkpoints.write_session import WriteSession


class Leasing(DurableSaver):
    """What removes or copies threads lets the leases go first, as runs do when they end."""

    pool: AsyncCheckpointerPool
    one_at_a_time: asyncio.Lock

    async def aput(self, config: Any, checkpoint: Any, metadata: Any, new_versions: Any) -> Any:
        thread_id = config["configurable"]["thread_id"]
        async with self.one_at_a_time:
            if self.sessions.of(thread_id) is None:
                self.sessions.hold(WriteSession(await self.pool.new_fence(thread_id)))
        return await super().aput(config, checkpoint, metadata, new_versions)

    async def adelete_thread(self, thread_id: str, **kwargs: Any) -> None:
        self.let_go()
        await super().adelete_thread(thread_id, **kwargs)

    async def aprune(self, thread_ids: Sequence[str], **kwargs: Any) -> None:
        self.let_go()
        await super().aprune(thread_ids, **kwargs)

    async def acopy_thread(
        self, source_thread_id: str, target_thread_id: str, **kwargs: Any
    ) -> None:
        self.let_go()
        await super().acopy_thread(source_thread_id, target_thread_id, **kwargs)

    async def adelete_for_runs(self, run_ids: Sequence[str], **kwargs: Any) -> None:
        self.let_go()
        await super().adelete_for_runs(run_ids, **kwargs)

    def let_go(self) -> None:
        for session in self.sessions.all():
            session.fence.revoke()
            self.sessions.drop(session.fence)


def leasing(pool: AsyncCheckpointerPool) -> DurableSaver:
    plain = pool.get_checkpointer()
    saver = Leasing.__new__(Leasing)
    saver.__dict__.update(plain.__dict__, pool=pool, one_at_a_time=asyncio.Lock())
    return saver
