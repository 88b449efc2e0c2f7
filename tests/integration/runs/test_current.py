"""Which `Durable` a call without one uses: the one around it, else the installed one, and never a
stranger's.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import pytest

from aiodurable.current import durable_run, get_checkpoint_status, needs_resume
from aiodurable.durable import Durable
from aiodurable.errors import ClosedError, ConfigurationError
from aiodurable.models import ThreadStatus
from aiodurable.settings import Settings
from aiodurable.which_durable import current
from aiodurable.workflow import WorkflowExecutor, with_workflow_lock
from tests.support.graphs import INPUT, Gate, four_nodes
from tests.support.other_loop import in_another_loop
from tests.support.waiting import within

LOOKS_ONLY = Settings(lock_connections=0, auto_migrate=False)


@pytest.fixture
def other_dsn(server: Any, template: str) -> Any:
    """A second database."""
    name = server.create(template)
    yield server.database(name)
    server.drop(name)


async def status_in(dsn: str, thread_id: str) -> ThreadStatus:
    return (await get_checkpoint_status(thread_id, dsn=dsn)).status


async def by_run(dsn: str, graph: Any) -> None:
    async with durable_run("theirs", graph, dsn=dsn) as run:
        await run.ainvoke(INPUT)


async def by_executor(dsn: str, graph: Any) -> None:
    await WorkflowExecutor(graph, dsn=dsn).execute("theirs", INPUT)


async def by_decorator(dsn: str, graph: Any) -> None:
    @with_workflow_lock(dsn=dsn)
    async def work(thread_id: str) -> None:
        await graph.compile().ainvoke(INPUT)

    await work("theirs")


@pytest.mark.parametrize("entry", [by_run, by_executor, by_decorator])
async def test_one_opened_for_a_single_call_becomes_nobody_elses(
    dsn: str, other_dsn: str, entry: Any
) -> None:
    gate = Gate("sort")
    async with Durable(dsn):
        elsewhere = asyncio.create_task(entry(other_dsn, four_nodes(gate)))
        await within(60, gate.reached.wait(), what="the call at the other database to be at work")
        async with durable_run("ours", four_nodes()) as run:
            await run.ainvoke(INPUT)
        gate.open.set()
        await elsewhere
    assert await status_in(dsn, "ours") is ThreadStatus.COMPLETE
    assert await status_in(other_dsn, "ours") is ThreadStatus.NEW


async def test_one_opened_for_a_single_call_is_not_current_in_its_own_body_either(
    dsn: str, other_dsn: str
) -> None:
    async with Durable(dsn) as durable, durable_run("theirs", four_nodes(), dsn=other_dsn):
        assert current() is durable


async def test_it_is_current_in_its_block_and_in_tasks_started_there_alone(dsn: str) -> None:
    looked, close = asyncio.Event(), asyncio.Event()

    async def look_once_open() -> Durable | None:
        await looked.wait()
        return current()

    before = asyncio.create_task(look_once_open())
    async with Durable(dsn, settings=LOOKS_ONLY) as durable:
        inside = asyncio.create_task(look_once_open())
        looked.set()
        assert await before is None
        assert await inside is durable
        close.set()
    assert current() is None


async def test_two_tasks_each_have_their_own(dsn: str, other_dsn: str) -> None:
    both = asyncio.Barrier(2)

    async def work(where: str) -> bool:
        async with Durable(where, settings=LOOKS_ONLY) as durable:
            async with both:
                return current() is durable

    assert await asyncio.gather(work(dsn), work(other_dsn)) == [True, True]


async def test_the_innermost_is_current_and_the_outer_one_again_after_it(
    dsn: str, other_dsn: str
) -> None:
    async with Durable(dsn, settings=LOOKS_ONLY) as outer:
        async with Durable(other_dsn, settings=LOOKS_ONLY) as inner:
            assert current() is inner
        assert current() is outer


async def test_closing_out_of_order_leaves_the_one_that_is_open(dsn: str, other_dsn: str) -> None:
    first, second = Durable(dsn, settings=LOOKS_ONLY), Durable(other_dsn, settings=LOOKS_ONLY)
    await first.__aenter__()
    await second.__aenter__()
    await first.__aexit__(None, None, None)
    assert current() is second
    await second.__aexit__(None, None, None)
    assert current() is None


async def test_a_task_that_outlives_its_durable_is_sent_to_no_other_database(
    dsn: str, other_dsn: str
) -> None:
    closed = asyncio.Event()

    async def late() -> None:
        await closed.wait()
        await needs_resume("t")

    async with Durable(dsn, settings=LOOKS_ONLY):
        async with Durable(other_dsn, settings=LOOKS_ONLY):
            left = asyncio.create_task(late())
        closed.set()
        with pytest.raises(ClosedError, match="closed"):
            await left


async def test_the_installed_one_serves_every_task_that_is_in_no_block(
    dsn: str, other_dsn: str
) -> None:
    installed = asyncio.Event()

    async def request() -> Durable | None:  # started by a server before anything was opened
        await installed.wait()
        return current()

    waiting = asyncio.create_task(request())

    async def lifespan() -> None:  # a task of its own, as a web server's lifespan is
        async with Durable(dsn, settings=LOOKS_ONLY) as durable:
            assert durable.install() is durable
            installed.set()
            assert await waiting is durable
            async with Durable(other_dsn, settings=LOOKS_ONLY) as nearer:
                assert current() is nearer

    await asyncio.create_task(lifespan())
    assert current() is None


async def test_a_second_default_of_one_event_loop_is_refused_until_the_first_is_closed(
    dsn: str, other_dsn: str
) -> None:
    async with (
        Durable(dsn, settings=LOOKS_ONLY) as first,
        Durable(other_dsn, settings=LOOKS_ONLY) as second,
    ):
        first.install().install()
        with pytest.raises(ConfigurationError, match="already installed in this event loop"):
            second.install()
        await first.aclose()
        second.install()
    with pytest.raises(ClosedError):
        second.install()


async def test_opening_without_a_block_makes_it_nobodys_current_one(dsn: str) -> None:
    durable = Durable(dsn, settings=LOOKS_ONLY)
    await durable.open()
    try:
        assert current() is None
        assert durable.install() is current()
    finally:
        await durable.aclose()
    assert current() is None


async def test_a_fixture_whose_halves_run_in_two_contexts_installs_it_for_the_tests(
    dsn: str,
) -> None:
    @asynccontextmanager
    async def fixture() -> AsyncIterator[Durable]:
        async with Durable(dsn, settings=LOOKS_ONLY) as durable:
            yield durable.install()

    halves = fixture()
    durable = await asyncio.create_task(halves.__aenter__())  # a task has a context of its own
    assert current() is durable
    await asyncio.create_task(halves.__aexit__(None, None, None))
    assert current() is None


async def test_a_durable_of_another_event_loop_is_an_error_that_says_so(
    dsn: str, other_dsn: str
) -> None:
    async def look() -> None:
        with pytest.raises(ClosedError, match="another event loop"):
            current()
        async with Durable(other_dsn, settings=LOOKS_ONLY) as own:
            assert current() is own
            await needs_resume("t")
        async with await Durable(other_dsn, settings=LOOKS_ONLY).__aenter__() as installed:
            assert installed.install() is current()

    async with Durable(dsn, settings=LOOKS_ONLY) as durable:
        durable.install()
        await in_another_loop(look)
        assert current() is durable
