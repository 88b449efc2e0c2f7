"""What `locks/lone.py` takes from asyncpg beyond its documentation: a statement of it can be driven
without a task.
"""

from __future__ import annotations

import asyncio
from typing import Any

import asyncpg

from aiodurable.dsn import parse_dsn


async def test_a_prepared_statement_is_sent_by_its_first_step_and_ends_with_its_answer(
    dsn: str,
) -> None:
    def begin() -> None:  # in a callback: no task is current
        waits_for.append(statement.send(None))
        waits_for[0].add_done_callback(end)

    def end(answer: asyncio.Future[Any]) -> None:
        assert answer.done()
        try:
            waits_for.append(statement.send(None))
        except StopIteration as stop:
            ended.set_result(stop.value)
        else:
            ended.set_exception(AssertionError(f"it waits again, for {waits_for[-1]!r}"))

    connection = await asyncpg.connect(**parse_dsn(dsn).asyncpg)
    try:
        prepared = await connection.prepare("SELECT $1::bigint")
        statement: Any = prepared.fetchrow(7)
        waits_for: list[Any] = []
        loop = asyncio.get_running_loop()
        ended: asyncio.Future[Any] = loop.create_future()
        loop.call_soon(begin)
        assert list(await ended) == [7]
        assert [isinstance(awaited, asyncio.Future) for awaited in waits_for] == [True]
    finally:
        await connection.close()
