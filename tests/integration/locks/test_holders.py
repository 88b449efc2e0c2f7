"""Who asks for holders is answered, whatever kind of task asks the server, and whatever becomes of
the others who ask.
"""

from __future__ import annotations

import asyncio
import sys
from typing import Any

import pytest

from aiodurable.errors import ClosedError, PostgresUnavailableError
from aiodurable.locks import PostgresLockManager, holders
from aiodurable.postgres import direct
from aiodurable.settings import Settings
from tests.support.proxy import proxy
from tests.support.waiting import wait_until, within

TASKS = [
    "lazy",
    pytest.param(
        "eager",
        marks=pytest.mark.skipif(
            sys.version_info < (3, 12), reason="asyncio has eager tasks since Python 3.12"
        ),
    ),
]
"""Of a question that ends without having waited, an eager task is done before whoever made it knows
it.
"""


def lookups_under_way() -> list[asyncio.Task[Any]]:
    return [task for task in asyncio.all_tasks() if task.get_name() == "aiodurable lock holders"]


@pytest.fixture(params=TASKS)
def tasks(request: pytest.FixtureRequest) -> str:
    return request.param


def use(tasks: str) -> None:
    if tasks == "eager":
        asyncio.get_running_loop().set_task_factory(asyncio.eager_task_factory)  # pyright: ignore[reportAttributeAccessIssue]


async def test_after_a_question_that_failed_at_once_the_next_one_is_answered(
    locks: PostgresLockManager, tasks: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def refuse(*_: Any, **__: Any) -> Any:
        raise PostgresUnavailableError("refused at once")

    use(tasks)
    async with locks.hold("a"):
        with monkeypatch.context() as refusing:
            refusing.setattr(direct, "connect_direct", refuse)
            for _ in range(2):
                with pytest.raises(PostgresUnavailableError, match="refused at once"):
                    await within(30, locks.holders(), what="the refusal")
        assert len(await within(30, locks.holders(), what="the holders")) == 1
        assert await within(
            30, locks.is_locked("a"), what="the holder, on the connection that is there"
        )


async def test_questions_of_one_moment_get_each_its_own_answer_and_share_statements(
    locks: PostgresLockManager, tasks: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    statements = 0
    fetch = holders.HolderLookup.fetch

    async def counted(self: holders.HolderLookup, query: str, *args: Any) -> Any:
        nonlocal statements
        statements += 1
        return await fetch(self, query, *args)

    monkeypatch.setattr(holders.HolderLookup, "fetch", counted)
    use(tasks)
    names = [f"lock {number}" for number in range(20)]
    leases = await asyncio.gather(*(locks.acquire(name) for name in names[::2]))
    asking = [asyncio.create_task(locks.is_locked(name)) for name in names]
    everybody = asyncio.create_task(locks.holders())
    asking[1].cancel()
    answers = await within(30, asyncio.gather(*asking, return_exceptions=True), what="all answers")
    assert isinstance(answers.pop(1), asyncio.CancelledError)
    assert answers == [number % 2 == 0 for number in range(20) if number != 1]
    assert len(await within(30, everybody, what="all holders")) == len(leases)
    assert statements <= 3
    await asyncio.gather(*(lease.release() for lease in leases))


async def test_closing_answers_who_still_asks(dsn: str, settings: Settings, tasks: str) -> None:
    use(tasks)
    async with proxy(dsn) as wire:
        locks = PostgresLockManager(wire.dsn, sessions=0, settings=settings)
        await locks.open()
        wire.cut()
        asking = [asyncio.create_task(locks.holders()) for _ in range(3)]
        await wait_until(lookups_under_way, what="the question to be under way")
        await within(30, locks.aclose(), what="the manager to close")
        answers = await within(
            30, asyncio.gather(*asking, return_exceptions=True), what="the answers"
        )
        assert [type(answer) for answer in answers] == [ClosedError] * 3
        assert not lookups_under_way()
