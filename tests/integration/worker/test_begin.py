"""A run that was accepted before is begun like any other: by its run_id, under the lease."""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Any

import pytest
from langgraph.checkpoint.postgres.aio import AsyncPostgresSaver
from langgraph.errors import GraphDrained
from langgraph.types import Command

from aiodurable.durable import Durable
from aiodurable.errors import InvalidArgumentError, RunInProgressError
from aiodurable.models import RunStatus, ThreadStatus
from aiodurable.runs.run import run as run_here
from aiodurable.settings import Settings
from aiodurable.worker.claims import Claims
from tests.support.internals import services_of
from tests.support.scenario_graphs import BREAKS, asks, chain, ok

INPUT: dict[str, Any] = {"xs": ["in"]}
GRAPHS = {
    "chain": chain(a=ok("a"), b=ok("b")),
    "asking": chain(a=ok("a"), b=asks("which?")),
}


@pytest.fixture
async def durable(dsn: str) -> AsyncIterator[Durable]:
    async with Durable(dsn, graphs=GRAPHS, settings=Settings()) as opened:
        yield opened


async def test_the_run_id_of_a_waiting_run_begins_it_with_what_it_was_accepted_with(
    durable: Durable,
) -> None:
    created = await durable.runs.create("t", "chain", INPUT)
    async with durable.run("t", "chain", run_id=created.run_id) as run:
        assert await run.ainvoke() == {"xs": ["in", "a", "b"]}
    found = await durable.runs.get(created.run_id)
    assert (found.status, found.attempts, found.claim_state) == (RunStatus.COMPLETE, 1, None)
    async with durable.run("t", "chain", run_id=created.run_id) as run:
        assert await run.ainvoke() == {"xs": ["in", "a", "b"]}, "it ran twice"


async def test_waiting_runs_of_a_thread_go_on_from_each_other(durable: Durable) -> None:
    first, second = [await durable.runs.create("t", "chain", INPUT) for _ in range(2)]
    for created in (first, second):
        async with durable.run("t", "chain", run_id=created.run_id) as run:
            result = await run.ainvoke()
    assert result == {"xs": ["in", "a", "b", "in", "a", "b"]}


async def test_a_direct_run_goes_before_those_that_wait_and_gives_none_up(
    durable: Durable,
) -> None:
    created = await durable.runs.create("t", "chain", INPUT)
    async with durable.run("t", "chain") as run:
        assert await run.ainvoke({"xs": ["direct"]}) == {"xs": ["direct", "a", "b"]}
    assert (await durable.runs.get(created.run_id)).status is RunStatus.QUEUED
    async with durable.run("t", "chain", run_id=created.run_id) as run:
        assert await run.ainvoke() == {"xs": ["direct", "a", "b", "in", "a", "b"]}


async def test_a_waiting_run_does_not_pass_a_question(durable: Durable) -> None:
    async with durable.run("t", "asking") as run:
        await run.ainvoke({"xs": []})
    created = await durable.runs.create("t", "asking", INPUT)
    async with durable.run("t", "asking", run_id=created.run_id) as run:
        with pytest.raises(RunInProgressError, match="earlier run of it is not over"):
            await run.ainvoke()
    assert (await durable.threads.status("t")).status is ThreadStatus.INTERRUPTED
    async with durable.run("t", "asking") as run:
        assert await run.ainvoke(Command(resume="this")) == {"xs": ["a", "this"]}
    assert (await durable.runs.get(created.run_id)).status is RunStatus.QUEUED


async def test_a_waiting_run_is_refused_another_input(durable: Durable) -> None:
    created = await durable.runs.create("t", "chain", INPUT)
    async with durable.run("t", "chain", run_id=created.run_id) as run:
        with pytest.raises(InvalidArgumentError, match="accepted with another input"):
            await run.ainvoke({"xs": ["other"]})


async def test_a_begun_run_that_fails_is_gone_on_with_like_any_other(durable: Durable) -> None:
    created = await durable.runs.create("t", "chain", INPUT)
    BREAKS.add("b")
    async with durable.run("t", "chain", run_id=created.run_id) as run:
        with pytest.raises(ValueError, match="b is broken"):
            await run.ainvoke()
    BREAKS.clear()
    async with durable.run("t", "chain", run_id=created.run_id) as run:
        assert await run.ainvoke() == {"xs": ["in", "a", "b"]}
    assert (await durable.runs.get(created.run_id)).attempts == 2


async def test_a_run_that_made_way_and_was_gone_on_with_is_not_passed_when_it_asks(
    durable: Durable,
) -> None:
    first = await durable.runs.create("t", "asking", INPUT)
    BREAKS.add("a")
    async with durable.run("t", "asking", run_id=first.run_id) as run:
        with pytest.raises(ValueError, match="a is broken"):
            await run.ainvoke()
        # it is at work again, cancelled for the sake of another one, which is given up itself
        database = services_of(durable).checkpoints.database
        await database.execute(
            "UPDATE aiodurable_runs SET status = 'paused', status_reason = 'cancelled',"
            " interrupted_by = 'second', cancel_requested_at = now()"
        )
    BREAKS.clear()
    async with durable.run("t", "asking") as run:
        await run.ainvoke()
    third = await durable.runs.create("t", "asking", INPUT)
    async with durable.run("t", "asking", run_id=third.run_id) as run:
        with pytest.raises(RunInProgressError, match="earlier run of it is not over"):
            await run.ainvoke()
    assert (await durable.threads.status("t")).status is ThreadStatus.INTERRUPTED


async def test_a_run_of_a_queue_that_is_drained_where_it_was_called_goes_back_there(
    durable: Durable,
) -> None:
    created = await durable.runs.create("t", "chain", INPUT)
    async with durable.run("t", "chain", run_id=created.run_id) as run:
        run.drain()
        with pytest.raises(GraphDrained):
            await run.ainvoke()
    async with durable.work():
        assert await durable.runs.wait(created.run_id, timeout=10) == {"xs": ["in", "a", "b"]}


async def test_a_claimed_run_of_a_new_thread_asks_for_no_status(durable: Durable) -> None:
    services = services_of(durable)
    created = await durable.runs.create("t", "chain", INPUT)
    claims = Claims(services, ["default"])
    (claimed,) = await claims.claim(1)
    direct, graph = services.checkpoints.direct, services.graphs.bind("chain")
    sent = direct.sent
    async with run_here(services, "t", graph, run_id=claimed.run_id, claim=claims.worker) as run:
        assert run.status is ThreadStatus.QUEUED
        assert await run.ainvoke() == {"xs": ["in", "a", "b"]}
    assert direct.sent - sent == 2  # what was accepted, the row
    assert (await durable.runs.get(created.run_id)).status is RunStatus.COMPLETE


@pytest.mark.parametrize("beside", ["nothing", "another", "a lease", "a checkpoint"])
async def test_the_status_of_a_thread_with_more_than_one_waiting_run_is_read(
    dsn: str, durable: Durable, beside: str
) -> None:
    await durable.runs.create("t", "chain", INPUT)
    if beside == "another":
        await durable.runs.create("t", "chain", INPUT)
    elif beside == "a lease":
        async with durable.hold("t"):
            pass
    elif beside == "a checkpoint":
        async with AsyncPostgresSaver.from_conn_string(dsn) as stock:
            await (
                GRAPHS["chain"].compile(stock).ainvoke(INPUT, {"configurable": {"thread_id": "t"}})
            )
    async with durable.hold("t") as lease:
        assert (lease.first, lease.waits) == (False, beside == "nothing")


async def test_a_thread_whose_only_run_waits_no_more_is_read(durable: Durable) -> None:
    created = await durable.runs.create("t", "chain", INPUT)
    await durable.runs.cancel(created.run_id)
    async with durable.hold("t") as lease:
        assert (lease.first, lease.waits) == (False, False)


async def test_a_claimed_run_goes_on_from_what_was_written_after_its_lease_was_taken(
    dsn: str, durable: Durable
) -> None:
    services = services_of(durable)
    await durable.runs.create("t", "chain", INPUT)
    claims = Claims(services, ["default"])
    (claimed,) = await claims.claim(1)
    async with run_here(
        services, "t", services.graphs.bind("chain"), run_id=claimed.run_id, claim=claims.worker
    ) as run:
        async with AsyncPostgresSaver.from_conn_string(dsn) as stock:
            await (
                GRAPHS["chain"].compile(stock).ainvoke(INPUT, {"configurable": {"thread_id": "t"}})
            )
        assert await run.ainvoke() == {"xs": ["in", "a", "b", "in", "a", "b"]}
