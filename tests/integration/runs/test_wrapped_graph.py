"""`durable.wrap(graph)`: LangGraph's calls, with LangGraph's own config, under a lease and in the
ledger.
"""

from __future__ import annotations

import asyncio
import uuid
from contextlib import aclosing
from pathlib import Path
from typing import Any

import pytest
from langgraph.types import Command, StateUpdate

from aiodurable.durable import Durable
from aiodurable.errors import (
    ClosedError,
    InvalidArgumentError,
    ThreadInterruptedError,
    WorkflowAlreadyRunningError,
)
from aiodurable.models import RunStatus, ThreadStatus
from tests.support.graphs import INPUT, STEPS, Gate, asking, four_nodes, noted
from tests.support.waiting import within


def of(thread_id: Any, **more: Any) -> Any:
    return {"configurable": {"thread_id": thread_id, **more}}


async def test_a_call_is_a_run_with_all_of_its_config(durable: Durable, tmp_path: Path) -> None:
    graph = durable.wrap(four_nodes())
    result = await graph.ainvoke(INPUT, of("t", log=str(tmp_path / "log")))
    assert result["words"] == list(STEPS)
    assert noted(tmp_path / "log") == list(STEPS)
    thread = await durable.threads.get("t")
    assert (thread.status, thread.attempts) == (ThreadStatus.COMPLETE, 1)
    assert (await graph.ainvoke(INPUT, of("t")))["words"] == [*STEPS, *STEPS]


async def test_a_failed_call_is_resumed_without_input(durable: Durable) -> None:
    broken = {"weigh"}

    async def breaks_once(step: str) -> None:
        if step in broken:
            broken.remove(step)
            raise RuntimeError(step)

    graph = durable.wrap(four_nodes(breaks_once))
    with pytest.raises(RuntimeError, match="weigh"):
        await graph.ainvoke(INPUT, of("t"))
    assert (await graph.ainvoke(None, of("t")))["words"] == list(STEPS)
    assert (await durable.threads.get("t")).attempts == 2


async def test_questions_are_answered_with_a_command(durable: Durable) -> None:
    graph = durable.wrap(asking())
    await graph.ainvoke(INPUT, of("t"))
    with pytest.raises(ThreadInterruptedError):
        await graph.ainvoke({"words": ["another"], "told": ""}, of("t"))
    assert (await graph.ainvoke(Command(resume="upon"), of("t")))["told"] == "collect upon"


async def test_a_stream_holds_the_lease_until_it_is_closed(durable: Durable) -> None:
    graph = durable.wrap(four_nodes())
    async with aclosing(graph.astream(INPUT, of("t"), stream_mode="updates")) as chunks:
        async for _ in chunks:
            with pytest.raises(WorkflowAlreadyRunningError):
                await graph.ainvoke(INPUT, of("t"))
            with pytest.raises(WorkflowAlreadyRunningError):
                await graph.aupdate_state(of("t"), {"words": ["mine"]})
            break
    assert (await durable.threads.get("t")).status is ThreadStatus.PAUSED
    events = [event async for event in graph.astream_events(None, of("t"))]
    assert events[-1]["data"].get("output", {})["words"] == list(STEPS)


async def test_states_are_read_and_changed_as_with_langgraph(durable: Durable) -> None:
    graph = durable.wrap(four_nodes())
    await graph.ainvoke(INPUT, of("t"))
    await graph.aupdate_state(of("t"), {"words": ["one"]}, "tell")
    await graph.abulk_update_state(of("t"), [[StateUpdate({"words": ["two"]}, "tell")]])
    state = await graph.aget_state(of("t"))
    assert state.values["words"] == [*STEPS, "one", "two"]
    states = [state async for state in graph.aget_state_history(of("t"), limit=3)]
    assert states[0] == state
    past = await graph.aget_state(states[2].config)
    assert past.values["words"] == list(STEPS)
    plain = four_nodes().compile(checkpointer=durable.checkpointer)
    assert await plain.aget_state(of("t")) == state
    assert set(graph.graph.nodes) == {"__start__", *STEPS}


@pytest.mark.parametrize(
    "config", [{}, {"configurable": {}}, {"configurable": {"thread_id": None}}, None, "t"], ids=str
)
async def test_a_config_without_a_thread_is_refused(durable: Durable, config: Any) -> None:
    graph = durable.wrap(four_nodes())
    for call in (
        lambda: graph.ainvoke(INPUT, config),
        lambda: graph.aupdate_state(config, INPUT),
        lambda: graph.aget_state(config),
    ):
        with pytest.raises(InvalidArgumentError, match="thread_id") as refused:
            await call()
        assert refused.value.argument == "config"
    with pytest.raises(InvalidArgumentError, match="thread_id"):
        graph.aget_state_history(config)


async def test_a_thread_that_cannot_be_stored_is_refused_when_it_is_read_too(
    durable: Durable,
) -> None:
    graph = durable.wrap(four_nodes())
    with pytest.raises(InvalidArgumentError, match="NUL"):
        await graph.aget_state(of("a\0b"))


async def test_an_update_can_name_the_task_that_it_stands_for(durable: Durable) -> None:
    graph = durable.wrap(four_nodes())
    await graph.ainvoke(INPUT, of("t"))
    updated = await graph.aupdate_state(of("t"), {"words": ["one"]}, "tell", str(uuid.uuid4()))
    assert (await graph.aget_state(updated)).values["words"] == [*STEPS, "one"]


async def test_a_config_of_an_old_checkpoint_is_refused_and_a_fork_named(durable: Durable) -> None:
    graph = durable.wrap(four_nodes())
    await graph.ainvoke(INPUT, of("t"))
    *_, first = [state async for state in graph.aget_state_history(of("t"))]
    with pytest.raises(InvalidArgumentError, match="fork"):
        await graph.ainvoke(None, first.config)


async def test_a_thread_id_may_be_a_uuid(durable: Durable) -> None:
    thread_id = uuid.uuid4()
    await durable.wrap(four_nodes()).ainvoke(INPUT, of(thread_id))
    assert (await durable.threads.get(str(thread_id))).status == RunStatus.COMPLETE


async def test_it_may_be_made_before_its_durable_is_open_and_ends_with_it(dsn: str) -> None:
    durable = Durable(dsn, graphs={"story": four_nodes()})
    graph = durable.wrap("story")
    async with durable:
        assert (await graph.ainvoke(INPUT, of("t")))["words"] == list(STEPS)
    with pytest.raises(ClosedError):
        await graph.ainvoke(INPUT, of("t"))


async def test_a_busy_thread_is_waited_for_where_the_graph_was_wrapped_so(durable: Durable) -> None:
    gate = Gate("sort")
    busy = asyncio.create_task(durable.wrap(four_nodes(gate)).ainvoke(INPUT, of("t")))
    graph = durable.wrap(four_nodes(), on_busy="wait", timeout=30)
    await within(30, gate.reached.wait(), what="the first call to be at work")
    next_one = asyncio.create_task(graph.ainvoke(INPUT, of("t")))
    gate.open.set()
    assert (await busy)["words"] == list(STEPS)
    assert (await next_one)["words"] == [*STEPS, *STEPS]
    async with durable.hold("t"):
        with pytest.raises(WorkflowAlreadyRunningError, match="wait for itself"):
            await graph.ainvoke(INPUT, of("t"))
