"""Every way in keeps the same promises: run, free function, executor, decorator, mixin."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any

import pytest

from aiodurable.current import durable_run
from aiodurable.durable import Durable
from aiodurable.errors import ConfigurationError, InvalidArgumentError, WorkflowAlreadyRunningError
from aiodurable.models import ThreadStatus
from aiodurable.workflow import LockableWorkflowMixin, WorkflowExecutor, with_workflow_lock
from tests.support.graphs import INPUT, STEPS, Gate, four_nodes
from tests.support.waiting import wait_until

Entry = Callable[[Durable, Any, str], Awaitable[Any]]
"""Runs the graph builder on the thread, through one of the ways in."""


async def plainly(durable: Durable, builder: Any, thread_id: str) -> Any:
    """What a body under a mere lock does: LangGraph's own call with the Durable's saver."""
    graph = builder.compile(checkpointer=durable.checkpointer)
    config: Any = {"configurable": {"thread_id": thread_id}}
    left = (await graph.aget_state(config)).next
    return await graph.ainvoke(None if left else INPUT, config, durability="sync")


async def by_run(durable: Durable, builder: Any, thread_id: str) -> Any:
    async with durable.run(thread_id, builder) as run:
        return await run.ainvoke(INPUT)


async def by_free_function(durable: Durable, builder: Any, thread_id: str) -> Any:
    async with durable_run(thread_id, builder) as run:
        return await run.ainvoke(INPUT)


async def by_dsn(durable: Durable, builder: Any, thread_id: str) -> Any:
    async with durable_run(thread_id, graph=builder, dsn=durable.dsn.conninfo) as run:
        return await run.ainvoke(INPUT)


async def by_executor(durable: Durable, builder: Any, thread_id: str) -> Any:
    return await WorkflowExecutor(builder, durable=durable).execute(thread_id, INPUT)


async def by_decorated_function(durable: Durable, builder: Any, thread_id: str) -> Any:
    @with_workflow_lock("order")
    async def work(what: Any, order: str) -> Any:
        return await plainly(durable, what, order)

    return await work(builder, order=thread_id)


async def by_decorated_method(durable: Durable, builder: Any, thread_id: str) -> Any:
    class Orders:
        @with_workflow_lock(durable=durable)
        async def work(self, thread_id: str) -> Any:
            """Works."""
            return await plainly(durable, builder, thread_id)

    assert Orders.work.__doc__ == "Works."
    return await Orders().work(thread_id)


class Order(LockableWorkflowMixin):
    def __init__(self, thread_id: str, durable: Durable) -> None:
        self.thread_id = thread_id
        self.durable = durable


async def by_mixin_lock(durable: Durable, builder: Any, thread_id: str) -> Any:
    order = Order(thread_id, durable)
    async with order.workflow_lock():
        return await plainly(durable, builder, thread_id)


async def by_mixin_run(durable: Durable, builder: Any, thread_id: str) -> Any:
    order = Order(thread_id, durable)
    async with order.workflow_run(builder) as run:
        return await run.ainvoke(INPUT)


ENTRIES = [
    by_run,
    by_free_function,
    by_dsn,
    by_executor,
    by_decorated_function,
    by_decorated_method,
    by_mixin_lock,
    by_mixin_run,
]


@pytest.fixture(params=ENTRIES, ids=lambda entry: entry.__name__)
def entry(request: pytest.FixtureRequest) -> Entry:
    return request.param


@pytest.fixture
async def durable(dsn: str) -> AsyncIterator[Durable]:
    async with Durable(dsn) as opened:
        yield opened


async def test_it_runs_to_the_end_and_lets_go(durable: Durable, entry: Entry) -> None:
    result = await entry(durable, four_nodes(), "t")
    assert result["words"] == list(STEPS)
    status = await durable.threads.status("t")
    assert (status.status, status.holder) == (ThreadStatus.COMPLETE, None)


async def test_a_second_one_is_refused_while_the_first_works(
    durable: Durable, entry: Entry
) -> None:
    gate = Gate("sort")
    first = asyncio.create_task(entry(durable, four_nodes(gate), "t"))
    await gate.reached.wait()
    assert (await durable.threads.status("t")).status is ThreadStatus.RUNNING
    with pytest.raises(WorkflowAlreadyRunningError) as refused:
        await entry(durable, four_nodes(), "t")
    assert refused.value.holder is not None
    gate.open.set()
    assert (await first)["words"] == list(STEPS)


async def test_other_threads_are_not_in_its_way(durable: Durable, entry: Entry) -> None:
    results = await asyncio.gather(*(entry(durable, four_nodes(), f"t{n}") for n in range(5)))
    assert [result["words"] for result in results] == [list(STEPS)] * 5


async def test_an_exception_of_a_node_comes_out_as_it_is_and_the_next_call_goes_on(
    durable: Durable, entry: Entry
) -> None:
    broken = True

    async def before(step: str) -> None:
        if step == "weigh" and broken:
            raise ZeroDivisionError(step)

    builder = four_nodes(before)
    with pytest.raises(ZeroDivisionError, match="weigh"):
        await entry(durable, builder, "t")
    status = await durable.threads.status("t")
    assert (status.status, status.failed_node, status.holder) == (
        ThreadStatus.FAILED,
        "weigh",
        None,
    )
    broken = False
    assert (await entry(durable, builder, "t"))["words"] == list(STEPS)


async def test_a_cancellation_comes_out_as_it_is_and_the_thread_is_free(
    durable: Durable, entry: Entry
) -> None:
    gate = Gate("sort")
    call = asyncio.create_task(entry(durable, four_nodes(gate), "t"))
    await gate.reached.wait()
    call.cancel()
    with pytest.raises(asyncio.CancelledError):
        await call
    await wait_until(lambda: _is_free(durable))
    gate.open.set()
    assert (await durable.threads.resume("t", four_nodes(), past_gate=True))["words"] == list(STEPS)


async def _is_free(durable: Durable) -> bool:
    return (await durable.threads.status("t")).holder is None


async def test_its_checkpoints_are_fenced(durable: Durable, entry: Entry) -> None:
    """A raised token ends the writes under the previous one."""
    gate = Gate("sort")
    call = asyncio.create_task(entry(durable, four_nodes(gate), "t"))
    await gate.reached.wait()
    async with await _connect(durable) as connection:
        await connection.execute(
            "UPDATE aiodurable_fences SET token = token + 1 WHERE thread_id = 't'"
        )
    gate.open.set()
    with pytest.raises(Exception, match="fencing token|lease"):
        await call
    status = await durable.threads.status("t")
    assert status.status is ThreadStatus.CRASHED
    assert status.pending == ("sort",)


async def _connect(durable: Durable) -> Any:
    import psycopg

    return await psycopg.AsyncConnection.connect(durable.dsn.conninfo, autocommit=True)


@pytest.mark.parametrize("thread_id", ["", "x" * 10_240, "a\0b", 7])
async def test_a_bad_thread_id_is_refused_before_anything_runs(
    durable: Durable, entry: Entry, thread_id: Any
) -> None:
    with pytest.raises(InvalidArgumentError, match="thread_id"):
        await entry(durable, four_nodes(), thread_id)


async def test_without_a_durable_the_error_names_the_three_ways() -> None:
    with pytest.raises(ConfigurationError, match=r"Durable.*durable=.*dsn="):
        async with durable_run("t", four_nodes()):
            pytest.fail("entered")
    with pytest.raises(ConfigurationError, match=r"Durable.*durable=.*dsn="):
        await WorkflowExecutor(four_nodes()).execute("t", INPUT)


def test_the_decorator_refuses_what_it_cannot_lock() -> None:
    with pytest.raises(ConfigurationError, match="parentheses"):
        with_workflow_lock(plainly)  # type: ignore[arg-type]
    with pytest.raises(ConfigurationError, match="async def"):
        with_workflow_lock()(lambda thread_id: thread_id)
    with pytest.raises(ConfigurationError, match=r"'thread_id'.*order"):

        @with_workflow_lock()
        async def work(order: str) -> None: ...


async def test_the_newest_durable_of_the_loop_is_the_current_one(
    dsn: str, durable: Durable
) -> None:
    from aiodurable.which_durable import current

    assert current() is durable
    async with Durable(dsn) as inner:
        assert current() is inner
    assert current() is durable


async def test_a_graph_that_nobody_named_is_recorded_without_a_name(durable: Durable) -> None:
    await by_run(durable, four_nodes(), "t")
    await by_run(durable, four_nodes().compile(name="story"), "u")
    assert (await durable.threads.status("t")).graph is None
    assert (await durable.threads.status("u")).graph == "story"
