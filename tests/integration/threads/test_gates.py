"""Nothing passes a gate without a person: no search for work, and no loop over its results."""

from __future__ import annotations

import ast
import asyncio
import contextlib
import re
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import aclosing
from typing import Any

import psycopg
import pytest
from langgraph.checkpoint.postgres.aio import AsyncPostgresSaver

from aiodurable.current import needs_resume
from aiodurable.durable import Durable
from aiodurable.errors import ThreadInterruptedError, ThreadPausedError
from aiodurable.events import AttemptStarted, inline
from aiodurable.models import PauseReason, ThreadStatus
from tests.support.example_programs import REPOSITORY
from tests.support.graphs import INPUT, STEPS, Gate, asking, four_nodes
from tests.support.waiting import within

Make = Callable[[Durable, str], Awaitable[None]]


async def at_a_gate(durable: Durable, thread_id: str) -> None:
    async with durable.run(thread_id, "story") as run:
        await run.ainvoke(INPUT, interrupt_before=["weigh"])


async def after_a_gate(durable: Durable, thread_id: str) -> None:
    async with durable.run(thread_id, "story") as run:
        await run.ainvoke(INPUT, interrupt_after=["sort"])


async def plain_at_a_gate(durable: Durable, thread_id: str) -> None:
    async with AsyncPostgresSaver.from_conn_string(durable.dsn.conninfo) as saver:
        graph = four_nodes().compile(checkpointer=saver)
        await graph.ainvoke(
            INPUT, {"configurable": {"thread_id": thread_id}}, interrupt_before=["weigh"]
        )


async def cancelled(durable: Durable, thread_id: str) -> None:
    gate = Gate("weigh")

    async def call() -> None:
        async with durable.run(thread_id, four_nodes(gate)) as run:
            await run.ainvoke(INPUT)

    calling = asyncio.create_task(call())
    await within(60, gate.reached.wait(), what="the run to be in its third node")
    calling.cancel()
    await asyncio.wait([calling])


async def stream_closed(durable: Durable, thread_id: str) -> None:
    async with durable.run(thread_id, "story") as run, aclosing(run.astream(INPUT)) as chunks:
        async for _ in chunks:
            break


async def asks(durable: Durable, thread_id: str) -> None:
    async with durable.run(thread_id, asking()) as run:
        await run.ainvoke(INPUT)


async def failed(durable: Durable, thread_id: str) -> None:
    async def fail(step: str) -> None:
        if step == "weigh":
            raise ConnectionError("no scales")

    with pytest.raises(ConnectionError):
        async with durable.run(thread_id, four_nodes(fail)) as run:
            await run.ainvoke(INPUT)
    await write(durable, thread_id, graph="story")


async def drained(durable: Durable, thread_id: str) -> None:
    await at_a_gate(durable, thread_id)
    await write(durable, thread_id, status_reason="drained")


async def crashed(durable: Durable, thread_id: str) -> None:
    await at_a_gate(durable, thread_id)
    await write(durable, thread_id, status="running", status_reason=None, finished_at=None)


async def plain_failed(durable: Durable, thread_id: str) -> None:
    async def fail(step: str) -> None:
        if step == "weigh":
            raise ConnectionError("no scales")

    async with AsyncPostgresSaver.from_conn_string(durable.dsn.conninfo) as saver:
        with pytest.raises(ConnectionError):
            graph = four_nodes(fail).compile(checkpointer=saver)
            await graph.ainvoke(INPUT, {"configurable": {"thread_id": thread_id}})


async def write(durable: Durable, thread_id: str, **columns: Any) -> None:
    """What the ledger would say of a process that ended otherwise."""
    settings = ", ".join(f"{column} = %s" for column in columns)
    async with await psycopg.AsyncConnection.connect(
        durable.dsn.conninfo, autocommit=True
    ) as connection:
        query = f"UPDATE aiodurable_runs SET {settings} WHERE thread_id = %s"
        await connection.execute(query.encode(), [*columns.values(), thread_id])


STOPPED: list[Make] = [at_a_gate, after_a_gate, plain_at_a_gate, cancelled, stream_closed, asks]
LEFT: list[Make] = [failed, drained, crashed]


@pytest.fixture
async def durable(dsn: str) -> AsyncIterator[Durable]:
    async with Durable(dsn, graphs={"story": four_nodes()}) as opened:
        yield opened


@pytest.mark.parametrize("make", STOPPED, ids=lambda make: make.__name__)
async def test_what_stopped_on_purpose_is_not_found_and_not_resumed(
    durable: Durable, make: Make
) -> None:
    await make(durable, "t")
    before = await durable.threads.status("t")
    assert not await needs_resume("t", durable=durable)
    assert [thread async for thread in durable.threads.resumable()] == []
    with pytest.raises((ThreadPausedError, ThreadInterruptedError)) as refused:
        await durable.threads.resume("t", four_nodes())
    after = await durable.threads.status("t")
    assert (after.checkpoint_id, after.status) == (before.checkpoint_id, before.status)
    if isinstance(refused.value, ThreadPausedError):
        assert (refused.value.reason, refused.value.pending) == (before.reason, before.pending)


@pytest.mark.parametrize(
    "make", [at_a_gate, plain_at_a_gate, cancelled, stream_closed], ids=lambda make: make.__name__
)
async def test_a_person_takes_a_thread_past_its_gate(durable: Durable, make: Make) -> None:
    await make(durable, "t")
    assert (await durable.threads.resume("t", four_nodes(), past_gate=True))["words"] == list(STEPS)


@pytest.mark.parametrize("make", [*LEFT, plain_failed], ids=lambda make: make.__name__)
async def test_what_was_left_is_found_and_resumed(durable: Durable, make: Make) -> None:
    await make(durable, "t")
    assert await needs_resume("t", durable=durable)
    assert [thread.thread_id async for thread in durable.threads.resumable()] == ["t"]
    assert (await durable.threads.resume("t", four_nodes()))["words"] == list(STEPS)
    assert [thread async for thread in durable.threads.resumable()] == []


async def test_a_thread_that_came_to_a_gate_after_it_was_found_is_left_alone(
    durable: Durable,
) -> None:
    await failed(durable, "t")
    [found] = [thread async for thread in durable.threads.resumable()]
    async with durable.run("t", "story") as run:  # somebody was faster
        await run.ainvoke(interrupt_before=["tell"])
    with pytest.raises(ThreadPausedError, match="tell"):
        await durable.threads.resume(found.thread_id)


async def test_a_thread_that_is_held_is_not_among_those_that_may_go_on(durable: Durable) -> None:
    await crashed(durable, "t")
    async with durable.hold("t"):
        assert [thread async for thread in durable.threads.resumable()] == []


async def test_why_a_thread_is_paused_can_be_filtered(durable: Durable) -> None:
    for make in (*STOPPED, *LEFT):
        await make(durable, make.__name__)

    async def found(**filters: Any) -> set[str]:
        return {thread.thread_id async for thread in durable.threads.search(**filters)}

    assert await found(reason=PauseReason.BREAKPOINT) == {"at_a_gate", "after_a_gate"}
    assert await found(reason="cancelled") == {"cancelled"}
    assert await found(reason="cancelled", status="failed") == set()
    assert await found(doubtful=True) == {"plain_at_a_gate"}
    assert await found(doubtful=False, status="crashed") == {"crashed"}
    assert await found(resumable=True) == {"failed", "drained", "crashed"}
    assert (await durable.threads.count(resumable=True)).total == 3
    assert (await durable.threads.search_page(reason=PauseReason.STREAM_CLOSED)).threads[
        0
    ].thread_id == "stream_closed"


async def test_the_loop_of_the_how_to_passes_no_gate_and_survives_a_thread_that_fails(
    durable: Durable,
) -> None:
    for make in (*STOPPED, *LEFT):
        await make(durable, make.__name__)
    await plain_failed(durable, "a graph nobody knows")
    before = {thread.thread_id: thread.checkpoint_id async for thread in durable.threads.search()}
    page = (REPOSITORY / "docs" / "howto" / "find-and-resume.md").read_text()
    typed = re.findall(r"^```python\n(.*?)^```$", page, re.MULTILINE | re.DOTALL)[0]
    code = compile(
        typed.replace("minutes=1", "0"), "how-to", "exec", ast.PyCF_ALLOW_TOP_LEVEL_AWAIT
    )
    await eval(code, {})
    after = {thread.thread_id: thread async for thread in durable.threads.search()}
    assert {name for name, thread in after.items() if thread.checkpoint_id != before[name]} == {
        make.__name__ for make in LEFT
    }
    assert all(after[make.__name__].status is ThreadStatus.COMPLETE for make in LEFT)


async def test_resuming_many_passes_no_gate(durable: Durable) -> None:
    for make in (*STOPPED, *LEFT):
        await make(durable, make.__name__)
    before = {thread.thread_id: thread.checkpoint_id async for thread in durable.threads.search()}
    await durable.runs.resume_many()
    after = {thread.thread_id: thread.checkpoint_id async for thread in durable.threads.search()}
    assert {name for name in after if after[name] != before[name]} == {
        make.__name__ for make in LEFT
    }


async def test_a_worker_touches_nothing_that_stopped_on_purpose(durable: Durable) -> None:
    for make in STOPPED:
        await make(durable, make.__name__)
    before = {thread.thread_id: thread.checkpoint_id async for thread in durable.threads.search()}
    async with durable.work() as worker:
        created = await durable.runs.create("other", "story", INPUT)
        await durable.runs.wait(created.run_id, timeout=60)
        assert worker.health().healthy
    after = {thread.thread_id: thread.checkpoint_id async for thread in durable.threads.search()}
    assert {name for name in after if after[name] != before.get(name)} == {"other"}


async def test_workers_execute_each_run_once(dsn: str) -> None:
    started: list[str] = []

    def observe(event: object) -> None:
        if isinstance(event, AttemptStarted):
            started.append(event.thread_id)

    async with contextlib.AsyncExitStack() as stack:
        durables = [
            await stack.enter_async_context(
                Durable(dsn, graphs={"story": four_nodes()}, observers=[inline(observe)])
            )
            for _ in range(3)
        ]
        for durable in durables:
            await stack.enter_async_context(durable.work())
        created = [
            await durables[0].runs.create(f"t{number}", "story", INPUT) for number in range(30)
        ]
        for run in created:
            await durables[0].runs.wait(run.run_id, timeout=60)
    assert sorted(started) == sorted(f"t{number}" for number in range(30))
