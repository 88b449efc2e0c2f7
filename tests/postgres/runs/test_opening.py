"""Opening and closing, whoever does it and how often."""

from __future__ import annotations

import asyncio

from aiodurable import Durable


async def test_opened_twice_at_once_it_is_open_once_and_closed_by_one_close(dsn: str) -> None:
    durable = Durable(dsn)
    before = asyncio.all_tasks()
    await asyncio.gather(durable.open(), durable.open())
    await durable.aclose()
    left = {task.get_name() for task in asyncio.all_tasks() - before}
    assert not {name for name in left if name.startswith(("aiodurable", "pool-"))}
