"""`retry`: what failed runs again, what finished does not, and nothing is skipped."""

from __future__ import annotations

from typing import Any

import psycopg
import pytest
from langgraph.checkpoint.postgres.aio import AsyncPostgresSaver
from langgraph.graph import START, StateGraph
from langgraph.types import Send

from aiodurable.checkpoints.fences import Fence
from aiodurable.checkpoints.repair import repair_tasks
from aiodurable.checkpoints.write_session import WriteSession
from aiodurable.durable import Durable
from aiodurable.errors import (
    LeaseLostError,
    LockTimeoutError,
    ThreadCompleteError,
    ThreadInterruptedError,
    ThreadNotFoundError,
    ThreadQuarantinedError,
    WorkflowAlreadyRunningError,
)
from aiodurable.events import Event, ThreadRepaired, inline
from aiodurable.postgres import locked_rows
from tests.support.graphs import asking
from tests.support.internals import services_of
from tests.support.ledger_view import Ledger
from tests.support.scenario_graphs import BREAKS, State, chain, ok
from tests.support.waiting import within

INPUT: dict[str, Any] = {"xs": []}


@pytest.fixture
def told() -> list[Event]:
    return []


@pytest.fixture
async def durable(dsn: str, told: list[Event]) -> Any:
    async with Durable(dsn, observers=[inline(told.append)]) as opened:
        yield opened


def router(target: Any = "b") -> Any:
    def route(state: Any) -> Any:
        if "router" in BREAKS:
            raise ValueError("the router is broken")
        return target

    return route


def routed() -> StateGraph[Any, Any, Any, Any]:
    """a → b, by a router that can break."""
    builder = StateGraph(State)
    builder.add_node("a", ok("a"))
    builder.add_node("b", ok("b"))
    builder.add_edge(START, "a")
    builder.add_conditional_edges("a", router(), ["b"])
    return builder


def beside() -> StateGraph[Any, Any, Any, Any]:
    """a and c at once; the router after a can break."""
    builder = routed()
    builder.add_node("c", ok("c"))
    builder.add_edge(START, "c")
    return builder


def sent() -> StateGraph[Any, Any, Any, Any]:
    """Two parts by Send, each followed by a router that can break."""
    builder = StateGraph(State)
    builder.add_node("split", ok("split"))
    builder.add_node("a", ok("a"))
    builder.add_node("b", ok("b"))
    builder.add_edge(START, "split")
    builder.add_conditional_edges("split", lambda _: [Send("a", {}), Send("a", {})], ["a"])
    builder.add_conditional_edges("a", router(), ["b"])
    return builder


def nested(**options: Any) -> StateGraph[Any, Any, Any, Any]:
    return chain(
        before=ok("before"),
        inner=chain(deep=routed().compile(**options)).compile(**options),
        z=ok("z"),
    )


async def left_by_langgraph(
    dsn: str, graph: StateGraph[Any, Any, Any, Any], given: Any = INPUT
) -> None:
    async with AsyncPostgresSaver.from_conn_string(dsn) as saver:
        with pytest.raises(ValueError, match="broken"):
            await graph.compile(checkpointer=saver).ainvoke(
                given, {"configurable": {"thread_id": "t"}}
            )


@pytest.mark.parametrize(
    ("graph", "result", "repaired"),
    [
        (routed, ["a", "b"], ("a",)),
        (beside, ["a", "c", "b"], ("a",)),
        (sent, ["split", "a", "b"], ("a Send",)),
        (nested, ["before", "a", "b", "z"], ("inner/deep/a",)),
        (lambda: nested(checkpointer=True), ["before", "a", "b", "z"], ("inner/deep/a",)),
    ],
    ids=["root", "beside another", "sends", "subgraphs", "subgraphs with a memory"],
)
@pytest.mark.parametrize("verb", ["retry", "resume"])
async def test_a_node_whose_router_raised_runs_again_with_all_that_follows(
    durable: Durable,
    dsn: str,
    told: list[Event],
    graph: Any,
    result: list[str],
    repaired: tuple[str, ...],
    verb: str,
) -> None:
    BREAKS.add("router")
    await left_by_langgraph(dsn, graph())
    BREAKS.clear()
    ran = (await getattr(durable.threads, verb)("t", graph()))["xs"]
    assert list(dict.fromkeys(ran)) == result, "a subgraph gives back what it was given, too"
    assert [set(event.nodes) for event in told if isinstance(event, ThreadRepaired)] == [
        set(repaired)
    ]
    assert (await durable.threads.status("t")).status == "complete"


async def test_a_router_that_raises_under_a_lease_poisons_nothing(
    durable: Durable, told: list[Event]
) -> None:
    BREAKS.add("router")
    async with durable.run("t", routed()) as run:
        with pytest.raises(ValueError, match="router"):
            await run.ainvoke(INPUT)
    BREAKS.clear()
    assert (await durable.threads.retry("t", routed()))["xs"] == ["a", "b"]
    assert not any(isinstance(event, ThreadRepaired) for event in told)


async def test_what_was_healed_and_fails_again_is_not_finished(durable: Durable, dsn: str) -> None:
    BREAKS.add("router")
    await left_by_langgraph(dsn, routed())
    for _ in range(2):
        with pytest.raises(ValueError, match="router"):
            await durable.threads.retry("t", routed())
        assert (await durable.threads.status("t")).status == "failed"
    BREAKS.clear()
    assert (await durable.threads.retry("t", routed()))["xs"] == ["a", "b"]


async def test_a_stale_fence_heals_nothing(durable: Durable, dsn: str) -> None:
    BREAKS.add("router")
    await left_by_langgraph(dsn, routed())
    async with durable.hold("t") as lease:
        database, (token, lease_id) = (
            services_of(durable).checkpoints.database,
            lease.fence.standing,
        )
        for stale in (Fence("t", token - 1, lease_id), Fence("t", token, lease_id - 1)):
            with pytest.raises(LeaseLostError):
                await repair_tasks(database, WriteSession(stale))
        tasks, _ = await repair_tasks(database, lease.session)
        assert len(tasks) == 1, "it is still there to repair"


async def test_a_repair_waits_for_a_locked_row_a_bounded_time(
    durable: Durable, dsn: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    BREAKS.add("router")
    await left_by_langgraph(dsn, routed())
    monkeypatch.setattr(locked_rows, "PATIENCE_S", 0.3)
    async with durable.hold("t") as lease:
        database = services_of(durable).checkpoints.database
        with psycopg.connect(dsn) as other:
            other.execute("SELECT FROM aiodurable_fences WHERE thread_id = 't' FOR UPDATE")
            with pytest.raises(LockTimeoutError, match="cannot repair thread 't'"):
                await within(10, repair_tasks(database, lease.session))
        tasks, _ = await repair_tasks(database, lease.session)
        assert len(tasks) == 1, "it is still there to repair"


async def test_a_retry_is_one_more_attempt_of_the_same_run_and_repeats_the_failed_node_alone(
    durable: Durable, ledger: Ledger
) -> None:
    graph = chain(a=ok("a"), b=ok("b"))
    BREAKS.add("b")
    async with durable.run("t", graph) as run:
        with pytest.raises(ValueError, match="b is broken"):
            await run.ainvoke(INPUT)
    with pytest.raises(ValueError, match="b is broken"):
        await durable.threads.retry("t", graph)
    BREAKS.clear()
    assert (await durable.threads.retry("t", graph))["xs"] == ["a", "b"]
    [row] = await ledger.rows("t")
    assert (row["run_id"], row["attempts"], row["status"]) == (run.run_id, 3, "complete")


async def test_retry_clears_a_quarantine_that_resume_refuses(
    durable: Durable, dsn: str, ledger: Ledger
) -> None:
    graph = chain(a=ok("a"))
    BREAKS.add("a")
    async with durable.run("t", graph) as run:
        with pytest.raises(ValueError, match="a is broken"):
            await run.ainvoke(INPUT)
    with psycopg.connect(dsn) as connection:
        connection.execute(
            "UPDATE aiodurable_runs SET status = 'quarantined', attempts = 5, status_reason = '5"
            " attempts'"
        )
    BREAKS.clear()
    with pytest.raises(ThreadQuarantinedError, match="retry"):
        await durable.threads.resume("t", graph)
    assert (await durable.threads.retry("t", graph))["xs"] == ["a"]
    [row] = await ledger.rows("t")
    assert (row["status"], row["attempts"], row["status_reason"]) == ("complete", 6, None)


async def test_a_paused_thread_goes_on_when_retried(durable: Durable) -> None:
    graph = chain(a=ok("a"), b=ok("b"))
    async with durable.run("t", graph) as run:
        await run.ainvoke(INPUT, interrupt_before=["b"])
    assert (await durable.threads.retry("t", graph))["xs"] == ["a", "b"]


async def test_what_cannot_be_retried_is_refused_and_stays_as_it_was(
    durable: Durable, ledger: Ledger
) -> None:
    graph = chain(a=ok("a"))
    with pytest.raises(ThreadNotFoundError):
        await durable.threads.retry("nobody")
    async with durable.run("done", graph) as run:
        await run.ainvoke(INPUT)
        with pytest.raises(WorkflowAlreadyRunningError):
            await durable.threads.retry("done", graph)
    with pytest.raises(ThreadCompleteError, match="complete"):
        await durable.threads.retry("done", graph)
    async with durable.run("asks", asking()) as run:
        await run.ainvoke({"words": [], "told": ""})
    with pytest.raises(ThreadInterruptedError):
        await durable.threads.retry("asks", asking())
    assert await ledger.statuses("done") == ["complete"]
    assert await ledger.statuses("asks") == ["interrupted"]
