"""A run can be ended from anywhere: by a column of the ledger, which a NOTIFY only hurries."""

from __future__ import annotations

import asyncio
import contextlib
import signal
from asyncio.subprocess import PIPE
from collections.abc import AsyncIterator
from contextlib import aclosing
from typing import Any

import psycopg
import pytest
from click.testing import CliRunner
from langgraph.config import get_stream_writer

from aiodurable.cli.commands import cli
from aiodurable.current import needs_resume
from aiodurable.durable import Durable
from aiodurable.errors import (
    InvalidArgumentError,
    RunCancelledError,
    ThreadNotFoundError,
    ThreadPausedError,
)
from aiodurable.models import PauseReason, ThreadStatus
from aiodurable.runs import cancellation
from aiodurable.settings import Settings
from tests.programs import PROGRAMS
from tests.support.checkpoint_rows import written
from tests.support.forked import Process, python
from tests.support.graphs import INPUT, STEPS, Gate, four_nodes
from tests.support.ledger_view import Ledger
from tests.support.waiting import until_free, wait_until, within

PROGRAM = PROGRAMS / "hung_process.py"
OFTEN = Settings(lease_ttl_s=3, lease_heartbeat_s=0.2, lease_safety_margin_s=0.5)


@pytest.fixture
async def hung(dsn: str) -> AsyncIterator[Process]:
    """A process whose run of thread "t" hangs in its third node."""
    process = await python(PROGRAM, dsn, "t", stdout=PIPE)
    assert process.stdout is not None
    assert (
        await within(120, process.stdout.readline(), what="the other process to hang in its node")
        == b"hung\n"
    )
    yield process
    await process.end()


async def test_a_run_that_hangs_in_another_process_is_ended_and_settled(
    hung: Process, durable: Durable
) -> None:
    assert await within(
        30, durable.threads.cancel("t", wait=True), what="the end, before a heartbeat: by NOTIFY"
    )
    output, _ = await hung.communicate()
    assert output == b"RunCancelledError\n"
    thread = await durable.threads.status("t")
    assert (thread.status, thread.reason, thread.pending) == (
        ThreadStatus.PAUSED,
        PauseReason.CANCELLED,
        ("weigh",),
    )
    assert not await needs_resume("t", durable=durable)
    with pytest.raises(ThreadPausedError):
        await durable.threads.resume("t", four_nodes())
    async with durable.run("t", four_nodes()) as run:  # a person goes on
        assert (await run.ainvoke())["words"] == list(STEPS)


async def test_the_caller_of_cancel_settles_the_run_of_a_killed_process(
    hung: Process, durable: Durable
) -> None:
    hung.kill()
    await hung.wait()
    assert await durable.threads.cancel("t", wait=True, timeout=30)
    thread = await durable.threads.status("t")
    assert (thread.status, thread.reason) == (ThreadStatus.PAUSED, PauseReason.CANCELLED)
    assert thread.holder is None


async def test_a_process_that_dies_after_the_request_leaves_a_cancelled_thread(
    hung: Process, durable: Durable
) -> None:
    """Nobody is left to settle the row: the request alone says that only a person goes on."""
    hung.send_signal(signal.SIGSTOP)  # it sees nothing
    await durable.threads.cancel("t")
    hung.kill()
    await hung.wait()

    async def gone() -> bool:
        return (await durable.threads.status("t")).status is not ThreadStatus.RUNNING

    await wait_until(gone, 30)
    thread = await durable.threads.status("t")
    assert (thread.status, thread.reason) == (ThreadStatus.PAUSED, PauseReason.CANCELLED)
    assert [thread async for thread in durable.threads.resumable()] == []
    async with durable.run("t", four_nodes()) as run:
        assert (await run.ainvoke())["words"] == list(STEPS)


async def test_a_command_ends_it_too(hung: Process, dsn: str) -> None:
    result = await asyncio.to_thread(
        CliRunner().invoke, cli, ["threads", "cancel", "t", "--wait", "--dsn", dsn]
    )
    assert (result.exit_code, result.stdout) == (0, "cancelled: t\n")
    again = await asyncio.to_thread(
        CliRunner().invoke, cli, ["threads", "cancel", "t", "--dsn", dsn]
    )
    assert again.exit_code == 1


async def test_a_request_that_nobody_was_notified_of_is_seen_at_the_next_heartbeat(
    dsn: str,
) -> None:
    gate = Gate("weigh")
    async with Durable(dsn, settings=OFTEN) as durable:
        call = asyncio.create_task(run_through(durable, gate))
        await within(60, gate.reached.wait(), what="the run to be in the node")
        async with await psycopg.AsyncConnection.connect(dsn, autocommit=True) as connection:
            await connection.execute("UPDATE aiodurable_runs SET cancel_requested_at = now()")
        with pytest.raises(RunCancelledError) as cancelled:
            await within(30, call, what="the cancelled run to end")
    assert cancelled.value.thread_id == "t"
    assert cancelled.value.requested_at is not None


async def run_through(durable: Durable, before_step: Any) -> Any:
    async with durable.run("t", four_nodes(before_step)) as run:
        return await run.ainvoke(INPUT)


async def test_a_run_whose_node_swallows_its_cancellation_is_over_without_it(
    dsn: str,
) -> None:
    """It is recorded, another run may go on, and what the node still writes is refused."""
    begun, done = asyncio.Event(), asyncio.Event()

    async def stubborn(step: str) -> None:
        if step == "sort":
            begun.set()
            while not done.is_set():
                with contextlib.suppress(asyncio.CancelledError):
                    await done.wait()

    async with Durable(dsn, settings=OFTEN) as durable:
        try:
            call = asyncio.create_task(run_through(durable, stubborn))
            await within(60, begun.wait(), what="the run to be in the node")
            assert await durable.threads.cancel("t", wait=True, timeout=30)
            await until_free(durable, "t")
            thread = await durable.threads.status("t")
            assert (thread.status, thread.reason) == (ThreadStatus.PAUSED, PauseReason.CANCELLED)
            assert not call.done()
            async with durable.run("t", four_nodes()) as run:
                assert (await run.ainvoke())["words"] == list(STEPS)
            before = await written(dsn)
        finally:
            done.set()  # nothing else ends it
        with pytest.raises(RunCancelledError):
            await within(30, call, what="the cancelled run to end")
        assert call.cancelling() == 0
        assert await written(dsn) == before


async def test_somebody_elses_cancellation_stays_theirs(durable: Durable) -> None:
    gate = Gate("weigh")
    call = asyncio.create_task(run_through(durable, gate))
    await within(60, gate.reached.wait(), what="the run to be in the node")
    await durable.threads.cancel("t")
    call.cancel()
    with pytest.raises((asyncio.CancelledError, RunCancelledError)):
        await call
    assert (await durable.threads.status("t")).status is ThreadStatus.PAUSED


async def test_the_body_goes_on_after_its_run_was_cancelled(durable: Durable) -> None:
    gate = Gate("weigh")

    async def call() -> ThreadStatus:
        async with durable.run("t", four_nodes(gate)) as run:
            with pytest.raises(RunCancelledError):
                await run.ainvoke(INPUT)
            await asyncio.sleep(0)  # the task itself is not cancelled
            return run.checkpoint.status

    calling = asyncio.create_task(call())
    await within(60, gate.reached.wait(), what="the run to be in the node")
    assert await durable.threads.cancel("t", wait=True, timeout=30)
    assert await calling is ThreadStatus.PAUSED


async def test_a_cancelled_run_that_a_person_lets_go_on_is_not_cancelled_again(
    durable: Durable, ledger: Ledger
) -> None:
    """A poll that reads the requests at that moment finds none."""

    async def call(before_step: Gate, given: Any) -> Any:
        async with durable.run("t", four_nodes(before_step)) as run:
            return await run.ainvoke(given)

    for step, given in (("weigh", INPUT), ("tell", None)):
        gate = Gate(step)
        calling = asyncio.create_task(call(gate, given))
        await within(60, gate.reached.wait(), what=f"the run to be in {step}")
        assert [row["cancel_requested_at"] for row in await ledger.rows("t")] == [None]
        if step == "weigh":
            assert await durable.threads.cancel("t", wait=True, timeout=30)
            with pytest.raises(RunCancelledError):
                await calling
    gate.open.set()
    assert (await calling)["words"] == list(STEPS)


async def test_a_stream_that_its_consumer_holds_back_is_cancelled_too(durable: Durable) -> None:
    gate = Gate("weigh")
    with pytest.raises(RunCancelledError):
        async with (
            durable.run("t", four_nodes(gate)) as run,
            aclosing(run.astream(INPUT)) as stream,
        ):
            async for _ in stream:
                assert await durable.threads.cancel("t")
    assert (await durable.threads.status("t")).reason == PauseReason.CANCELLED


async def test_a_consumer_that_reads_no_more_does_not_keep_the_thread_of_a_cancelled_run(
    durable: Durable, ledger: Ledger, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(cancellation, "HELD_BACK_S", 0.1)
    holds, goes_on, node_ended = asyncio.Event(), asyncio.Event(), asyncio.Event()

    async def tell_and_hang(step: str) -> None:
        get_stream_writer()(step)
        try:
            await asyncio.Event().wait()
        finally:
            node_ended.set()

    async def read() -> None:
        async with (
            durable.run("t", four_nodes(tell_and_hang)) as run,
            aclosing(run.astream(INPUT, stream_mode="custom")) as stream,
        ):
            async for _ in stream:
                holds.set()
                await goes_on.wait()

    reading = asyncio.create_task(read())
    await within(60, holds.wait(), what="the first chunk")
    async with durable.run("t", four_nodes(), on_busy="interrupt", timeout=20) as run:
        assert (await run.ainvoke(INPUT))["words"] == list(STEPS)
    assert [row["status"] for row in await ledger.rows("t")] == ["superseded", "complete"]
    await within(20, node_ended.wait(), what="the end of the node")
    goes_on.set()
    with pytest.raises(RunCancelledError):
        await within(20, reading, what="the end of the stream")
    assert await ledger.statuses("t") == ["superseded", "complete"]


async def test_where_nothing_is_at_work_nothing_is_cancelled(durable: Durable) -> None:
    with pytest.raises(ThreadNotFoundError):
        await durable.threads.cancel("nobody")
    await run_through(durable, None)
    assert not await durable.threads.cancel("t", wait=True)
    async with durable.hold("t"):
        assert not await durable.threads.cancel("t", wait=True)
    assert (await durable.threads.status("t")).status is ThreadStatus.COMPLETE
    with pytest.raises(InvalidArgumentError, match="wait=True"):
        await durable.threads.cancel("t", timeout=5)


async def test_a_run_that_completes_meanwhile_is_complete(
    durable: Durable, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(cancellation, "PATIENCE_S", 60.0)  # its last checkpoint may take long
    gate = Gate("tell")

    async def last(step: str) -> None:
        with contextlib.suppress(asyncio.CancelledError):  # and completes
            await gate(step)

    call = asyncio.create_task(run_through(durable, last))
    await within(60, gate.reached.wait(), what="the run to be in the node")
    assert await durable.threads.cancel("t", wait=True, timeout=30)
    assert (await call)["words"] == list(STEPS)
    assert (await durable.threads.status("t")).status is ThreadStatus.COMPLETE
