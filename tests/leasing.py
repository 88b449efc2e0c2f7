"""A saver that leases every thread when it is first written, as a run would before it starts."""

from __future__ import annotations

from typing import Any

from aiodurable.checkpoints import AsyncCheckpointerPool, DurableSaver


class Leasing(DurableSaver):
    pool: AsyncCheckpointerPool

    async def aput(self, config: Any, checkpoint: Any, metadata: Any, new_versions: Any) -> Any:
        thread_id = config["configurable"]["thread_id"]
        if self.fences.of(thread_id) is None:
            self.fences.hold(await self.pool.new_fence(thread_id))
        return await super().aput(config, checkpoint, metadata, new_versions)


def leasing(pool: AsyncCheckpointerPool) -> DurableSaver:
    plain = pool.get_checkpointer()
    saver = Leasing.__new__(Leasing)
    saver.__dict__.update(plain.__dict__, pool=pool)
    return saver
