"""A transaction of somebody's that has locked the row of a run holds no checkpoint up, as one with
`runs.create(on_busy="interrupt", conn=…)` does until it ends.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import suppress
from typing import Any

import asyncpg
import pytest
from langgraph.graph import START, StateGraph
from langgraph.types import interrupt

from aiodurable.durable import Durable
from aiodurable.errors import LockTimeoutError
from aiodurable.postgres import locked_rows
from aiodurable.queue.new_run import NewRun
from aiodurable.settings import Settings
from tests.support.graphs import INPUT, Gate, Story, four_nodes, run_up_to
from tests.support.ledger_view import Ledger
from tests.support.lock_view import WAITING
from tests.support.waiting import wait_until, within


async def test_a_first_checkpoint_does_not_wait_for_the_row_whose_input_it_consumes(
    dsn: str, durable: Durable, ledger: Ledger
) -> None:
    gate = Gate("collect")
    connection, table = await asyncpg.connect(dsn), await asyncpg.connect(dsn)
    try:
        async with connection.transaction():
            async with table.transaction():
                await table.execute("LOCK checkpoints IN SHARE MODE")
                running = asyncio.create_task(run_up_to(gate, durable))
                await wait_until(lambda: table.fetchval(WAITING), what="the first checkpoint")
                await connection.execute("SELECT FROM aiodurable_runs FOR UPDATE")
            ended = await within(30, running, what="the first checkpoint")
            [row] = await ledger.rows("t")
            assert not row["consumed"]
            assert (await durable.threads.status("t")).step == 0
        gate.open.set()
        await within(30, ended, what="the end of the run")
    finally:
        await connection.close()
        await table.close()
    [row] = await ledger.rows("t")
    assert (row["status"], row["consumed"]) == ("complete", True)


async def test_a_last_checkpoint_does_not_wait_for_the_row_that_it_ends(
    dsn: str, durable: Durable, ledger: Ledger
) -> None:
    gate = Gate("tell")
    running = await run_up_to(gate, durable)

    async def has_ended() -> bool:
        return (await durable.threads.status("t")).step == 4

    connection = await asyncpg.connect(dsn)
    try:
        async with connection.transaction():
            await connection.execute("SELECT FROM aiodurable_runs FOR UPDATE")
            gate.open.set()
            await wait_until(has_ended, 10, what="the last checkpoint")
            assert await ledger.statuses("t") == ["running"]
        await within(30, running, what="the end of the run")
    finally:
        await connection.close()
    assert await ledger.statuses("t") == ["complete"]


WRITTEN = "SELECT count(*) FROM checkpoint_writes WHERE thread_id = 'locked'"


@pytest.mark.parametrize("ends", ["failed", "complete", "interrupted"])
async def test_the_end_of_a_run_does_not_wait_for_the_row_of_another_one(
    dsn: str, durable: Durable, ledger: Ledger, ends: str
) -> None:
    gates = {thread_id: Gate("ends") for thread_id in ("locked", "other")}

    async def run(thread_id: str) -> None:
        with suppress(Broken):
            async with durable.run(thread_id, ending(ends, gates[thread_id])) as here:
                await here.ainvoke({"words": [], "told": ""})

    running = {thread_id: asyncio.create_task(run(thread_id)) for thread_id in gates}
    connection = await asyncpg.connect(dsn)
    try:
        for gate in gates.values():
            await within(30, gate.reached.wait(), what="the node")
        async with connection.transaction():
            lock = "SELECT FROM aiodurable_runs WHERE thread_id = 'locked' FOR UPDATE"
            await connection.execute(lock)
            gates["locked"].open.set()
            await wait_until(lambda: connection.fetchval(WRITTEN), what="the first end")
            gates["other"].open.set()
            await within(15, running["other"], what="the other end")
            assert await ledger.statuses("other") == [ends]
            assert await ledger.statuses("locked") == ["running"]
        await within(30, running["locked"], what="the first end")
        assert await ledger.statuses("locked") == [ends]
    finally:
        await connection.close()


async def test_the_start_of_a_run_does_not_wait_for_the_earlier_run_of_another_thread(
    dsn: str, durable: Durable, ledger: Ledger
) -> None:
    fails, goes = Gate("nowhere"), four_nodes()
    with pytest.raises(Broken):
        async with durable.run("locked", ending("failed", fails)) as here:
            await here.ainvoke({"words": [], "told": ""})

    async def restart() -> None:
        async with durable.run("locked", goes) as here:
            await here.ainvoke(INPUT, on_unfinished="restart")

    token = "SELECT token FROM aiodurable_fences WHERE thread_id = 'locked'"
    connection = await asyncpg.connect(dsn)
    try:
        before = await connection.fetchval(token)
        async with connection.transaction():
            await connection.execute("SELECT FROM aiodurable_runs FOR UPDATE")
            restarting = asyncio.create_task(restart())

            async def is_leased() -> bool:
                return await connection.fetchval(token) > before

            await wait_until(is_leased, what="the lease of the locked one")
            for number in range(3):
                async with durable.run(f"other-{number}", goes) as here:
                    await within(15, here.ainvoke(INPUT), what="another thread's run")
            assert await ledger.statuses("locked") == ["failed"]
        await within(30, restarting, what="the run that waited")
    finally:
        await connection.close()
    assert sorted(await ledger.statuses("locked")) == ["complete", "superseded"]


async def retries(durable: Durable, thread_id: str, run_id: str) -> None:
    await durable.runs.retry(run_id)


async def cancels(durable: Durable, thread_id: str, run_id: str) -> None:
    await durable.runs.cancel(run_id)


async def signals(durable: Durable, thread_id: str, run_id: str) -> None:
    await durable.threads.signal(thread_id, "go")


async def answers(durable: Durable, thread_id: str, run_id: str) -> None:
    async with durable.run(thread_id, "interrupted") as run:
        await run.answer("yes")


async def resumes(durable: Durable, thread_id: str, run_id: str) -> None:
    with suppress(Broken):
        await durable.threads.resume(thread_id)


async def stops(durable: Durable, thread_id: str, run_id: str) -> None:
    await durable.threads.cancel(thread_id)


async def interrupts(durable: Durable, thread_id: str, run_id: str) -> None:
    async with durable.run(thread_id, "failed", on_busy="interrupt"):
        pass


async def rolls_back(durable: Durable, thread_id: str, run_id: str) -> None:
    async with durable.run(thread_id, "failed", on_busy="rollback"):
        pass


async def accepts(durable: Durable, thread_id: str, run_id: str) -> None:
    await durable.runs.create(thread_id, "failed", INPUT, on_busy="interrupt")


async def accepts_many(durable: Durable, thread_id: str, run_id: str) -> None:
    new = NewRun(thread_id=thread_id, graph="failed", input=INPUT, on_busy="rollback")
    await durable.runs.create_many([new])


async def deletes(durable: Durable, thread_id: str, run_id: str) -> None:
    await durable.threads.delete(thread_id)


ACTS = {
    interrupts: "failed",
    accepts: "failed",
    accepts_many: "failed",
    deletes: "failed",
    retries: "failed",
    cancels: "failed",
    stops: "failed",
    resumes: "failed",
    signals: "interrupted",
    answers: "interrupted",
}
"""What changes the row of a run, and how that run has ended."""


@pytest.fixture
async def ended(dsn: str) -> AsyncIterator[Durable]:
    """One with two connections in its pool, as many as statements of every run have."""
    graphs = {how: ending(how, Gate("nowhere")) for how in ACTS.values()}
    async with Durable(dsn, graphs=graphs, settings=Settings(pool_max_size=2)) as opened:
        yield opened


@pytest.mark.parametrize("act", ACTS)
async def test_what_changes_a_locked_row_holds_up_no_other_thread(
    dsn: str, ended: Durable, ledger: Ledger, act: Callable[..., Awaitable[None]]
) -> None:
    run_ids = {f"locked-{n}": await end(ended, ledger, f"locked-{n}", ACTS[act]) for n in (0, 1)}
    connection = await asyncpg.connect(dsn)
    acting = list[asyncio.Task[None]]()
    try:
        async with connection.transaction():
            await connection.execute("SELECT FROM aiodurable_runs FOR UPDATE")
            acting = [asyncio.create_task(act(ended, *locked)) for locked in run_ids.items()]
            await wait_until(lambda: connection.fetchval(WAITING), what="the locked rows")
            for number in range(3):
                async with ended.run(f"other-{number}", four_nodes()) as run:
                    await within(8, run.ainvoke(INPUT), what="another thread's run")
            assert not any(task.done() for task in acting)
        await within(30, asyncio.gather(*acting), what="the end of what waited")
    finally:
        for task in acting:
            task.cancel()
        await connection.close()


@pytest.mark.parametrize("act", ACTS)
async def test_a_row_that_stays_locked_is_given_up_and_the_error_says_so(
    dsn: str,
    ended: Durable,
    ledger: Ledger,
    act: Callable[..., Awaitable[None]],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(locked_rows, "PATIENCE_S", 0.3)
    run_id = await end(ended, ledger, "locked", ACTS[act])
    locking = "SELECT FROM aiodurable_runs FOR UPDATE"
    await is_given_up(dsn, locking, lambda: act(ended, "locked", run_id))


async def is_given_up(dsn: str, locking: str, act: Callable[[], Awaitable[None]]) -> None:
    """While another session's transaction has locked rows, `act` fails and says what to look for."""
    connection = await asyncpg.connect(dsn)
    try:
        async with connection.transaction():
            await connection.execute(locking)
            with pytest.raises(LockTimeoutError, match="idle in a transaction"):
                await within(15, act(), what="the error")
    finally:
        await connection.close()


HISTORY = {
    rolls_back: "SELECT FROM checkpoints FOR UPDATE",
    deletes: "SELECT FROM aiodurable_fences FOR UPDATE",
}
"""What changes a whole thread, and a statement that locks a row of that."""


@pytest.mark.parametrize("act", HISTORY)
async def test_a_thread_of_which_a_row_stays_locked_is_left_as_it_is(
    dsn: str,
    ended: Durable,
    ledger: Ledger,
    act: Callable[..., Awaitable[None]],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(locked_rows, "PATIENCE_S", 0.3)
    run_id = await end(ended, ledger, "locked", "failed")
    await is_given_up(dsn, HISTORY[act], lambda: act(ended, "locked", run_id))
    assert (await ended.threads.status("locked")).step == 0
    await within(15, act(ended, "locked", run_id), what="the same, once nothing is locked")


async def end(durable: Durable, ledger: Ledger, thread_id: str, how: str) -> str:
    """Run a thread until it has ended in this way; a failed one is to be tried again later. Returns
    its run_id.
    """
    with suppress(Broken):
        async with durable.run(thread_id, how) as run:
            await run.ainvoke({"words": [], "told": ""})
    [row] = await ledger.rows(thread_id)
    if how == "failed":
        await durable.runs.retry(row["run_id"])
    return row["run_id"]


class Broken(Exception):
    pass


def ending(how: str, gate: Gate) -> StateGraph[Any, Any, Any, Any]:
    """A graph of one node that ends in this way, behind a gate; no checkpoint completes it alone,
    for its last step has an error that was handled, or an answer.
    """

    async def ends(state: Story) -> dict[str, Any]:
        await gate("ends")
        if how == "failed":
            raise Broken
        if how == "interrupted":
            interrupt("well?")
        return {"words": ["ends"]}

    builder = StateGraph(Story)
    builder.add_node("ends", ends)
    builder.add_edge(START, "ends")
    return builder
