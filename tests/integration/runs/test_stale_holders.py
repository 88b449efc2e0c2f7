"""The ledger believes only the lease that the thread's fence names: its token, and its id.

A failover or a crash can undo a token and give it out again, and a removal makes tokens start
again. An earlier holder of the thread then has the same token, but another lease id.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any

import asyncpg
import pytest

from aiodurable.checkpoints.fences import Fence
from aiodurable.dsn import parse_dsn
from aiodurable.durable import Durable
from aiodurable.errors import InvalidArgumentError, LeaseLostError, LockTimeoutError
from aiodurable.lock_keys import new_lease_id
from aiodurable.models import RunStatus
from aiodurable.postgres.sql import load
from aiodurable.runs import ledger as ledger_module
from aiodurable.runs.answer_rows import AnswerRows
from aiodurable.runs.attempt_opener import AttemptOpener
from aiodurable.runs.ledger import Ledger as RunLedger
from tests.support.graphs import INPUT, STEPS, Gate, asking, four_nodes, run_up_to
from tests.support.internals import services_of
from tests.support.ledger_view import Ledger
from tests.support.waiting import wait_until, within

ACCEPTED: dict[str, Any] = {
    "graph": None,
    "input": INPUT,
    "context": None,
    "base_checkpoint_id": None,
}
OUTCOME: dict[str, Any] = {"error": None, "reason": None, "checkpoint_id": None}
CHECKPOINTS = load("checkpoints")


@pytest.fixture
def runs(durable: Durable) -> RunLedger:
    return services_of(durable).ledger


async def leased(durable: Durable, thread_id: str = "t") -> Fence:
    return await services_of(durable).checkpoints.new_fence(thread_id)


async def given_out_again(db: asyncpg.Connection, fence: Fence) -> Fence:
    """The token of this fence, given out again to a new holder, as after a failover that lost the
    first commit.
    """
    holder = Fence(fence.thread_id, fence.token, new_lease_id())
    update = "UPDATE aiodurable_fences SET lease_id = $1 WHERE thread_id = $2"
    await db.execute(update, holder.lease_id, fence.thread_id)
    return holder


async def removed(db: asyncpg.Connection, thread_id: str = "t") -> None:
    async with db.transaction():
        for statement in ("delete_threads", "raise_removed"):
            await db.execute(CHECKPOINTS[statement], [thread_id])


async def start(runs: RunLedger, fence: Fence) -> Any:
    return await runs.start("late", fence=fence, closing=RunStatus.SUPERSEDED, **ACCEPTED)


async def start_over(runs: RunLedger, fence: Fence) -> Any:
    return await runs.start("late", fence=fence, closing=RunStatus.COMPLETE, **ACCEPTED)


async def retry(runs: RunLedger, fence: Fence) -> Any:
    return await runs.retry("R", fence=fence)


async def answer(runs: RunLedger, fence: Fence) -> Any:
    return await runs.answers.store(
        "R", fence=fence, new={"id": 1}, all={"id": 1}, closed=["digest"]
    )


async def answers_over(runs: RunLedger, fence: Fence) -> Any:
    await runs.answers.over("R", fence=fence, withdrawn=["asked"])


async def finish(runs: RunLedger, fence: Fence) -> Any:
    return await runs.finish("R", fence=fence, status=RunStatus.FAILED, **OUTCOME)


async def complete(runs: RunLedger, fence: Fence) -> Any:
    return await runs.complete("R", fence=fence, checkpoint_id="1")


async def end(runs: RunLedger, fence: Fence) -> Any:
    return (await runs.end("R", fence=fence, consumed=True))[1] or None


async def complete_by_tables(runs: RunLedger, fence: Fence) -> Any:
    return await runs.complete_by_tables("R", fence=fence, checkpoint_id="1") or None


async def settle_cancelled(runs: RunLedger, fence: Fence) -> Any:
    return await runs.settle_cancelled("R", fence=fence, checkpoint_id="1") or None


COMPLETE = """
    INSERT INTO checkpoints (thread_id, checkpoint_id, checkpoint, metadata)
    VALUES ('t', '1', '{"v": 4, "ts": "2026-01-01T00:00:00Z", "updated_channels": [], "channel_versions": {}}',
            '{"step": 1, "source": "loop", "aiodurable_run_id": "R"}')
"""
Write = Callable[[RunLedger, Fence], Awaitable[Any]]


@pytest.mark.parametrize("write", [start, start_over, retry, answer])
async def test_a_holder_whose_token_was_given_out_again_begins_nothing_and_closes_nothing(
    durable: Durable, runs: RunLedger, ledger: Ledger, db: asyncpg.Connection, write: Write
) -> None:
    stale = await leased(durable)
    holder = await given_out_again(db, stale)
    await runs.start("R", fence=holder, closing=None, **ACCEPTED)
    before = await ledger.rows("t")
    with pytest.raises(LeaseLostError) as refused:
        await write(runs, stale)
    assert refused.value.taken_over
    assert stale.revoked
    assert await ledger.rows("t") == before


@pytest.mark.parametrize(
    "write", [finish, complete, end, answers_over, complete_by_tables, settle_cancelled]
)
async def test_a_holder_whose_token_was_given_out_again_records_nothing_of_the_run(
    durable: Durable, runs: RunLedger, ledger: Ledger, db: asyncpg.Connection, write: Write
) -> None:
    stale = await leased(durable)
    holder = await given_out_again(db, stale)
    await runs.start("R", fence=holder, closing=None, **ACCEPTED)
    await runs.answers.store("R", fence=holder, new={"asked": 1}, all={"asked": 1}, closed=[])
    await db.execute(COMPLETE)
    before = await ledger.rows("t")
    assert await write(runs, stale) is None
    assert await ledger.rows("t") == before
    recorded = await write(runs, holder)
    assert recorded is not None or write is answers_over
    assert await ledger.rows("t") != before


async def test_an_old_and_a_new_holder_that_write_in_one_statement_stay_apart(
    durable: Durable, runs: RunLedger, db: asyncpg.Connection
) -> None:
    stale = await leased(durable)
    holder = await given_out_again(db, stale)
    await runs.start("R", fence=holder, closing=None, **ACCEPTED)
    first = asyncio.create_task(
        finish(runs, await leased(durable, "another"))
    )  # both wait for its answer
    late, right = await asyncio.gather(finish(runs, stale), finish(runs, holder))
    assert (late, right is not None, await first) == (None, True, None)


@pytest.mark.parametrize("left", [None, "running", "failed"])
async def test_a_holder_of_a_deleted_thread_begins_no_run(
    durable: Durable, runs: RunLedger, ledger: Ledger, db: asyncpg.Connection, left: str | None
) -> None:
    stale = await leased(durable)
    if left is not None:
        await runs.start("R", fence=stale, closing=None, **ACCEPTED)
    if left == "failed":
        await finish(runs, stale)
    await removed(db)
    with pytest.raises(LeaseLostError, match="removed"):
        await start(runs, stale)
    again = Fence("t", *stale.standing)
    with pytest.raises(LeaseLostError, match="removed"):
        await retry(runs, again)
    assert await ledger.rows("t") == []


async def test_a_run_that_is_started_while_its_thread_is_being_deleted_is_not_left_behind(
    durable: Durable, runs: RunLedger, ledger: Ledger, db: asyncpg.Connection, dsn: str
) -> None:
    """The statement has seen the fence as it was, and waits for the row of the run before, which
    goes.
    """
    direct = services_of(durable).checkpoints.direct
    stale = await leased(durable)
    await runs.start("R", fence=stale, closing=None, **ACCEPTED)
    watcher = await asyncpg.connect(**parse_dsn(dsn).asyncpg)
    waits = (
        "SELECT count(*) FROM pg_stat_activity WHERE datname = current_database()"
        " AND wait_event_type = 'Lock' AND application_name LIKE '%runs@%'"
    )

    async def tried() -> bool:
        return direct.sent >= sent + 2 or await watcher.fetchval(waits)

    async with db.transaction():
        await db.execute(CHECKPOINTS["hold_fences"], ["t"])
        await db.execute(CHECKPOINTS["delete_threads"], ["t"])
        sent = direct.sent
        starting = asyncio.create_task(start(runs, stale))
        await wait_until(tried, what="the start to come upon the deletion")
        await db.execute(CHECKPOINTS["raise_removed"], ["t"])
    with pytest.raises(LeaseLostError, match="removed"):
        await starting
    assert await ledger.rows("t") == []
    await watcher.close()


async def test_a_fence_that_somebody_has_locked_holds_up_its_own_thread_alone(
    durable: Durable, runs: RunLedger, ledger: Ledger, db: asyncpg.Connection
) -> None:
    direct = services_of(durable).checkpoints.direct
    fence, other = await leased(durable), await leased(durable, "other")
    async with db.transaction():
        await db.execute(CHECKPOINTS["hold_fences"], ["t"])
        sent = direct.sent
        starting = asyncio.create_task(start(runs, fence))
        await wait_until(lambda: direct.sent >= sent + 2, what="a second try")
        await within(30, runs.start("O", fence=other, closing=None, **ACCEPTED))
        assert not starting.done()
    record, blank = await starting
    assert (record.run_id, record.attempts, blank) == ("late", 1, True)
    assert await ledger.statuses("t") == ["running"]


async def test_a_fence_that_stays_locked_is_an_error_that_says_where_to_look(
    durable: Durable,
    runs: RunLedger,
    ledger: Ledger,
    db: asyncpg.Connection,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(ledger_module, "PATIENCE_S", 0.05)
    fence = await leased(durable)
    async with db.transaction():
        await db.execute(CHECKPOINTS["hold_fences"], ["t"])
        with pytest.raises(LockTimeoutError, match="pg_stat_activity"):
            await start(runs, fence)
    assert not fence.revoked
    assert await ledger.rows("t") == []


async def test_a_run_id_that_is_taken_is_an_error_of_the_caller_not_of_the_lease(
    durable: Durable, runs: RunLedger, ledger: Ledger
) -> None:
    fence, other = await leased(durable), await leased(durable, "other")
    await runs.start("late", fence=other, closing=None, **ACCEPTED)
    with pytest.raises(InvalidArgumentError, match="another run has this id"):
        await start(runs, fence)
    assert not fence.revoked
    assert await ledger.rows("t") == []


@pytest.mark.parametrize("happens", ["given out again", "removed"])
async def test_a_call_under_such_a_lease_says_that_it_was_lost_and_leaves_the_ledger_alone(
    durable: Durable, ledger: Ledger, db: asyncpg.Connection, happens: str
) -> None:
    async with durable.run("t", four_nodes()) as run:
        await run.ainvoke(INPUT)
    before = await ledger.rows("t")

    async def call() -> None:
        async with durable.run("t", four_nodes()) as run:
            if happens == "removed":
                await removed(db)
            else:
                await given_out_again(db, run.lease.fence)
            await run.ainvoke(INPUT)

    with pytest.raises(LeaseLostError):
        await call()
    assert await ledger.rows("t") == ([] if happens == "removed" else before)


@pytest.mark.parametrize("happens", ["given out again", "removed"])
async def test_a_resumption_under_such_a_lease_says_that_it_was_lost(
    durable: Durable,
    ledger: Ledger,
    db: asyncpg.Connection,
    monkeypatch: pytest.MonkeyPatch,
    happens: str,
) -> None:
    """It happens between the checks of a resumption and the row: no earlier statement refuses
    it.
    """

    async def broken(step: str) -> None:
        raise ValueError("broken")

    with pytest.raises(ValueError, match="broken"):
        async with durable.run("t", four_nodes(broken)) as run:
            await run.ainvoke(INPUT)
    before, original = await ledger.rows("t"), RunLedger.retry

    async def late(self: RunLedger, run_id: str, **options: Any) -> Any:
        await (removed(db) if happens == "removed" else given_out_again(db, options["fence"]))
        return await original(self, run_id, **options)

    with monkeypatch.context() as patched:
        patched.setattr(RunLedger, "retry", late)
        with pytest.raises(LeaseLostError):
            await durable.threads.resume("t", four_nodes())
    assert await ledger.rows("t") == ([] if happens == "removed" else before)
    if happens != "removed":
        assert (await durable.threads.resume("t", four_nodes()))["words"] == list(STEPS)


async def test_an_answer_under_such_a_lease_reaches_no_question(
    durable: Durable, ledger: Ledger, db: asyncpg.Connection, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with durable.run("t", asking()) as run:
        await run.ainvoke(INPUT)
    original = AnswerRows.store

    async def late(self: AnswerRows, run_id: str, **options: Any) -> Any:
        await given_out_again(db, options["fence"])
        return await original(self, run_id, **options)

    async def answered() -> Any:
        async with durable.run("t", asking()) as run:
            return await run.answer("upon")

    with monkeypatch.context() as patched:
        patched.setattr(AnswerRows, "store", late)
        with pytest.raises(LeaseLostError):
            await answered()
    [row] = await ledger.rows("t")
    assert row["answered"] == {}
    assert (await answered())["words"] == ["collect", "upon"]


async def test_cancel_keeps_waiting_after_another_lease_came_between(
    durable: Durable,
    runs: RunLedger,
    ledger: Ledger,
    db: asyncpg.Connection,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The run of a dead process is settled under a lease of the canceller's own, which is lost as
    well.
    """
    await runs.start("R", fence=await leased(durable), closing=None, **ACCEPTED)
    original, settled = RunLedger.settle_cancelled, list[bool]()

    async def late(self: RunLedger, run_id: str, **options: Any) -> bool:
        if not settled:
            await given_out_again(db, options["fence"])
        settled.append(await original(self, run_id, **options))
        return settled[-1]

    monkeypatch.setattr(RunLedger, "settle_cancelled", late)
    assert await durable.threads.cancel("t", wait=True, timeout=10.0)
    assert settled == [False, True]
    assert await ledger.statuses("t") == ["paused"]


async def test_a_fork_whose_lease_was_lost_leaves_no_run(
    durable: Durable, ledger: Ledger, db: asyncpg.Connection, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with durable.run("t", four_nodes()) as run:
        await run.ainvoke(INPUT, interrupt_before=["weigh"])
    status = services_of(durable).threads.status

    async def late(thread_id: str, **options: Any) -> Any:
        found = await status(thread_id, **options)
        if thread_id == "f":
            await given_out_again(db, Fence("f", 1))
        return found

    with monkeypatch.context() as patched:
        patched.setattr(services_of(durable).threads, "status", late)
        with pytest.raises(LeaseLostError):
            await durable.threads.fork("t", "f")
    assert await ledger.rows("f") == []
    assert (await durable.threads.fork("t", "f")).pending == ("weigh",)


async def test_work_that_plain_langgraph_left_is_adopted_by_the_holder_alone(
    durable: Durable, ledger: Ledger, db: asyncpg.Connection, monkeypatch: pytest.MonkeyPatch
) -> None:
    saver = services_of(durable).checkpoints.get_checkpointer()
    plain = four_nodes().compile(saver)
    await plain.ainvoke(INPUT, {"configurable": {"thread_id": "t"}}, interrupt_before=["weigh"])
    original = AttemptOpener.start

    async def late(*args: Any, **options: Any) -> Any:
        session = services_of(durable).checkpoints.sessions.of("t")
        assert session is not None
        await given_out_again(db, session.fence)
        return await original(*args, **options)

    with monkeypatch.context() as patched:
        patched.setattr(AttemptOpener, "start", late)
        with pytest.raises(LeaseLostError):
            async with durable.run("t", four_nodes()) as run:
                await run.ainvoke()
    assert await ledger.rows("t") == []
    async with durable.run("t", four_nodes()) as run:
        assert (await run.ainvoke())["words"] == list(STEPS)
    assert await ledger.statuses("t") == ["complete"]


async def test_a_run_at_work_ends_without_an_outcome_where_its_token_was_given_out_again(
    durable: Durable, ledger: Ledger, db: asyncpg.Connection
) -> None:
    gate = Gate("tell")
    task = await run_up_to(gate, durable)
    session = services_of(durable).checkpoints.sessions.of("t")
    assert session is not None
    await given_out_again(db, session.fence)
    gate.open.set()
    with pytest.raises(LeaseLostError):
        await task
    assert await ledger.statuses("t") == ["running"]
