"""A run has every call that its graph has: streams of events, histories, updates in bulk."""

from __future__ import annotations

from contextlib import aclosing

import pytest
from langgraph.types import StateUpdate

from aiodurable.checkpoints.write_session import SESSION_KEY
from aiodurable.durable import Durable
from aiodurable.errors import InvalidArgumentError
from aiodurable.models import ThreadStatus
from tests.support.graphs import INPUT, STEPS, asking, four_nodes


async def test_a_run_yields_the_events_of_all_that_runs_inside_it(durable: Durable) -> None:
    async with durable.run("t", four_nodes()) as run:
        events = [event async for event in run.astream_events(INPUT, {"tags": ["mine"]})]
    ended = [event["name"] for event in events if event["event"] == "on_chain_end"]
    assert [name for name in ended if name in STEPS] == list(STEPS)
    assert events[-1]["data"].get("output", {})["words"] == list(STEPS)
    assert "mine" in events[0].get("tags", [])
    assert not any(SESSION_KEY in event.get("metadata", {}) for event in events)
    assert run.checkpoint.status is ThreadStatus.COMPLETE


async def test_events_are_filtered_as_langchain_filters_them(durable: Durable) -> None:
    async with durable.run("t", four_nodes()) as run:
        events = [event async for event in run.astream_events(INPUT, include_names=["sort"])]
        with pytest.raises(InvalidArgumentError, match="include_nmaes"):
            _ = [event async for event in run.astream_events(INPUT, include_nmaes=["sort"])]
    assert {event["name"] for event in events} == {"sort"}


async def test_events_of_a_stored_result_are_its_end(durable: Durable) -> None:
    async with durable.run("t", four_nodes(), run_id="R") as run:
        result = await run.ainvoke(INPUT)
    async with durable.run("t", four_nodes(), run_id="R") as run:
        (event,) = [event async for event in run.astream_events(INPUT)]
    assert (event["event"], event["run_id"], event["data"].get("output")) == (
        "on_chain_end",
        "R",
        result,
    )


async def test_events_resume_what_was_left_and_an_early_end_leaves_the_thread_paused(
    durable: Durable,
) -> None:
    async with durable.run("t", four_nodes()) as run, aclosing(run.astream_events(INPUT)) as events:
        async for event in events:
            if event["event"] == "on_chain_end" and event["name"] == "sort":
                break
    assert (await durable.threads.status("t")).status is ThreadStatus.PAUSED
    async with durable.run("t", four_nodes()) as run:
        events = [event async for event in run.astream_events()]
        assert run.resumed
    assert events[-1]["data"].get("output", {})["words"] == list(STEPS)


async def test_a_run_reads_the_history_of_its_thread(durable: Durable) -> None:
    async with durable.run("t", four_nodes()) as run:
        await run.ainvoke(INPUT)
        states = [state async for state in run.aget_state_history()]
        (newest,) = [state async for state in run.aget_state_history(limit=1)]
        (first,) = [state async for state in run.aget_state_history(filter={"source": "input"})]
        assert (
            len([state async for state in run.aget_state_history(before=states[1].config)])
            == len(states) - 2
        )
    assert [state.next for state in states] == [
        (),
        *((step,) for step in reversed(STEPS)),
        ("__start__",),
    ]
    assert (newest, first) == (states[0], states[-1])


async def test_updates_in_bulk_are_made_under_the_lease_and_leave_work_behind(
    durable: Durable,
) -> None:
    async with durable.run("t", asking()) as run:
        await run.ainvoke(INPUT)
        updates = [
            [StateUpdate({"words": ["one"]}, "collect")],
            [StateUpdate({"words": ["two"]}, "collect")],
        ]
        await run.abulk_update_state(updates)
        state = await run.aget_state()
        assert state.values["words"][-2:] == ["one", "two"]
        assert run.checkpoint.checkpoint_id == state.config.get("configurable", {})["checkpoint_id"]
        assert run.checkpoint.pending == state.next
    async with durable.hold("t") as lease:
        pass
    with pytest.raises(Exception, match="lease"):  # LeaseLostError: the lease of the run is over
        await run.abulk_update_state(updates)
    assert lease.token > run.lease.token
