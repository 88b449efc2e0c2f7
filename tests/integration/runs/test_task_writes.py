"""What a task has written is on its way while the graph goes on, and nothing of it is lost: it is
stored before anybody relies on it, or its error is raised.
"""

from __future__ import annotations

import asyncio
import copy
import threading
from collections.abc import AsyncGenerator
from typing import Any

import asyncpg
import pytest
from langchain_core.runnables import RunnableConfig
from langgraph.graph import START, StateGraph
from langgraph.types import interrupt

from aiodurable import Durable, DurableSaver, ThreadStatus
from aiodurable.errors import AiodurableError
from tests.support.graphs import INPUT, Gate, Story, four_nodes
from tests.support.internals import services_of
from tests.support.lock_view import WAITING
from tests.support.waiting import wait_until, within

TRIGGER = """
CREATE FUNCTION fails() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    RAISE EXCEPTION 'not this one' USING ERRCODE = 'check_violation';
END $$;
CREATE FUNCTION waits() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    PERFORM pg_advisory_xact_lock_shared(7, 7);
    RETURN NEW;
END $$;
CREATE TRIGGER of_a_task BEFORE INSERT ON checkpoint_writes
FOR EACH ROW WHEN (NEW.task_path LIKE '%{task}') EXECUTE FUNCTION {does}();
SELECT pg_advisory_lock(7, 7);
"""
"""The writes of that task fail, or wait until `UNLOCK`."""
UNLOCK = "SELECT pg_advisory_unlock_all()"

STORED = "SELECT count(*) FROM checkpoint_writes WHERE task_path LIKE '%' || $1"
QUESTIONS = "SELECT count(*) FROM checkpoint_writes WHERE channel = '__interrupt__'"
HEAD = "SELECT max((metadata ->> 'step')::int) FROM checkpoints"


@pytest.fixture
async def connection(dsn: str) -> AsyncGenerator[asyncpg.Connection]:
    connection = await asyncpg.connect(dsn)
    yield connection
    await connection.close()


def side_by_side(gate: Gate, *, asks: bool = False) -> StateGraph[Any]:
    """Two tasks in one step: the first ends, or asks, and the second waits for the gate."""

    async def first(state: Story) -> dict[str, Any]:
        return {"words": [interrupt("which?") if asks else "first"]}

    async def second(state: Story) -> dict[str, Any]:
        await gate("second")
        return {"words": ["second"]}

    builder = StateGraph(Story).add_node("first", first).add_node("second", second)
    return builder.add_edge(START, "first").add_edge(START, "second")


async def invoke(durable: Durable, graph: StateGraph[Any], **options: Any) -> Any:
    async with durable.run("t", graph) as run:
        return await run.ainvoke(INPUT, **options)


@pytest.mark.parametrize("durability", ["sync", "async"])
async def test_what_a_task_wrote_is_stored_while_its_sibling_runs(
    durable: Durable, connection: asyncpg.Connection, durability: str
) -> None:
    gate = Gate("second")
    task = asyncio.create_task(invoke(durable, side_by_side(gate), durability=durability))
    await within(30, gate.reached.wait())
    await wait_until(lambda: connection.fetchval(STORED, "first"), what="the first task's writes")
    gate.open.set()
    assert (await within(30, task))["words"][-2:] == ["first", "second"]


async def test_only_the_next_step_waits_until_a_tasks_writes_are_stored(
    durable: Durable, connection: asyncpg.Connection
) -> None:
    gate = Gate("weigh")
    await connection.execute(TRIGGER.format(task="sort", does="waits"))
    task = asyncio.create_task(invoke(durable, four_nodes(gate)))
    await wait_until(lambda: connection.fetchval(WAITING), what="the writes")
    assert not any("aput_writes" in repr(task) for task in asyncio.all_tasks())
    assert not gate.reached.is_set()
    await connection.execute(UNLOCK)
    gate.open.set()
    await within(30, task)


async def test_after_a_tasks_lost_write_no_checkpoint_is_stored(
    durable: Durable, connection: asyncpg.Connection
) -> None:
    await connection.execute(TRIGGER.format(task="weigh", does="fails"))
    with pytest.raises(AiodurableError, match="cannot commit a checkpoint of thread 't'"):
        await within(30, invoke(durable, four_nodes()))
    assert await connection.fetchval(HEAD) == 2
    await connection.execute("DROP TRIGGER of_a_task ON checkpoint_writes")
    async with durable.run("t", four_nodes()) as run:
        await run.ainvoke()
    assert (await durable.threads.status("t")).status is ThreadStatus.COMPLETE


async def asked(durable: Durable, connection: asyncpg.Connection, does: str) -> asyncio.Task[Any]:
    """A run whose first task has asked, and whose second ends after that; what that wrote fails, or waits."""
    gate = Gate("second")
    task = asyncio.create_task(invoke(durable, side_by_side(gate, asks=True)))
    await within(30, gate.reached.wait())
    await wait_until(lambda: connection.fetchval(QUESTIONS), what="the question")
    await connection.execute(TRIGGER.format(task="second", does=does))
    gate.open.set()
    return task


async def test_an_interrupted_run_returns_after_all_that_its_tasks_wrote_is_stored(
    durable: Durable, connection: asyncpg.Connection
) -> None:
    task = await asked(durable, connection, "waits")
    await wait_until(lambda: connection.fetchval(WAITING), what="the second task's writes")
    await asyncio.wait({task}, timeout=0.5)  # for a run that does not wait for it
    assert not task.done()
    await connection.execute(UNLOCK)
    await within(30, task)
    assert await connection.fetchval(STORED, "second")


async def test_a_lost_write_that_no_checkpoint_follows_is_raised_to_the_caller(
    durable: Durable, connection: asyncpg.Connection
) -> None:
    task = await asked(durable, connection, "fails")
    with pytest.raises(AiodurableError, match="cannot commit a checkpoint of thread 't'"):
        await within(30, task)


async def test_a_stream_ends_with_the_error_of_a_lost_write_that_no_checkpoint_follows(
    durable: Durable, connection: asyncpg.Connection
) -> None:
    gate = Gate("second")

    async def body() -> None:
        async with durable.run("t", side_by_side(gate, asks=True)) as run:
            async for _ in run.astream(INPUT):
                pass

    task = asyncio.create_task(body())
    await within(30, gate.reached.wait())
    await wait_until(lambda: connection.fetchval(QUESTIONS), what="the question")
    await connection.execute(TRIGGER.format(task="second", does="fails"))
    gate.open.set()
    with pytest.raises(AiodurableError, match="cannot commit a checkpoint of thread 't'"):
        await within(30, task)


async def test_the_lease_can_write_after_an_attempt_with_a_lost_write(
    durable: Durable, connection: asyncpg.Connection
) -> None:
    await connection.execute(TRIGGER.format(task="weigh", does="fails"))
    async with durable.run("t", four_nodes()) as run:
        with pytest.raises(AiodurableError):
            await run.ainvoke(INPUT)
        await run.aupdate_state({"told": "by hand"})


class Shielding(DurableSaver):
    """Its call of our `aput_writes` is a task of its own, and it waits for it."""

    async def aput_writes(self, *args: Any, **kwargs: Any) -> None:
        await asyncio.shield(super().aput_writes(*args, **kwargs))


def of_its_own(config: RunnableConfig) -> tuple[Any, ...]:
    """The arguments of a write of a node's own: LangGraph's loop knows nothing of it."""
    inside = {**config.get("configurable", {}), "checkpoint_ns": "", "checkpoint_id": "0"}
    return {**config, "configurable": inside}, [("told", "it")], "id", "of my own"


def awaiting(saver: DurableSaver, done: threading.Event) -> Any:
    async def node(state: Story, config: RunnableConfig) -> dict[str, Any]:
        await saver.aput_writes(*of_its_own(config))
        done.set()
        return {"told": "once"}

    return node


def shielding(saver: DurableSaver, done: threading.Event) -> Any:
    other = copy.copy(saver)
    other.__class__ = Shielding
    return awaiting(other, done)


def wrapping(saver: DurableSaver, done: threading.Event) -> Any:
    other, inner = copy.copy(saver), saver.aput_writes

    async def traced(*args: Any, **kwargs: Any) -> None:
        await asyncio.create_task(inner(*args, **kwargs))

    vars(other)["aput_writes"] = vars(saver)["aput_writes"] = traced
    return awaiting(other, done)


def blocking(saver: DurableSaver, done: threading.Event) -> Any:
    def node(state: Story, config: RunnableConfig) -> dict[str, Any]:
        saver.put_writes(*of_its_own(config))
        done.set()
        return {"told": "once"}

    return node


@pytest.mark.parametrize("node", [awaiting, shielding, wrapping, blocking])
async def test_who_waits_for_a_write_of_his_own_in_a_node_has_it_stored(
    durable: Durable, connection: asyncpg.Connection, node: Any
) -> None:
    saver = services_of(durable).checkpoints.get_checkpointer()
    done = threading.Event()
    await connection.execute(TRIGGER.format(task="of my own", does="waits"))
    graph = StateGraph(Story).add_node("node", node(saver, done)).add_edge(START, "node")
    task = asyncio.create_task(invoke(durable, graph))
    await wait_until(lambda: connection.fetchval(WAITING), what="the write")
    await asyncio.wait({task}, timeout=0.2)  # for a call that has returned early
    assert not done.is_set()
    await connection.execute(UNLOCK)
    await within(30, task)
    assert await connection.fetchval(STORED, "of my own")
