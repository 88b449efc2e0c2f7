"""What a node is given beside its state: timeouts, defaults, its attempt, limits."""

from __future__ import annotations

import asyncio
import time
from typing import Any

import psycopg
import pytest
from langgraph.errors import GraphRecursionError, NodeTimeoutError
from langgraph.graph import END, START, StateGraph
from langgraph.runtime import Runtime
from langgraph.types import RetryPolicy, TimeoutPolicy

from aiodurable.durable import Durable
from aiodurable.errors import LeaseLostError
from aiodurable.idempotency import idempotency_key
from aiodurable.models import ThreadStatus
from aiodurable.settings import Settings
from tests.support.feature_graphs import AT_ONCE, EMPTY
from tests.support.graphs import STEPS, Story, four_nodes
from tests.support.ledger_view import Ledger

ONCE = RetryPolicy(max_attempts=1)


def single(node: Any, **policies: Any) -> StateGraph[Any, Any, Any, Any]:
    builder = StateGraph(Story).add_node("node", node, **policies)
    return builder.add_edge(START, "node").add_edge("node", END)


@pytest.mark.parametrize(
    "policy",
    [TimeoutPolicy(run_timeout=0.5), TimeoutPolicy(idle_timeout=0.5)],
    ids=["run", "idle"],
)
async def test_a_node_that_takes_too_long_fails_its_run_and_is_run_again(
    durable: Durable, ledger: Ledger, policy: TimeoutPolicy
) -> None:
    hangs = True

    async def node(state: Story) -> dict[str, Any]:
        if hangs:
            await asyncio.Event().wait()
        return {"words": ["done"]}

    graph = single(node, timeout=policy, retry_policy=ONCE)
    async with durable.run("t", graph) as run:
        with pytest.raises(NodeTimeoutError):
            await run.ainvoke(EMPTY)
    status = await durable.threads.status("t")
    assert (status.status, status.failed_node) == (ThreadStatus.FAILED, "node")
    hangs = False
    async with durable.run("t", graph) as run:
        assert (await run.ainvoke())["words"] == ["done"]
    [row] = await ledger.rows("t")
    assert (row["status"], row["attempts"]) == ("complete", 2)


async def test_a_timeout_that_langgraph_tries_again_is_no_attempt_of_the_run(
    durable: Durable, ledger: Ledger
) -> None:
    calls: list[int] = []

    async def node(state: Story, runtime: Runtime[Any]) -> dict[str, Any]:
        assert runtime.execution_info is not None
        calls.append(runtime.execution_info.node_attempt)
        if len(calls) == 1:
            await asyncio.Event().wait()
        return {"words": ["done"]}

    retry = RetryPolicy(initial_interval=0.001, jitter=False)
    async with durable.run(
        "t", single(node, timeout=TimeoutPolicy(run_timeout=0.5), retry_policy=retry)
    ) as run:
        assert (await run.ainvoke(EMPTY))["words"] == ["done"]
    assert calls == [1, 2]
    [row] = await ledger.rows("t")
    assert (row["status"], row["attempts"]) == ("complete", 1)


async def test_a_heartbeat_keeps_a_node_that_says_nothing_else(durable: Durable) -> None:
    idle = 1.0

    async def node(state: Story, runtime: Runtime[Any]) -> dict[str, Any]:
        began = time.monotonic()
        while time.monotonic() < began + 1.5 * idle:
            await asyncio.sleep(0)
            runtime.heartbeat()
        return {"words": ["done"]}

    policy = TimeoutPolicy(idle_timeout=idle, refresh_on="heartbeat")
    async with durable.run("t", single(node, timeout=policy, retry_policy=ONCE)) as run:
        assert (await run.ainvoke(EMPTY))["words"] == ["done"]


async def test_a_lease_lost_under_a_node_with_a_timeout_is_a_lost_lease(dsn: str) -> None:
    """Neither LangGraph's timeout nor its retry takes our cancellation for its own."""
    reached = asyncio.Event()
    calls = 0

    async def node(state: Story) -> dict[str, Any]:
        nonlocal calls
        calls += 1
        reached.set()
        await asyncio.Event().wait()
        return {}

    graph = single(
        node, timeout=TimeoutPolicy(run_timeout=60, idle_timeout=60), retry_policy=RetryPolicy()
    )
    async with Durable(dsn, settings=Settings(recovery_grace_s=0)) as durable:

        async def body() -> None:
            async with durable.run("t", graph) as run:
                await run.ainvoke(EMPTY)

        task = asyncio.create_task(body())
        await reached.wait()
        async with await psycopg.AsyncConnection.connect(dsn, autocommit=True) as connection:
            await connection.execute(
                "SELECT pg_terminate_backend(pid) FROM pg_stat_activity"
                " WHERE application_name LIKE 'aiodurable:lock%' AND datname = current_database()"
            )
        with pytest.raises(LeaseLostError):
            await task
    assert calls == 1


async def test_the_defaults_of_a_graph_hold_in_a_durable_run(
    durable: Durable, ledger: Ledger
) -> None:
    attempts: list[int] = []

    async def node(state: Story, runtime: Runtime[Any]) -> dict[str, Any]:
        assert runtime.execution_info is not None
        attempts.append(runtime.execution_info.node_attempt)
        if len(attempts) < 3:
            raise ConnectionError
        return {"words": ["done"]}

    async def mend(state: Story) -> dict[str, Any]:
        return {"words": ["mended"]}

    async def fails(state: Story) -> dict[str, Any]:
        raise ZeroDivisionError

    builder = StateGraph(Story).set_node_defaults(retry_policy=AT_ONCE, error_handler=mend)
    builder.add_node("node", node).add_node("fails", fails)
    builder.add_edge(START, "node").add_edge("node", "fails").add_edge("fails", END)
    async with durable.run("t", builder) as run:
        assert (await run.ainvoke(EMPTY))["words"] == ["done", "mended"]
    assert attempts == [1, 2, 3]
    [row] = await ledger.rows("t")
    assert (row["status"], row["attempts"], row["error"]) == ("complete", 1, None)


async def test_what_a_node_learns_of_itself_agrees_with_its_idempotency_key(
    durable: Durable,
) -> None:
    """The key is of the task: the same for each try of it, in this run or after a failure."""
    seen: list[tuple[Any, ...]] = []
    broken = True

    async def node(state: Story, runtime: Runtime[Any]) -> dict[str, Any]:
        info = runtime.execution_info
        assert info is not None
        seen.append(
            (idempotency_key(), info.thread_id, info.task_id, info.checkpoint_ns, info.node_attempt)
        )
        if info.node_attempt < 3:
            raise ConnectionError
        if broken:
            raise ZeroDivisionError
        return {}

    graph = single(node, retry_policy=AT_ONCE)
    async with durable.run("t", graph) as run:
        with pytest.raises(ZeroDivisionError):
            await run.ainvoke(EMPTY)
        broken = False
        await run.ainvoke()
    assert [each[-1] for each in seen] == [1, 2, 3, 1, 2, 3]
    assert len({each[:4] for each in seen}) == 1
    _, thread_id, task_id, namespace, _ = seen[0]
    assert thread_id == "t"
    assert namespace.endswith(task_id)


async def test_a_limit_of_steps_given_to_a_run_counts_whatever_it_is(durable: Durable) -> None:
    """10007 is LangGraph's default: given on purpose, it must not be taken for none."""
    limited = four_nodes().compile().with_config(recursion_limit=2)
    async with durable.run("t", limited, config={"recursion_limit": 10007}) as run:
        assert (await run.ainvoke(EMPTY))["words"] == list(STEPS)
    async with durable.run("u", four_nodes(), config={"recursion_limit": 2}) as run:
        with pytest.raises(GraphRecursionError):
            await run.ainvoke(EMPTY)
    status = await durable.threads.status("u")
    assert (status.status, status.reason) == (ThreadStatus.PAUSED, "recursion limit")
    async with durable.run("u", four_nodes(), config={"recursion_limit": 10007}) as run:
        assert (await run.ainvoke())["words"] == list(STEPS)
