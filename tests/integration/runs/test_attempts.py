"""Attempts mean tries: each keeps who made it, when, and how it ended; answers, pauses and drains
are none.
"""

from __future__ import annotations

import asyncio
import logging
from typing import Any

import pytest
from langgraph.runtime import RunControl

from aiodurable.durable import Durable
from aiodurable.errors import PostgresUnavailableError
from aiodurable.models import RunStatus, ThreadStatus
from aiodurable.runs.ledger import Ledger as RunLedger
from tests.support.graphs import INPUT, STEPS, Gate, asking, four_nodes, run_up_to
from tests.support.internals import services_of
from tests.support.ledger_view import Ledger
from tests.support.waiting import wait_until


async def test_every_attempt_keeps_its_worker_times_outcome_error_and_traceback(
    durable: Durable, ledger: Ledger
) -> None:
    async def broken(step: str) -> None:
        raise ValueError(f"{step} is broken")

    for _ in range(2):
        async with durable.run("t", four_nodes(broken), run_id="R") as run:
            with pytest.raises(ValueError, match="collect is broken"):
                await run.ainvoke(INPUT)
    await durable.threads.retry("t", four_nodes())
    [row] = await ledger.rows("t")
    assert (row["status"], row["attempts"], row["error"], row["traceback"]) == (
        "complete",
        3,
        None,
        None,
    )
    accepted = await services_of(durable).ledger.get("R")
    assert accepted is not None
    first, second = accepted.record.earlier_attempts
    for attempt in (first, second):
        assert (attempt.outcome, attempt.worker) == ("failed", row["attempted_by"])
        assert attempt.error == "ValueError('collect is broken')"
        assert attempt.traceback is not None
        assert "in broken" in attempt.traceback
        assert attempt.started is not None
        assert attempt.ended is not None
        assert attempt.started < attempt.ended
    assert first.ended is not None
    assert second.started is not None
    assert first.ended < second.started


async def test_answers_gates_and_drains_are_no_attempts(durable: Durable, ledger: Ledger) -> None:
    async with durable.run("asks", asking()) as run:
        await run.ainvoke(INPUT)
        await run.answer("upon")
    async with durable.run("stops", four_nodes()) as run:
        await run.ainvoke(INPUT, interrupt_before=["sort", "tell"])
        await run.ainvoke(interrupt_before=["sort", "tell"])
        control = RunControl()
        control.request_drain()
        with pytest.raises(Exception, match=r"."):
            await run.ainvoke(control=control)
        await run.ainvoke()
    for thread_id in ("asks", "stops"):
        [row] = await ledger.rows(thread_id)
        assert (row["status"], row["attempts"], row["earlier_attempts"]) == ("complete", 1, [])


async def test_a_crash_is_an_attempt_and_only_the_newest_ones_are_kept(
    durable: Durable, dsn: str
) -> None:
    services = services_of(durable)
    fence = await services.checkpoints.new_fence("t")
    await services.ledger.start(
        "R",
        fence=fence,
        graph=None,
        input=INPUT,
        context=None,
        base_checkpoint_id=None,
        closing=None,
    )
    for _ in range(27):
        await services.ledger.retry("R", fence=await services.checkpoints.new_fence("t"))
    fence = await services.checkpoints.new_fence("t")
    record = await services.ledger.retry("R", fence=fence)
    assert record.attempts == 29
    assert len(record.earlier_attempts) == 20
    assert {attempt.outcome for attempt in record.earlier_attempts} == {"crashed"}
    again = await services.ledger.retry("R", fence=fence)
    assert again.attempts == 29, "the answer to the statement was lost, and it ran again"


async def test_the_history_names_the_worker_that_wrote_each_step(
    durable: Durable, dsn: str
) -> None:
    async with durable.run("t", four_nodes()) as run:
        await run.ainvoke(INPUT, interrupt_before=["weigh"])
    async with Durable(dsn) as other:
        ledger = services_of(other).ledger
        ledger.worker = "elsewhere:1"
        await other.threads.resume("t", four_nodes(), past_gate=True)
    workers = {tuple(step.nodes): step.worker async for step in durable.threads.history("t")}
    assert workers["tell",] == workers["weigh",] == "elsewhere:1"
    assert workers["collect",] == workers["sort",] == services_of(durable).ledger.worker


class Odd(Exception):
    """Its text is none that Postgres stores."""

    def __repr__(self) -> str:
        return "Odd('\0 \ud800')" + "x" * 100_000


class Worse(Exception):
    def __repr__(self) -> str:
        raise RuntimeError("no text at all")

    __str__ = __repr__


@pytest.mark.parametrize("raised", [Odd, Worse])
async def test_a_nodes_exception_comes_out_as_it_was_raised_whatever_its_text(
    durable: Durable, ledger: Ledger, raised: type[Exception]
) -> None:
    async def node(step: str) -> None:
        raise raised

    async with durable.run("t", four_nodes(node)) as run:
        with pytest.raises(raised):
            await run.ainvoke(INPUT)
    [row] = await ledger.rows("t")
    assert row["status"] == "failed"
    assert len(row["error"]) < 5_000
    assert len(row["traceback"]) < 10_000


@pytest.mark.parametrize("status", ["fails", "completes"])
async def test_whatever_closing_an_attempt_meets_replaces_nothing(
    durable: Durable, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, status: str
) -> None:
    async def node(step: str) -> None:
        if status == "fails":
            raise ValueError("mine")

    def wrong(*_: Any, **__: Any) -> Any:
        raise RuntimeError("the ledger's own")

    monkeypatch.setattr(RunLedger, "completed", lambda *_: None)  # not by its last checkpoint
    for name in ("complete", "end", "finish"):
        monkeypatch.setattr(RunLedger, name, wrong)
    async with durable.run("t", four_nodes(node)) as run:
        if status == "fails":
            with pytest.raises(ValueError, match="mine"):
                await run.ainvoke(INPUT)
        else:
            assert (await run.ainvoke(INPUT))["words"] == list(STEPS)
    assert any(
        "cannot record the outcome" in record.message
        for record in caplog.records
        if record.levelno >= logging.ERROR
    )


async def test_a_call_after_one_that_could_not_be_recorded_sees_where_the_thread_stands(
    durable: Durable, ledger: Ledger
) -> None:
    def away(*_: Any, **__: Any) -> Any:
        raise PostgresUnavailableError("away")

    async with durable.run("t", four_nodes()) as run:
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(RunLedger, "completed", lambda *_: None)  # not by its last checkpoint
            for name in ("complete", "end", "finish"):
                patch.setattr(RunLedger, name, away)
            first = await run.ainvoke(INPUT)
        assert await run.ainvoke() == first
        assert (await run.ainvoke(INPUT))["words"] == [*STEPS, *STEPS]
    assert await ledger.statuses("t") == ["complete", "complete"]


async def test_a_run_that_was_accepted_never_becomes_rejected(
    durable: Durable, ledger: Ledger, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The next attempt fails before its first checkpoint, for whatever reason: the input is not
    lost.
    """
    services = services_of(durable)
    async with durable.hold("t") as lease:
        start: dict[str, Any] = {
            "graph": None,
            "context": None,
            "base_checkpoint_id": None,
            "closing": None,
        }
        await services.ledger.start("R", fence=lease.fence, input=INPUT, **start)
    async with durable.run("t", four_nodes()) as run:
        with pytest.raises(ValueError, match="unknown"):
            await run.ainvoke(output_keys=["unknown"])
    assert await ledger.statuses("t") == ["failed"]
    assert (await durable.threads.status("t")).resumable
    assert (await durable.threads.resume("t", four_nodes()))["words"] == list(STEPS)


async def test_an_outcome_under_a_token_that_a_newer_attempt_has_raised_is_not_written(
    durable: Durable, ledger: Ledger
) -> None:
    services = services_of(durable)
    stale = await services.checkpoints.new_fence("t")
    await services.ledger.start(
        "R",
        fence=stale,
        graph=None,
        input=INPUT,
        context=None,
        base_checkpoint_id=None,
        closing=None,
    )
    newer = await services.checkpoints.new_fence("t")
    await services.ledger.retry("R", fence=newer)
    late: dict[str, Any] = {"error": "late", "reason": None, "checkpoint_id": None}
    assert await services.ledger.finish("R", fence=stale, status=RunStatus.FAILED, **late) is None
    assert await ledger.statuses("t") == ["running"]
    assert (
        await services.ledger.finish("R", fence=newer, status=RunStatus.FAILED, **late) is not None
    )
    assert await ledger.statuses("t") == ["failed"]


async def test_a_second_cancellation_does_not_leave_the_attempt_open(
    durable: Durable, ledger: Ledger, monkeypatch: pytest.MonkeyPatch
) -> None:
    gate, closing, go_on = Gate("sort"), asyncio.Event(), asyncio.Event()
    original = RunLedger.end

    async def slow(self: RunLedger, *args: Any, **options: Any) -> Any:
        closing.set()
        await go_on.wait()
        return await original(self, *args, **options)

    task = await run_up_to(gate, durable)
    monkeypatch.setattr(RunLedger, "end", slow)
    task.cancel()
    await closing.wait()
    task.cancel()
    asyncio.get_running_loop().call_later(0.05, go_on.set)
    with pytest.raises(asyncio.CancelledError):
        await task

    async def settled() -> bool:
        return await ledger.statuses("t") == ["paused"]

    await wait_until(settled)
    assert (await durable.threads.status("t")).status is ThreadStatus.PAUSED


async def test_work_that_a_change_of_the_state_made_is_run_also_by_a_caller_who_names_a_complete_run(
    durable: Durable,
) -> None:
    async with durable.run("t", four_nodes(), run_id="R") as run:
        await run.ainvoke(INPUT)
        await run.aupdate_state({"words": ["again"]}, as_node="weigh")
        assert (await run.ainvoke())["told"].endswith("again tell")
    async with durable.run("t", four_nodes(), run_id="R") as run:
        assert (await run.ainvoke(INPUT))["words"] == list(STEPS), "the result of R is its own"
