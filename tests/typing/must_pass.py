"""What a caller may write. basedpyright and `mypy --strict` accept every line."""

import asyncio
from collections.abc import Sequence
from datetime import timedelta
from typing import Any, TypedDict, assert_type

from langgraph.graph import START, StateGraph
from langgraph.types import Command, GraphOutput

from aiodurable import (
    ClaimState,
    Durable,
    DurableGraph,
    DurableRun,
    LockableWorkflowMixin,
    NewRun,
    QueueStatus,
    RetryPolicy,
    RunPage,
    RunRecord,
    RunStatus,
    Snooze,
    ThreadStatus,
    Worker,
    WorkflowCheckpoint,
    WorkflowExecutor,
    durable_run,
    find_failed_workflows,
    get_checkpoint_status,
    resume_workflow,
    with_workflow_lock,
)


class Topic(TypedDict):
    topic: str


class Report(TypedDict):
    topic: str
    text: str


class Tenant(TypedDict):
    name: str


def write(state: Topic) -> dict[str, str]:
    return {"text": state["topic"]}


builder = StateGraph(Report, context_schema=Tenant, input_schema=Topic)
builder.add_node("write", write)
builder.add_edge(START, "write")
compiled = builder.compile()


async def a_builder_gives_a_run_of_its_types(durable: Durable) -> None:
    async with durable.run("t", builder, context={"name": "red"}) as run:
        assert_type(run, DurableRun[Topic, Report, Tenant])
        result = await run.ainvoke({"topic": "tides"})
        assert_type(result, Report)
        assert_type(await run.ainvoke(), Report)
        assert_type(await run.ainvoke(Command(resume="yes"), {"tags": ["a"]}), Report)
        assert_type(await run.ainvoke({"topic": "tides"}, version="v2"), GraphOutput[Report])
        assert_type(await run.answer("yes"), Report)
        async for _ in run.astream(
            {"topic": "tides"}, stream_mode=["updates", "values"], subgraphs=True
        ):
            pass
        async for event in run.astream_events({"topic": "tides"}, include_names=["write"]):
            assert_type(event["event"], str)


async def a_compiled_graph_too(durable: Durable) -> None:
    async with durable.run("t", compiled, run_id="r", on_busy="wait", timeout=5) as run:
        assert_type(run, DurableRun[Topic, Report, Tenant])
    async with durable_run(
        "t", compiled, durable=durable, on_busy="wait", context={"name": "red"}
    ) as run:
        assert_type(run, DurableRun[Topic, Report, Tenant])


async def a_name_gives_a_run_of_any_type(durable: Durable) -> None:
    async with durable.run("t", "report") as run:
        assert_type(run, DurableRun[Any, Any, Any])
        await run.ainvoke({"anything": 1})
    async with durable_run("t", "report", dsn="postgresql://") as run:
        assert_type(run, DurableRun[Any, Any, Any])


async def a_wrapped_graph_has_its_types(durable: Durable) -> None:
    graph = durable.wrap(builder)
    assert_type(graph, DurableGraph[Topic, Report, Tenant])
    config: Any = {"configurable": {"thread_id": "t"}}
    assert_type(await graph.ainvoke({"topic": "tides"}, config), Report)
    assert_type(durable.wrap("report"), DurableGraph[Any, Any, Any])


async def an_executor_has_its_types(durable: Durable) -> None:
    executor = WorkflowExecutor(builder, durable=durable)
    assert_type(executor, WorkflowExecutor[Topic, Report, Tenant])
    assert_type(await executor.execute("t", {"topic": "tides"}, run_id="r"), Report)
    assert_type(await executor.answer("t", "yes"), Report)
    assert_type(WorkflowExecutor("report"), WorkflowExecutor[Any, Any, Any])


async def threads_are_found_by_status(durable: Durable) -> None:
    async for thread in durable.threads.search(status="failed", orphaned=False):
        assert_type(thread, WorkflowCheckpoint)
    async for thread in durable.threads.search(status=["failed", ThreadStatus.CRASHED]):
        assert_type(thread.status, ThreadStatus)
    async for thread in find_failed_workflows(status=ThreadStatus.INTERRUPTED, graph="report"):
        await resume_workflow(thread.thread_id, on_busy="wait", timeout=1, past_gate=True)
    assert_type(await get_checkpoint_status("t"), WorkflowCheckpoint)
    counts = await durable.threads.count(status="failed")
    assert_type(counts.total, int)


async def a_run_is_accepted_with_the_types_of_its_graph(durable: Durable) -> None:
    policy = RetryPolicy(max_attempts=5, initial_s=1, non_retryable=(ValueError, "shop.Refused"))
    run = await durable.runs.create(
        "t",
        builder,
        {"topic": "tides"},
        context={"name": "red"},
        on_busy="enqueue",
        after=timedelta(minutes=1),
        retry_policy=policy,
        metadata={"tenant": "red"},
    )
    assert_type(run, RunRecord)
    assert_type(run.claim_state, ClaimState | None)
    assert_type(await durable.runs.create("t", "report", {"anything": 1}, after=5), RunRecord)
    new = [NewRun(thread_id=f"t{at}", graph="report", input={}, priority=at) for at in range(3)]
    assert_type(await durable.runs.create_many(new), tuple[RunRecord, ...])
    assert_type(await durable.runs.create_many(each for each in new), tuple[RunRecord, ...])


async def a_result_has_the_type_of_the_graph_that_reads_it(durable: Durable) -> None:
    assert_type(await durable.runs.wait("r", builder, timeout=5), Report)
    assert_type(await durable.runs.wait("r", compiled), Report)
    assert_type(await durable.runs.wait("r"), Any)
    assert_type(await durable.runs.wait("r", "report"), Any)
    assert_type(await durable.runs.wait_first(["r", "s"], timeout=5), RunRecord)


async def runs_are_found_by_their_filters(durable: Durable) -> None:
    page = await durable.runs.list(
        status=["queued", RunStatus.RUNNING],
        claim_state=ClaimState.READY,
        queue="slow",
        metadata={"tenant": "red"},
        older_than=timedelta(days=1),
    )
    assert_type(page, RunPage)
    runs, after = page
    assert_type(runs, tuple[RunRecord, ...])
    await durable.runs.list(status="failed", after=after, limit=10)
    assert_type(await durable.runs.cancel_many(queue="slow", dry_run=True), tuple[str, ...])
    assert_type(await durable.runs.cancel("r", wait=True, timeout=5), RunRecord)
    await durable.runs.resume_many(concurrency=5, graph="report")


async def a_worker_serves_queues(durable: Durable) -> None:
    policies = {"report": RetryPolicy(max_attempts=2)}
    async with durable.work(["slow", "default"], concurrency=5, retry_policy=policies) as worker:
        assert_type(worker, Worker)
        assert_type(worker.health().healthy, bool)
        await worker.run_forever()
    await durable.queues.scale("slow", max_running=2, rate=0.5, burst=1)
    assert_type(await durable.queues.list(), tuple[QueueStatus, ...])
    raise Snooze(60)


@with_workflow_lock("order_id")
async def charge(order_id: str, cents: int) -> bool:
    return cents > 0 and bool(order_id)


class Order(LockableWorkflowMixin):
    thread_id = "order-1"

    async def ship(self) -> Sequence[str]:
        async with self.workflow_run("report", run_id="r") as run:
            await run.ainvoke({"topic": "tides"})
        return []


async def a_locked_function_keeps_its_signature() -> None:
    task = asyncio.create_task(charge("order-1", 5))
    assert_type(await task, bool)
