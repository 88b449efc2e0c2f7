"""A stream that is left early ends what runs in it, subgraphs too; the next call goes on there."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from aiodurable.durable import Durable
from aiodurable.models import ThreadStatus
from tests.support.feature_graphs import EMPTY
from tests.support.graphs import STEPS, Gate, nested, noted


class Watched(Gate):
    """Sees whether the step that it stops is cancelled."""

    cancelled = False

    async def __call__(self, step: str) -> None:
        try:
            await super().__call__(step)
        except asyncio.CancelledError:
            self.cancelled = True
            raise


@pytest.fixture
def gate() -> Watched:
    return Watched("weigh")


async def goes_on(durable: Durable, gate: Watched, log: Path) -> None:
    """From the step that was stopped, in the subgraph: no other one runs again."""
    assert gate.cancelled
    status = await durable.threads.status("t")
    assert (status.status, status.reason, status.pending) == (
        ThreadStatus.PAUSED,
        "stream closed",
        ("inner",),
    )
    gate.open.set()
    async with durable.run("t", nested(gate), config={"configurable": {"log": str(log)}}) as run:
        assert (await run.ainvoke())["words"] == ["open", "open", *STEPS]
    assert noted(log) == ["open", "collect", "sort", "weigh", "weigh", "tell", "close"]


@pytest.mark.parametrize("version", ["v1", "v2"])
async def test_a_stream_that_is_closed_ends_the_node_in_its_subgraph(
    durable: Durable, gate: Watched, log: Path, version: str
) -> None:
    async with durable.run("t", nested(gate), config={"configurable": {"log": str(log)}}) as run:
        stream = run.astream(EMPTY, stream_mode="tasks", subgraphs=True, version=version)
        async with contextlib.aclosing(stream):
            async for _ in stream:
                if gate.reached.is_set():
                    break
    await goes_on(durable, gate, log)


async def test_a_body_that_leaves_its_stream_open_ends_it_too(
    durable: Durable, gate: Watched, log: Path
) -> None:
    async with durable.run("t", nested(gate), config={"configurable": {"log": str(log)}}) as run:
        stream = run.astream(EMPTY, stream_mode="tasks", subgraphs=True)
        async for _ in stream:
            if gate.reached.is_set():
                break
    await goes_on(durable, gate, log)
    await stream.aclose()


async def test_an_aborted_v3_stream_under_a_lease_ends_its_subgraph_and_is_gone_on_with(
    durable: Durable, gate: Watched, log: Path
) -> None:
    """`stream_events` is not a run's, but the graph's own under the run's lease: fenced, and not in
    the ledger.
    """
    config: Any = {"configurable": {"log": str(log)}}
    graph = nested(gate).compile(checkpointer=durable.checkpointer)
    async with durable.run("t", graph, config=config) as run:
        stream = await graph.astream_events(EMPTY, run.config, version="v3", durability="sync")

        async def events() -> AsyncIterator[Any]:
            async for event in stream:
                yield event

        async def consume() -> None:
            async for _ in events():
                pass

        consumer = asyncio.create_task(consume())
        await gate.reached.wait()
        await stream.abort()
        await consumer
        assert gate.cancelled
    assert (await durable.threads.status("t")).status is ThreadStatus.CRASHED
    gate.open.set()
    async with durable.run("t", graph, config=config) as run:
        assert (await run.ainvoke())["words"] == ["open", "open", *STEPS]
    assert noted(log) == ["open", "collect", "sort", "weigh", "weigh", "tell", "close"]
