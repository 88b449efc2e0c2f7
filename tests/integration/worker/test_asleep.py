"""What a run that sleeps is not: uncancellable beside a question, claimed without a graph's name,
or a reason to look fifty times a second.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator
from typing import Any

import asyncpg
import pytest
from langgraph.graph import START, StateGraph
from langgraph.types import interrupt

from aiodurable import sleep, wait_for
from aiodurable.durable import Durable
from aiodurable.errors import RunCancelledError, ThreadPausedError
from aiodurable.models import ClaimState, PauseReason, RunStatus, ThreadStatus
from aiodurable.worker.claims import Claims
from tests.support.internals import services_of
from tests.support.scenario_graphs import State, chain
from tests.support.waiting import wait_until

INPUT: dict[str, Any] = {"xs": ["in"]}


async def asks(state: Any) -> dict[str, Any]:
    return {"xs": [f"answered {interrupt('which?')}"]}


async def naps(state: Any) -> dict[str, Any]:
    await sleep(3600)
    return {"xs": ["slept"]}


async def naps_shortly(state: Any) -> dict[str, Any]:
    await sleep(0.3)
    return {"xs": ["slept"]}


async def waits(state: Any) -> dict[str, Any]:
    return {"xs": [f"got {await wait_for('coin', timeout=0.5)}"]}


def beside_each_other(**nodes: Any) -> StateGraph[Any, Any, Any, Any]:
    graph = StateGraph(State)
    for name, node in nodes.items():
        graph.add_node(name, node)
        graph.add_edge(START, name)
    return graph


@pytest.fixture
async def durable(dsn: str) -> AsyncIterator[Durable]:
    graphs = {"both": beside_each_other(asks=asks, naps=naps), "waits": chain(waits=waits)}
    async with Durable(dsn, graphs=graphs) as opened:
        yield opened


@pytest.mark.parametrize("by", ["thread", "run"])
async def test_a_run_that_asks_and_sleeps_is_cancelled_and_its_question_stays_open(
    durable: Durable, by: str
) -> None:
    async with durable.run("t", "both") as run:
        await run.ainvoke(INPUT)
    assert (await durable.runs.get(run.run_id)).claim_state is ClaimState.SCHEDULED
    if by == "thread":
        assert await durable.threads.cancel("t")
        assert not await durable.threads.cancel("t")
    else:
        await durable.runs.cancel(run.run_id)
    cancelled = await durable.runs.get(run.run_id)
    assert (cancelled.status, cancelled.claim_state) == (RunStatus.INTERRUPTED, None)
    assert cancelled.reason == PauseReason.CANCELLED
    with pytest.raises(RunCancelledError, match="an answer lets it go on"):
        await durable.runs.wait(run.run_id, timeout=10)
    assert (await durable.threads.status("t")).status is ThreadStatus.INTERRUPTED
    async with durable.run("t", "both") as run:
        await run.answer("that")
    after = await durable.runs.get(run.run_id)
    assert (after.status, after.reason) == (RunStatus.PAUSED, PauseReason.SLEEPING)
    assert after.claim_state is ClaimState.SCHEDULED


async def test_a_run_of_an_unnamed_graph_that_sleeps_is_left_to_a_call_and_says_so(
    durable: Durable, caplog: pytest.LogCaptureFixture
) -> None:
    unnamed = chain(naps=naps_shortly)
    with caplog.at_level(logging.WARNING):
        async with durable.run("t", unnamed) as run:
            await run.ainvoke(INPUT)
    assert "no worker goes on with it, as its graph has no name" in caplog.text
    assert (await durable.runs.get(run.run_id)).claim_state is None
    signs = await Claims(services_of(durable), ["default"]).signs()
    assert (signs.ready, signs.due_s) == (False, None)

    async def goes_on() -> Any:
        try:
            async with durable.run("t", unnamed) as run:
                return await run.ainvoke()
        except ThreadPausedError:
            return None

    assert (await wait_until(goes_on, 20))["xs"] == ["in", "slept"]


async def test_a_sleeping_run_of_an_unnamed_graph_is_cancelled(durable: Durable) -> None:
    async with durable.run("t", chain(naps=naps)) as run:
        await run.ainvoke(INPUT)
    assert await durable.threads.cancel("t")
    cancelled = await durable.runs.get(run.run_id)
    assert (cancelled.status, cancelled.reason) == (RunStatus.PAUSED, PauseReason.CANCELLED)


async def test_a_senders_open_transaction_on_a_run_past_due_does_not_hurry_the_workers(
    durable: Durable, dsn: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    looks = list[float]()
    signs = Claims.signs

    async def counted(claims: Claims) -> Any:
        found = await signs(claims)
        if found.is_due:
            looks.append(asyncio.get_running_loop().time())
        return found

    monkeypatch.setattr(Claims, "signs", counted)
    connection: Any = await asyncpg.connect(dsn)
    try:
        async with durable.run("t", "waits") as run:
            await run.ainvoke(INPUT)
        async with connection.transaction():
            await durable.threads.signal("t", "coin", "heads", conn=connection)
            async with durable.work():
                await wait_until(lambda: len(looks) > 8, 60)
                first = len(looks)
                await wait_until(lambda: looks[-1] - looks[first - 1] > 2, 60)
                assert len(looks) - first < 20
        async with durable.work():
            assert (await durable.runs.wait(run.run_id, timeout=20))["xs"][-1] == "got heads"
    finally:
        await connection.close()
