"""Opening and closing, by any task and any number of times."""

from __future__ import annotations

import asyncio

import pytest

from aiodurable import AsyncCheckpointerPool, Durable, PostgresLockManager


@pytest.mark.parametrize("room", [Durable, PostgresLockManager, AsyncCheckpointerPool])
async def test_opened_twice_at_once_it_is_open_once_and_closed_by_one_close(
    dsn: str, room: type[Durable]
) -> None:
    opened = room(dsn)
    before = asyncio.all_tasks()
    await asyncio.gather(opened.open(), opened.open())
    await opened.aclose()
    left = {task.get_name() for task in asyncio.all_tasks() - before}
    assert not {name for name in left if name.startswith(("aiodurable", "pool-"))}
