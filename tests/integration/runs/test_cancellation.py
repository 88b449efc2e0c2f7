"""A run that is cancelled at any moment, entering, running or leaving, leaves no lock, no open row
and no lie.
"""

from __future__ import annotations

import asyncio
from contextlib import aclosing

import psycopg
import pytest

from aiodurable import Durable, ThreadPausedError, ThreadStatus, WorkflowCheckpoint
from aiodurable.models import PauseReason
from tests.support.graphs import INPUT, STEPS, Gate, four_nodes, run_up_to
from tests.support.ledger_view import Ledger
from tests.support.waiting import wait_until


async def locks_held(dsn: str) -> int:
    query = (
        "SELECT count(*) FROM pg_locks WHERE locktype = 'advisory' AND database = (SELECT oid FROM"
        " pg_database "
    )
    async with await psycopg.AsyncConnection.connect(dsn) as connection:
        row = await (
            await connection.execute(f"{query} WHERE datname = current_database())".encode())
        ).fetchone()
        assert row is not None
        return row[0]


async def test_a_cancellation_at_any_turn_of_the_loop_leaves_nothing_behind(
    dsn: str, ledger: Ledger
) -> None:
    builder = four_nodes()
    async with Durable(dsn, graphs={"four": builder}) as durable:

        async def body(thread_id: str) -> None:
            async with durable.run(thread_id, "four") as run:
                await run.ainvoke(INPUT)

        before = await locks_held(dsn)
        cut = 0
        for turns in range(0, 240, 4):
            thread_id = f"t{turns}"
            task = asyncio.create_task(body(thread_id))
            for _ in range(turns):
                await asyncio.sleep(0)
            task.cancel()
            await asyncio.wait({task})
            cut += task.cancelled()
            # A lock that is granted to a caller who has left goes back with the next statement of
            # its session: it may be seen for a moment, also after it was not there yet.
            status = await wait_until(
                lambda thread_id=thread_id: settled(durable, thread_id), what=f"after {turns} turns"
            )
            assert status is not None
            assert "running" not in await ledger.statuses(thread_id), f"after {turns} turns"
            if status.status is not ThreadStatus.COMPLETE:
                async with durable.run(thread_id, "four", on_busy="wait", timeout=10) as run:
                    given = None if run.status is ThreadStatus.PAUSED else INPUT
                    assert (await run.ainvoke(given))["words"] == list(STEPS), (
                        f"after {turns} turns"
                    )
        assert cut > 20
        await wait_until(lambda: nothing_more(dsn, before))


async def settled(durable: Durable, thread_id: str) -> WorkflowCheckpoint | None:
    found = await durable.threads.status(thread_id)
    ended = found.status in (ThreadStatus.NEW, ThreadStatus.PAUSED, ThreadStatus.COMPLETE)
    return found if ended and found.holder is None else None


async def nothing_more(dsn: str, before: int) -> bool:
    return await locks_held(dsn) == before


async def paused_as(durable: Durable, reason: PauseReason) -> None:
    thread = await durable.threads.status("t")
    assert (thread.status, thread.reason) == (ThreadStatus.PAUSED, reason)


async def test_a_call_that_is_repeated_by_its_run_id_goes_on_with_the_run_that_it_left(
    durable: Durable,
) -> None:
    gate = Gate(STEPS[2])
    builder = four_nodes(gate)
    task = await run_up_to(gate, durable, run_id="r")
    task.cancel()  # a timeout, a client that disconnects, a server that stops
    await asyncio.wait({task})
    await paused_as(durable, PauseReason.CANCELLED)
    gate.open.set()
    async with durable.run("t", builder) as run:  # the same input may be another message
        with pytest.raises(ThreadPausedError):
            await run.ainvoke(INPUT)
    async with durable.run("t", builder, run_id="other") as run:
        with pytest.raises(ThreadPausedError):
            await run.ainvoke(INPUT)
    async with durable.run("t", builder, run_id="r") as run:
        assert (await run.ainvoke(INPUT))["words"] == list(STEPS)
        assert run.resumed


async def test_a_stream_that_is_repeated_by_its_run_id_goes_on_where_it_was_left(
    durable: Durable,
) -> None:
    async with durable.run("t", four_nodes(), run_id="r") as run:
        async with aclosing(run.astream(INPUT)) as chunks:
            await anext(chunks)
    await paused_as(durable, PauseReason.STREAM_CLOSED)
    async with durable.run("t", four_nodes(), run_id="r") as run:
        assert (await run.ainvoke(INPUT))["words"] == list(STEPS)


async def test_a_call_that_is_repeated_does_not_go_on_with_a_run_that_a_person_ended(
    durable: Durable,
) -> None:
    gate = Gate(STEPS[2])
    builder = four_nodes(gate)
    task = await run_up_to(gate, durable, run_id="r")
    assert await durable.threads.cancel("t", wait=True)
    await asyncio.wait({task})
    await paused_as(durable, PauseReason.CANCELLED)
    gate.open.set()
    async with durable.run("t", builder, run_id="r") as run:
        with pytest.raises(ThreadPausedError):
            await run.ainvoke(INPUT)
