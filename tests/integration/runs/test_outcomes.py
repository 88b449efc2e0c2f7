"""After any exit the lease is free, the ledger says how it ended, and the status is true."""

from __future__ import annotations

import asyncio
import contextlib
from pathlib import Path
from typing import Any

import pytest
from langgraph.errors import GraphDrained, GraphRecursionError
from langgraph.graph import START, StateGraph
from langgraph.runtime import RunControl

from aiodurable.durable import Durable
from aiodurable.errors import InvalidArgumentError, WorkflowExecutionError
from aiodurable.events import (
    AttemptEnded,
    AttemptStarted,
    BatchCommitted,
    Event,
    LeaseReleased,
    inline,
)
from aiodurable.models import RunStatus, ThreadStatus
from tests.support.graphs import INPUT, STEPS, Story, asking, config, fan_out, four_nodes, noted
from tests.support.ledger_view import Ledger


class Gate:
    """Lets steps pass until `at`, which then waits for ever."""

    def __init__(self, at: str) -> None:
        self.at: str | None = at
        self.reached = asyncio.Event()

    async def __call__(self, step: str) -> None:
        if step == self.at:
            self.reached.set()
            await asyncio.Event().wait()


async def assert_free(durable: Durable, thread_id: str = "t") -> None:
    async with durable.hold(thread_id):
        pass
    assert (await durable.threads.status(thread_id)).holder is None


async def test_a_cancelled_run_is_paused_free_and_goes_on_later(
    durable: Durable, ledger: Ledger, log: Path
) -> None:
    gate = Gate("weigh")
    graph = four_nodes(gate)

    async def body() -> None:
        async with durable.run("t", graph, config=config(log)) as run:
            await run.ainvoke(INPUT)

    task = asyncio.create_task(body())
    await gate.reached.wait()
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    await assert_free(durable)
    [row] = await ledger.rows("t")
    assert (row["status"], row["status_reason"]) == ("paused", "cancelled")
    status = await durable.threads.status("t")
    assert (status.status, status.reason) == (ThreadStatus.PAUSED, "cancelled")
    gate.at = None
    async with durable.run("t", graph, config=config(log)) as run:
        assert (await run.ainvoke())["words"] == list(STEPS)
    assert noted(log) == ["collect", "sort", "weigh", "weigh", "tell"]


async def test_a_failed_call_leaves_the_path_of_the_failure(durable: Durable) -> None:
    async def breaks(state: Story) -> Story:
        raise ValueError("broken")

    inner = StateGraph(Story).add_node("part", breaks).add_edge(START, "part").compile()
    graph = StateGraph(Story).add_node("whole", inner).add_edge(START, "whole")
    async with durable.run("t", graph) as run:
        with pytest.raises(ValueError, match="broken"):
            await run.ainvoke(INPUT)
        assert run.checkpoint.failed_path == ("whole", "part")
    async with durable.run("t", graph) as run:
        assert run.checkpoint.failed_path == ("whole", "part")


async def test_an_outer_timeout_surfaces_as_timeout(
    durable: Durable, ledger: Ledger, log: Path
) -> None:
    gate = Gate("sort")
    with pytest.raises(TimeoutError):
        async with (
            asyncio.timeout(60),
            durable.run("t", four_nodes(gate), config=config(log)) as run,
        ):
            running = asyncio.timeout(None)
            async with running:
                call = asyncio.create_task(gate.reached.wait())
                call.add_done_callback(lambda _: running.reschedule(0))
                await run.ainvoke(INPUT)
    await assert_free(durable)
    assert await ledger.statuses("t") == ["paused"]


async def test_a_stream_left_early_is_paused_and_free(
    durable: Durable, ledger: Ledger, log: Path
) -> None:
    async with durable.run("t", four_nodes(), config=config(log)) as run:
        async with contextlib.aclosing(run.astream(INPUT, stream_mode="updates")) as stream:
            async for _ in stream:
                break
    await assert_free(durable)
    [row] = await ledger.rows("t")
    assert (row["status"], row["status_reason"]) == ("paused", "stream closed")


async def test_a_body_that_leaves_a_stream_open_still_records_it(
    durable: Durable, ledger: Ledger, log: Path
) -> None:
    async with durable.run("t", four_nodes(), config=config(log)) as run:
        stream = run.astream(INPUT, stream_mode="updates")
        await anext(stream)
    assert await ledger.statuses("t") == ["paused"]
    await assert_free(durable)
    await stream.aclose()
    assert await ledger.statuses("t") == ["paused"]


async def test_a_static_breakpoint_is_paused(durable: Durable, ledger: Ledger, log: Path) -> None:
    graph = four_nodes()
    async with durable.run("t", graph, config=config(log)) as run:
        await run.ainvoke(INPUT, interrupt_before=["weigh"])
    status = await durable.threads.status("t")
    assert (status.status, status.reason, status.pending) == (
        ThreadStatus.PAUSED,
        "breakpoint",
        ("weigh",),
    )
    async with durable.run("t", graph, config=config(log)) as run:
        assert run.status is ThreadStatus.PAUSED
        assert (await run.ainvoke())["words"] == list(STEPS)
    assert noted(log) == list(STEPS)


async def test_the_recursion_limit_is_paused(durable: Durable, ledger: Ledger, log: Path) -> None:
    async with durable.run("t", four_nodes(), config={**config(log), "recursion_limit": 2}) as run:
        with pytest.raises(GraphRecursionError):
            await run.ainvoke(INPUT)
    [row] = await ledger.rows("t")
    assert (row["status"], row["status_reason"]) == ("paused", "recursion limit")


async def test_a_drained_run_is_paused(durable: Durable, ledger: Ledger, log: Path) -> None:
    control = RunControl()

    async def drain(step: str) -> None:
        if step == "sort":
            control.request_drain()

    async with durable.run("t", four_nodes(drain), config=config(log)) as run:
        with pytest.raises(GraphDrained):
            await run.ainvoke(INPUT, control=control)
    [row] = await ledger.rows("t")
    assert (row["status"], row["status_reason"]) == ("paused", "drained")


async def test_a_call_that_langgraph_refuses_at_once_is_rejected_and_the_thread_stays_new(
    durable: Durable, ledger: Ledger, log: Path
) -> None:
    graph = four_nodes()
    async with durable.run("t", graph, config=config(log)) as run:
        with pytest.raises(ValueError, match="unknown"):
            await run.ainvoke(INPUT, output_keys=["unknown"])
        assert run.checkpoint.status is ThreadStatus.NEW
    assert await ledger.statuses("t") == ["rejected"]
    assert (await durable.threads.status("t")).status is ThreadStatus.NEW
    async with durable.run("t", graph, config=config(log)) as run:
        assert (await run.ainvoke(INPUT))["words"] == list(STEPS)


async def test_an_input_that_cannot_be_stored_is_refused_and_nothing_runs(
    durable: Durable, ledger: Ledger, log: Path
) -> None:
    async with durable.run("t", four_nodes(), config=config(log)) as run:
        with pytest.raises(InvalidArgumentError, match="cannot store the input"):
            await run.ainvoke({"words": [lambda: None], "told": ""})
    assert await ledger.rows("t") == []
    assert noted(log) == []


async def test_a_users_own_exception_in_the_body_stays_itself(
    durable: Durable, ledger: Ledger
) -> None:
    class Mine(Exception):
        pass

    with pytest.raises(Mine):
        async with durable.run("t", four_nodes()) as run:
            await run.ainvoke(INPUT)
            raise Mine
    assert await ledger.statuses("t") == ["complete"]
    await assert_free(durable)


async def test_parallel_siblings_that_finished_are_not_run_again(
    durable: Durable, ledger: Ledger, log: Path
) -> None:
    others = asyncio.Event()
    broken = True

    async def inner(number: int) -> None:
        if number == 1 and broken:
            await others.wait()
            raise ValueError(number)
        if number == 2:
            others.set()

    graph = fan_out(3, inner)
    async with durable.run("t", graph, config=config(log)) as run:
        with pytest.raises(ValueError, match="1"):
            await run.ainvoke({"parts": [], "total": 0})
    broken = False
    async with durable.run("t", graph, config=config(log)) as run:
        assert (await run.ainvoke())["total"] == 3
    assert noted(log).count("part 0") == noted(log).count("part 2") == 1
    assert noted(log).count("part 1") == 2


async def test_a_router_that_raises_does_not_lose_the_rest_of_the_graph(
    durable: Durable, ledger: Ledger
) -> None:
    # LangGraph alone stores the node's output beside the error, takes the node for done, and skips
    # the rest (langgraph#8834).
    broken = True

    def route(state: Story) -> str:
        if broken:
            raise ValueError("which way?")
        return "after"

    builder = StateGraph(Story)
    builder.add_node("before", lambda state: {"words": ["before"]})
    builder.add_node("after", lambda state: {"words": ["after"], "told": "all"})
    builder.add_edge(START, "before")
    builder.add_conditional_edges("before", route, ["after"])
    async with durable.run("t", builder) as run:
        with pytest.raises(ValueError, match="which way"):
            await run.ainvoke(INPUT)
    assert (await durable.threads.status("t")).status is ThreadStatus.FAILED
    broken = False
    async with durable.run("t", builder) as run:
        assert (await run.ainvoke())["told"] == "all"
    assert await ledger.statuses("t") == ["complete"]


async def test_one_call_at_a_time(durable: Durable) -> None:
    gate = Gate("sort")
    async with durable.run("t", four_nodes(gate)) as run:
        call = asyncio.create_task(run.ainvoke(INPUT))
        await gate.reached.wait()
        with pytest.raises(WorkflowExecutionError, match="another call"):
            await run.ainvoke(INPUT)
        call.cancel()
        await asyncio.wait({call})


async def test_the_same_run_id_never_runs_twice(
    durable: Durable, ledger: Ledger, log: Path
) -> None:
    graph = four_nodes()
    results: list[Any] = []
    for _ in range(2):
        async with durable.run("t", graph, run_id="order-1", config=config(log)) as run:
            results.append(await run.ainvoke({"words": ["first"], "told": ""}))
    assert results[0] == results[1]
    assert noted(log) == list(STEPS)
    # Also after the thread has moved on, the result is the run's own.
    async with durable.run("t", graph, run_id="order-2", config=config(log)) as run:
        later = await run.ainvoke({"words": ["third"], "told": ""})
    async with durable.run("t", graph, run_id="order-1", config=config(log)) as run:
        assert await run.ainvoke({"words": ["first"], "told": ""}) == results[0] != later
        with pytest.raises(InvalidArgumentError, match="another input"):
            await run.ainvoke({"words": ["second"], "told": ""})
    assert await ledger.statuses("t") == ["complete", "complete"]


async def test_the_same_run_id_resumes_what_it_left(
    durable: Durable, ledger: Ledger, log: Path
) -> None:
    broken = True

    async def before(step: str) -> None:
        if step == "tell" and broken:
            raise ValueError(step)

    graph = four_nodes(before)
    async with durable.run("t", graph, run_id="order-1", config=config(log)) as run:
        with pytest.raises(ValueError, match="tell"):
            await run.ainvoke(INPUT)
    broken = False
    async with durable.run("t", graph, run_id="order-1", config=config(log)) as run:
        assert (await run.ainvoke(INPUT))["words"] == list(STEPS)
        assert run.resumed
    assert await ledger.statuses("t") == ["complete"]


async def test_a_run_id_of_another_thread_or_one_given_up_is_refused(durable: Durable) -> None:
    async def fail(step: str) -> None:
        raise ValueError(step)

    graph = four_nodes(fail)
    async with durable.run("t", graph, run_id="order-1") as run:
        with pytest.raises(ValueError, match="collect"):
            await run.ainvoke(INPUT)
    async with durable.run("u", graph, run_id="order-1") as run:
        with pytest.raises(InvalidArgumentError, match="'t'"):
            await run.ainvoke(INPUT)
    async with durable.run("t", graph, run_id="order-2") as run:
        with pytest.raises(ValueError, match="collect"):
            await run.ainvoke(INPUT, on_unfinished="restart")
    async with durable.run("t", graph, run_id="order-1") as run:
        with pytest.raises(InvalidArgumentError, match="given up"):
            await run.ainvoke(INPUT)


async def test_the_context_comes_back_when_a_run_goes_on(durable: Durable) -> None:
    seen: list[Any] = []
    builder = StateGraph(Story, context_schema=dict)

    async def node(state: Story, runtime: Any) -> dict[str, Any]:
        seen.append(runtime.context)
        if len(seen) == 1:
            raise ValueError("once")
        return {}

    from langgraph.runtime import Runtime

    node.__annotations__["runtime"] = Runtime
    builder.add_node("node", node)
    builder.add_edge(START, "node")
    async with durable.run("t", builder, context={"tenant": "blue"}) as run:
        with pytest.raises(ValueError, match="once"):
            await run.ainvoke(INPUT)
    async with durable.run("t", builder) as run:
        await run.ainvoke()
    assert seen == [{"tenant": "blue"}, {"tenant": "blue"}]


async def test_a_run_of_another_thread_inside_a_node_keeps_to_itself(
    durable: Durable, ledger: Ledger, log: Path
) -> None:
    inner = four_nodes()

    async def call(step: str) -> None:
        if step == "sort":
            for _ in range(2):
                async with durable.run("inner", inner, config=config(log)) as run:
                    await run.ainvoke(INPUT)

    async with durable.run("outer", four_nodes(call)) as run:
        result = await run.ainvoke(INPUT)
    assert result["words"] == list(STEPS)
    assert noted(log) == [*STEPS, *STEPS]
    assert await ledger.statuses("inner") == ["complete", "complete"]
    assert (await durable.threads.status("inner")).status is ThreadStatus.COMPLETE


async def test_observers_get_events_and_a_failing_one_does_not_reach_the_run(
    dsn: str, caplog: pytest.LogCaptureFixture
) -> None:
    seen: list[Event] = []

    def broken(event: Event) -> None:
        raise RuntimeError("observer")

    async with (
        Durable(dsn, observers=[inline(broken), inline(seen.append)]) as durable,
        durable.run("t", four_nodes()) as run,
    ):
        await run.ainvoke(INPUT)
    batches = [event for event in seen if isinstance(event, BatchCommitted)]
    assert batches
    assert {event.thread_ids for event in batches} == {("t",)}
    others = [event for event in seen if not isinstance(event, BatchCommitted)]
    kinds = [type(event).__name__ for event in others]
    assert kinds == ["LeaseAcquired", "AttemptStarted", "AttemptEnded", "LeaseReleased"]
    started, finished, released = others[1:]
    assert isinstance(started, AttemptStarted)
    assert isinstance(finished, AttemptEnded)
    assert isinstance(released, LeaseReleased)
    assert (started.attempt, started.resumed, finished.status, finished.error) == (
        1,
        False,
        RunStatus.COMPLETE,
        None,
    )
    assert released.token == 1
    assert "observer" in caplog.text


@pytest.mark.parametrize("ends", ["complete", "paused", "failed", "interrupted"])
async def test_a_call_leaves_the_checkpoint_that_anybody_reads_afterwards(
    durable: Durable, log: Path, ends: str
) -> None:
    async def before(step: str) -> None:
        if step == "sort" and ends == "failed":
            raise ValueError(step)

    graph = asking() if ends == "interrupted" else four_nodes(before)
    stop: Any = {"interrupt_before": ["sort"]} if ends == "paused" else {}
    async with durable.run("t", graph, config=config(log)) as run:
        with contextlib.suppress(ValueError):
            await run.ainvoke(INPUT, **stop)
    assert run.checkpoint == await durable.threads.status("t")
    assert run.checkpoint.status == ends
    assert run.checkpoint.started_at is not None
    assert run.checkpoint.finished_at is not None
    assert run.checkpoint.started_at <= run.checkpoint.finished_at
    assert run.checkpoint.failed_at == (run.checkpoint.finished_at if ends == "failed" else None)
