"""The newest checkpoint is read while the row of a run is written; where that takes long, the run
does not wait for it, and nothing of that read is left.
"""

from __future__ import annotations

import asyncio
from typing import Any

import asyncpg
import pytest

from aiodurable import Durable, ThreadStatus
from aiodurable.runs import head_read
from tests.support.graphs import INPUT, STEPS, four_nodes
from tests.support.lock_view import WAITING
from tests.support.waiting import wait_until, within


def reads() -> list[str]:
    return [one.get_name() for one in asyncio.all_tasks() if "head of" in one.get_name()]


@pytest.mark.parametrize("cancelled", [False, True])
async def test_a_read_that_takes_long_is_left_to_langgraph(
    dsn: str, durable: Durable, monkeypatch: pytest.MonkeyPatch, cancelled: bool
) -> None:
    monkeypatch.setattr(head_read, "_PATIENCE_S", 0.0)
    connection = await asyncpg.connect(dsn)
    given: dict[str, Any] = {"words": ["again"], "told": ""}
    try:
        async with durable.run("t", four_nodes()) as run:
            await run.ainvoke(INPUT)
            async with connection.transaction():
                await connection.execute("LOCK checkpoint_blobs IN ACCESS EXCLUSIVE MODE")
                call = asyncio.create_task(run.ainvoke(given))
                await wait_until(lambda: connection.fetchval(WAITING), what="the first read")
                await wait_until(lambda: not reads(), what="its end")
                assert not call.done()
                if cancelled:
                    call.cancel()
            if cancelled:
                with pytest.raises(asyncio.CancelledError):
                    await within(30, call)
                assert run.checkpoint.status is ThreadStatus.PAUSED
                call = asyncio.create_task(run.ainvoke())
            assert (await within(30, call))["words"] == [*STEPS, "again", *STEPS]
    finally:
        await connection.close()
