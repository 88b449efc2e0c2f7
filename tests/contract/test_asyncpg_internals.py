"""What locks take from asyncpg beyond its documentation: the method that sends a prepared statement
(`locks/statements.py`), and that it can be driven without a task (`locks/lone.py`).
"""

from __future__ import annotations

import asyncio
from typing import Any

import asyncpg

from aiodurable.dsn import parse_dsn
from aiodurable.locks.statements import _fetch, _sent_by


async def test_the_protocol_sends_a_prepared_statement(dsn: str) -> None:
    connection = await asyncpg.connect(**parse_dsn(dsn).asyncpg)
    try:
        prepared = await connection.prepare("SELECT $1::bigint, 'answer'")
        send, (state,) = _sent_by(connection, prepared)
        assert send is not _fetch, "locks work all the same, and one alone takes longer"
        assert [tuple(row) for row in await send(state, (7,), "", 1, False, None)] == [
            (7, "answer")
        ]
    finally:
        await connection.close()


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
        send, (state,) = _sent_by(connection, prepared)
        statement: Any = send(state, (7,), "", 1, False, None)
        waits_for: list[Any] = []
        loop = asyncio.get_running_loop()
        ended: asyncio.Future[Any] = loop.create_future()
        loop.call_soon(begin)
        assert [tuple(row) for row in await ended] == [(7,)]
        assert [isinstance(awaited, asyncio.Future) for awaited in waits_for] == [True]
    finally:
        await connection.close()
