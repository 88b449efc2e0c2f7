"""A node's error handler takes its place: the run goes on, and the status shows no error."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

import pytest
from langgraph.errors import NodeError
from langgraph.graph import END, START, StateGraph

from aiodurable.durable import Durable
from aiodurable.models import ThreadStatus
from tests.support.feature_graphs import EMPTY, asking_handler, error_handler
from tests.support.graphs import Story, config, noted
from tests.support.ledger_view import Ledger


async def test_an_error_that_was_handled_is_not_raised_and_fails_nothing(
    durable: Durable, ledger: Ledger, log: Path
) -> None:
    """langgraph#8277, #8608."""
    async with durable.run("t", error_handler(), config=config(log)) as run:
        assert (await run.ainvoke(EMPTY))["words"] == ["beside", "fails mended", "close"]
    assert sorted(noted(log)) == ["beside", "close", "fails", "mend"]
    status = await durable.threads.status("t")
    assert (status.status, status.error, status.failed_node) == (ThreadStatus.COMPLETE, None, None)
    [row] = await ledger.rows("t")
    assert (row["status"], row["error"]) == ("complete", None)


async def test_a_handler_that_asks_is_answered_and_its_node_is_not_run_again(
    durable: Durable, log: Path
) -> None:
    async with durable.run("t", asking_handler(), config=config(log)) as run:
        result = await run.ainvoke(EMPTY)
        assert [each.value for each in result["__interrupt__"]] == ["mend it?"]
    status = await durable.threads.status("t")
    assert status.status is ThreadStatus.INTERRUPTED
    assert [each.value for each in status.interrupts] == ["mend it?"]
    async with durable.run("t", asking_handler(), config=config(log)) as run:
        assert (await run.answer("yes"))["words"] == ["yes", "close"]
    assert noted(log) == ["fails", "ask", "ask", "close"]


async def test_a_handler_that_was_cancelled_runs_again_without_its_node(durable: Durable) -> None:
    """langgraph#9002: the node that failed is not run again, and its handler takes effect once."""
    calls: list[str] = []
    reached, go_on = asyncio.Event(), asyncio.Event()

    async def fails(state: Story) -> dict[str, Any]:
        calls.append("fails")
        raise ZeroDivisionError

    async def mend(state: Story, error: NodeError) -> dict[str, Any]:
        calls.append("mend")
        reached.set()
        await go_on.wait()
        return {"words": ["mended"]}

    builder = StateGraph(Story).add_node("fails", fails, error_handler=mend)
    builder.add_edge(START, "fails").add_edge("fails", END)

    async def body() -> Any:
        async with durable.run("t", builder) as run:
            return await run.ainvoke(EMPTY)

    task = asyncio.create_task(body())
    await reached.wait()
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    go_on.set()
    async with durable.run("t", builder) as run:
        assert (await run.ainvoke())["words"] == ["mended"]
    assert calls == ["fails", "mend", "mend"]


async def test_a_handler_that_fails_fails_the_run(durable: Durable, ledger: Ledger) -> None:
    async def fails(state: Story) -> dict[str, Any]:
        raise ZeroDivisionError

    async def mend(state: Story, error: NodeError) -> dict[str, Any]:
        raise ValueError("the handler's own")

    builder = StateGraph(Story).add_node("fails", fails, error_handler=mend)
    builder.add_edge(START, "fails").add_edge("fails", END)
    async with durable.run("t", builder) as run:
        with pytest.raises(ValueError, match="the handler's own"):
            await run.ainvoke(EMPTY)
    assert (await durable.threads.status("t")).status is ThreadStatus.FAILED
    assert await ledger.statuses("t") == ["failed"]
