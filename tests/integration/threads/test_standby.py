"""A standby can be asked for statuses. What it cannot know, who holds a lock on the primary, it
says.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterator

import pytest
from click.testing import CliRunner

from aiodurable import Durable, Settings, ThreadStatus
from aiodurable.cli.commands import cli
from aiodurable.dsn import parse_dsn
from aiodurable.errors import ConfigurationError, SchemaMismatchError, SessionLocksUnsupportedError
from aiodurable.models import RunStatus
from aiodurable.postgres.schema import migrate
from tests.support.graphs import STEPS, Gate, four_nodes
from tests.support.standby import caught_up, primary_and_standby

START = {"words": [], "told": ""}


@pytest.fixture(scope="module")
def servers() -> Iterator[tuple[str, str]]:
    with primary_and_standby() as both:
        asyncio.run(migrate(parse_dsn(both[0])))  # whichever test is the first
        caught_up(*both)
        yield both


async def test_statuses_searches_and_histories_are_read_from_a_standby(
    servers: tuple[str, str],
) -> None:
    primary, standby = servers
    done, busy = "done", "busy"
    gate = Gate("weigh")
    only_look = Settings(lock_connections=0)
    async with Durable(primary, graphs={"words": four_nodes()}) as durable:
        # The other tests of this file have the same servers.
        others = (await durable.insights.throughput()).ended.get(RunStatus.COMPLETE, 0)
        async with durable.run(done, four_nodes()) as run:
            await run.ainvoke(START)

        async def work() -> None:
            async with durable.run(busy, four_nodes(gate)) as run:
                await run.ainvoke(START)

        working = asyncio.create_task(work())
        await gate.reached.wait()
        await durable.runs.create("accepted", "words", START)
        await asyncio.to_thread(caught_up, primary, standby)
        async with Durable(standby, settings=only_look) as looker:
            complete, crashed = [await looker.threads.status(thread) for thread in (done, busy)]
            assert (complete.status, complete.doubt) == (ThreadStatus.COMPLETE, None)
            assert crashed.status is ThreadStatus.CRASHED
            assert crashed.holder is None
            assert crashed.doubt is not None
            assert "standby" in crashed.doubt
            why = await looker.threads.why(busy)
            assert (why.status, why.facts.standby) == (crashed, True)
            assert "A standby does not show its lock" in str(why)
            assert "which has no connection" not in str(why)
            assert "unless somebody holds the lock on the primary" in str(why)
            assert [one async for one in looker.threads.verify(recheck_s=0)] == []
            assert [
                each.thread_id
                async for each in looker.threads.search(prefix="busy", graph=crashed.graph)
            ] == [busy]
            assert [each async for each in looker.threads.search(status="running")] == []
            assert [each.thread_id async for each in looker.threads.search(orphaned=True)] == [busy]
            for counted in (
                await looker.threads.count(),
                await looker.threads.estimate_counts(),
            ):
                assert counted.by_status[ThreadStatus.CRASHED] == 1
            assert len([step async for step in looker.threads.history(done)]) > len(STEPS)
            overview, queues = await looker.insights.overview_and_queues(max_age_s=0)
            assert overview.threads.by_status[ThreadStatus.COMPLETE] == others + 1
            assert (overview.running, overview.runs) == (1, {"ready": 1})
            assert (overview.leases, overview.workers_alive) == (None, 0)
            assert [(queue.name, queue.ready) for queue in queues] == [("default", 1)]
            assert await looker.insights.lock_sessions() == []
            assert (await looker.insights.database()).standby
            assert (await looker.insights.throughput()).ended == {"complete": others + 1}
            assert [one.graph for one in await looker.insights.latencies()] == [complete.graph]
            stored = await looker.checkpointer.aget_tuple({"configurable": {"thread_id": done}})
            assert stored is not None
            assert stored.checkpoint["channel_values"]["words"] == list(STEPS)
            with pytest.raises(ConfigurationError, match="Read them from the primary"):
                await looker.locks.holders()
        async with Durable(primary, settings=only_look) as looker:
            assert (await looker.threads.status(busy)).status is ThreadStatus.RUNNING
            assert len(await looker.locks.holders()) == 1
        gate.open.set()
        await working
        await durable.checkpointer.adelete_thread(busy)


async def test_a_durable_without_lock_connections_takes_no_lease_and_makes_no_tables(
    servers: tuple[str, str], empty_dsn: str
) -> None:
    only_look = Settings(lock_connections=0)
    with pytest.raises(SchemaMismatchError, match="aiodurable db migrate"):
        await Durable(empty_dsn, settings=only_look).open()
    async with Durable(servers[1], settings=only_look) as looker:
        assert looker.health().healthy
        for on_busy in ("reject", "wait"):
            with pytest.raises(ConfigurationError, match="lock_connections=0"):
                async with looker.run("t", four_nodes(), on_busy=on_busy):
                    pytest.fail("entered")


async def test_one_that_runs_is_refused_by_a_standby(servers: tuple[str, str]) -> None:
    with pytest.raises(SessionLocksUnsupportedError, match="standby"):
        await Durable(servers[1], settings=Settings(auto_migrate=False)).open()


def test_the_reading_commands_work_on_a_standby_and_locks_says_why_not(
    servers: tuple[str, str],
) -> None:
    primary, standby = servers

    async def done() -> None:
        async with Durable(primary) as durable, durable.run("told", four_nodes()) as run:
            await run.ainvoke(START)

    asyncio.run(done())
    caught_up(primary, standby)
    for command in (
        ["status", "told"],
        ["threads", "show", "told", "--values"],
        ["threads", "list", "--status", "complete"],
        ["status"],
    ):
        result = CliRunner().invoke(cli, [*command, "--dsn", standby])
        assert result.exit_code == 0, result.output
        assert "complete" in result.output
    result = CliRunner().invoke(cli, ["locks", "list", "--dsn", standby])
    assert result.exit_code != 0
    assert "it is a standby" in result.output
