"""The mailbox of a thread: a value that its graph cannot read, an answer that is refused beside a
signal, and what becomes of signals that nobody takes.
"""

from __future__ import annotations

import dataclasses
from collections.abc import AsyncIterator
from datetime import UTC, datetime, timedelta
from typing import Any

import psycopg
import pytest
from langgraph.errors import UnknownInterruptError
from langgraph.graph import START, StateGraph
from langgraph.types import interrupt
from pydantic import BaseModel

from aiodurable import wait_for
from aiodurable.durable import Durable
from aiodurable.errors import ConfigurationError, InvalidArgumentError
from aiodurable.models import ClaimState, RunStatus
from aiodurable.runs.answer_rows import AnswerRows
from aiodurable.runs.durable_run import DurableRun
from tests.support.scenario_graphs import State, chain, ok
from tests.support.waiting import wait_until

INPUT: dict[str, Any] = {"xs": ["in"]}


@dataclasses.dataclass
class Foreign:
    """No schema names this class."""

    n: int


class Answer(BaseModel):
    """What the question accepts."""

    yes: bool


async def waits(state: Any) -> dict[str, Any]:
    try:
        return {"xs": [f"got {await wait_for('coin')}"]}
    except ConfigurationError as error:
        unreadable = "Foreign" in str(error)
        return {"xs": [f"unreadable {unreadable}, then {await wait_for('coin')}"]}


async def asks(state: Any) -> dict[str, Any]:
    return {"xs": [f"answered {interrupt('which?', response_schema=Answer)}"]}


@pytest.fixture
async def durable(dsn: str) -> AsyncIterator[Durable]:
    both = StateGraph(State).add_node("asks", asks).add_node("waits", waits)
    both.add_edge(START, "asks").add_edge(START, "waits")
    graphs = {"waits": chain(waits=waits), "both": both, "ok": chain(a=ok("a"))}
    async with Durable(dsn, graphs=graphs) as opened:
        yield opened


async def test_a_value_that_the_threads_graph_may_not_build_is_refused_by_the_sender(
    durable: Durable, dsn: str
) -> None:
    async with durable.run("t", "waits") as run:
        await run.ainvoke(INPUT)
    with pytest.raises(InvalidArgumentError, match="Foreign"):
        await durable.threads.signal("t", "coin", [Foreign(7)])
    with psycopg.connect(dsn) as connection:
        assert connection.execute("SELECT count(*) FROM aiodurable_signals").fetchone() == (0,)


async def test_a_value_that_the_graph_cannot_read_is_an_error_once_and_is_set_aside(
    durable: Durable, dsn: str
) -> None:
    assert await durable.threads.signal("t", "coin", Foreign(7), signal_id="first")
    assert await durable.threads.signal("t", "coin", "heads", signal_id="second")
    async with durable.work():
        created = await durable.runs.create("t", "waits", INPUT)
        result = await durable.runs.wait(created.run_id, timeout=20)
    assert result["xs"][-1] == "unreadable True, then heads"
    assert (await durable.runs.get(created.run_id)).attempts == 1
    with psycopg.connect(dsn) as connection:
        kept = connection.execute(
            "SELECT signal_id, value IS NOT NULL FROM aiodurable_signals"
            " WHERE taken_at IS NOT NULL ORDER BY position"
        ).fetchall()
    assert kept == [("first", True), ("second", False)]


async def test_a_run_that_an_unreadable_signal_ended_goes_on_once_its_node_waits_again(
    dsn: str,
) -> None:
    async def takes_one(state: Any) -> dict[str, Any]:
        return {"xs": [str(await wait_for("coin"))]}

    async with Durable(dsn, graphs={"waits": chain(waits=takes_one)}) as old, old.work():
        await old.runs.create("t", "waits", INPUT, run_id="r", max_attempts=1)
        async with Durable(dsn) as foreign:
            await foreign.threads.signal("t", "coin", Foreign(7))
        for _ in range(2):
            record = await old.runs.wait_first(["r"], timeout=20)
            assert record.status is RunStatus.QUARANTINED
            await old.threads.signal("t", "coin", "heads", signal_id="good")
            await old.runs.retry("r")  # gets the same answer
        assert (await old.runs.wait_first(["r"], timeout=20)).status is RunStatus.QUARANTINED
    async with Durable(dsn, graphs={"waits": chain(waits=waits)}) as deployed, deployed.work():
        await deployed.runs.retry("r")
        result = await deployed.runs.wait("r", timeout=20)
    assert result == {"xs": ["in", "unreadable True, then heads"]}


async def test_a_signal_that_was_taken_survives_an_answer_that_is_refused(
    durable: Durable, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with durable.run("t", "both") as run:
        await run.ainvoke(INPUT)
    assert await durable.threads.signal("t", "coin", "heads")
    store = AnswerRows.store

    async def refuses(*_: Any) -> None:
        raise UnknownInterruptError("before any node runs", reason="not_pending")

    async def dies_after(*args: Any, **more: Any) -> None:
        await store(*args, **more)
        raise ConnectionError("the process dies here")

    monkeypatch.setattr(AnswerRows, "store", dies_after)
    async with durable.run("t", "both") as run:
        with pytest.raises(ConnectionError):
            await run.ainvoke()
    monkeypatch.setattr(AnswerRows, "store", store)
    assert (await durable.runs.get(run.run_id)).claim_state is ClaimState.SCHEDULED
    with monkeypatch.context() as patched:
        patched.setattr(DurableRun, "_invoke", refuses)
        async with durable.run("t", "both") as run:
            with pytest.raises(UnknownInterruptError):
                await run.answer({"yes": False})
    assert (await durable.runs.get(run.run_id)).claim_state is ClaimState.SCHEDULED

    async def taken() -> bool:
        return (await durable.threads.status("t")).pending == ("asks",)

    async with durable.work():
        await wait_until(taken, 20)
    async with durable.run("t", "both", on_busy="wait") as run:
        result = await run.answer({"yes": True})
    assert sorted(result["xs"]) == ["answered yes=True", "got heads", "in"]
    assert (await durable.runs.get(run.run_id)).status is RunStatus.COMPLETE


async def test_old_signals_to_threads_that_do_not_exist_are_pruned(
    durable: Durable, dsn: str
) -> None:
    for thread_id in ("nobody", "complete", "late"):
        assert await durable.threads.signal(thread_id, "coin", 1)
    async with durable.run("complete", "ok") as run:
        await run.ainvoke(INPUT)
    with psycopg.connect(dsn, autocommit=True) as connection:
        connection.execute(
            "UPDATE aiodurable_signals SET created_at = created_at - interval '2 days'"
            " WHERE thread_id <> 'late'"
        )
        for dry_run in (True, False):
            await durable.threads.prune(
                older_than=datetime.now(UTC) - timedelta(days=1), dry_run=dry_run
            )
            left = connection.execute(
                "SELECT thread_id FROM aiodurable_signals ORDER BY 1"
            ).fetchall()
            assert len(left) == 3 - (not dry_run)
    assert [row[0] for row in left] == ["complete", "late"]
