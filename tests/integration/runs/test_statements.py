"""The statements of a run: how few they are, that they see what they must, and that a connection
may die between any two.
"""

from __future__ import annotations

import asyncio
import re
from typing import Any

import asyncpg
import psycopg
import pytest
from langgraph.checkpoint.postgres.aio import AsyncPostgresSaver
from langgraph.graph.state import CompiledStateGraph

from aiodurable.checkpoints import group_commit
from aiodurable.checkpoints.fences import Fence
from aiodurable.checkpoints.row_reader import RowReader
from aiodurable.checkpoints.write_session import Completed, WriteSession
from aiodurable.dsn import parse_dsn
from aiodurable.durable import Durable
from aiodurable.errors import PostgresUnavailableError
from aiodurable.events import AttemptStarted, Event, LeaseAcquired, inline
from aiodurable.models import RunStatus, ThreadStatus
from aiodurable.postgres.direct import DirectConnection
from aiodurable.postgres.sql import load
from aiodurable.runs.ledger_writes import END
from tests.support.checkpoint_rows import write_in_flight
from tests.support.graphs import INPUT, STEPS, four_nodes
from tests.support.internals import services_of
from tests.support.ledger_view import Ledger
from tests.support.scenario_graphs import GRAPHS
from tests.support.waiting import wait_until

KILL = (
    "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE application_name LIKE"
    " 'aiodurable:runs@%' AND datname = current_database()"
)


async def test_a_new_run_asks_once_beside_its_checkpoints_and_leaves_the_pool_alone(
    durable: Durable,
) -> None:
    services = services_of(durable)
    direct, pool = services.checkpoints.direct, services.checkpoints.database.pool
    before, sent = pool.get_stats().get("requests_num", 0), direct.sent
    async with durable.run("t", four_nodes()) as run:
        await run.ainvoke(INPUT)
    assert direct.sent - sent == 1  # the new row
    assert pool.get_stats().get("requests_num", 0) == before


async def test_a_run_goes_on_from_what_plain_langgraph_wrote_after_the_lease_was_taken(
    dsn: str, durable: Durable
) -> None:
    async with durable.run("t", four_nodes()) as run:
        assert run.status is ThreadStatus.NEW
        async with AsyncPostgresSaver.from_conn_string(dsn) as stock:
            await four_nodes().compile(stock).ainvoke(INPUT, {"configurable": {"thread_id": "t"}})
        assert (await run.ainvoke(INPUT))["words"] == [*STEPS, *STEPS]


async def test_a_later_turn_goes_on_from_what_plain_langgraph_wrote_after_its_status_was_read(
    dsn: str, durable: Durable
) -> None:
    async with durable.run("t", four_nodes()) as run:
        await run.ainvoke(INPUT)
    async with durable.run("t", four_nodes()) as run:
        assert run.status is ThreadStatus.COMPLETE
        async with AsyncPostgresSaver.from_conn_string(dsn) as stock:
            await four_nodes().compile(stock).ainvoke(INPUT, {"configurable": {"thread_id": "t"}})
        assert (await run.ainvoke(INPUT))["words"] == [*STEPS, *STEPS, *STEPS]


@pytest.mark.parametrize("fails", [True, False])
async def test_a_read_beside_the_row_that_fails_or_hangs_is_left_to_the_graph(
    durable: Durable, monkeypatch: pytest.MonkeyPatch, fails: bool
) -> None:
    async with durable.run("t", four_nodes()) as run:
        await run.ainvoke(INPUT)

    async def steps(rows: RowReader, session: WriteSession, *, inner: bool) -> Any:
        if fails:
            raise PostgresUnavailableError("away")
        await asyncio.Event().wait()

    monkeypatch.setattr(RowReader, "steps", steps)
    async with durable.run("t", four_nodes()) as run:
        assert (await run.ainvoke(INPUT))["words"] == [*STEPS, *STEPS]


@pytest.mark.parametrize("known", ["a checkpoint", "a run", "a lease"])
async def test_the_status_of_a_known_thread_is_read(dsn: str, durable: Durable, known: str) -> None:
    services = services_of(durable)
    wanted = ThreadStatus.NEW
    if known == "a checkpoint":
        async with AsyncPostgresSaver.from_conn_string(dsn) as stock:
            await four_nodes().compile(stock).ainvoke(INPUT, {"configurable": {"thread_id": "t"}})
        wanted = ThreadStatus.COMPLETE
    elif known == "a run":
        accepted: dict[str, Any] = {
            "graph": "g",
            "input": INPUT,
            "context": None,
            "base_checkpoint_id": None,
        }
        await services.ledger.start(
            "r", fence=await services.checkpoints.new_fence("t"), closing=None, **accepted
        )
        with psycopg.connect(dsn) as connection:
            connection.execute("DELETE FROM aiodurable_fences")
        wanted = ThreadStatus.CRASHED
    else:
        async with durable.hold("t"):
            pass
    async with durable.hold("t") as lease:
        assert not lease.first
    async with durable.run("t", four_nodes()) as run:
        assert run.status is wanted


async def test_only_the_first_read_of_a_new_thread_is_answered_without_asking(
    durable: Durable,
) -> None:
    async with durable.run("t", four_nodes()) as run:
        await run.ainvoke(INPUT)
        assert (await run.ainvoke(INPUT))["words"] == [*STEPS, *STEPS]
        assert (await run.aget_state()).values["words"] == [*STEPS, *STEPS]


@pytest.mark.parametrize("after", [LeaseAcquired, AttemptStarted])
async def test_a_connection_that_dies_between_two_statements_is_not_felt(
    dsn: str, ledger: Ledger, after: type[Event]
) -> None:
    killed: list[int] = []

    def kill(event: Event) -> None:
        if isinstance(event, after):
            with psycopg.connect(dsn, autocommit=True) as connection:
                killed.append(len(connection.execute(KILL).fetchall()))

    async with Durable(dsn, observers=[inline(kill)]) as durable:
        for turn in (1, 2):
            async with durable.run("t", four_nodes()) as run:
                assert (await run.ainvoke(INPUT))["words"] == [*STEPS] * turn
    assert killed[-1]
    assert await ledger.statuses("t") == ["complete", "complete"]


async def test_a_run_sees_the_write_that_raising_its_token_waited_for(
    dsn: str, durable: Durable
) -> None:
    async with durable.run("t", four_nodes()) as run:
        await run.ainvoke(INPUT)
    late = "f" + str(run.checkpoint.checkpoint_id)[1:]

    async def enter() -> str | None:
        async with durable.run("t", four_nodes()) as run:
            return run.checkpoint.checkpoint_id

    waiting = (
        "SELECT count(*) FROM pg_stat_activity WHERE datname = current_database()"
        " AND wait_event_type = 'Lock' AND query LIKE '%aiodurable_fences%'"
    )
    writer, watcher = [await asyncpg.connect(**parse_dsn(dsn).asyncpg) for _ in range(2)]
    async with writer.transaction():
        fence = Fence("t", *await writer.fetchrow("SELECT token, lease_id FROM aiodurable_fences"))
        assert await write_in_flight(writer, fence) == ["t"]
        entering = asyncio.create_task(enter())
        await wait_until(lambda: watcher.fetchval(waiting))
        await writer.execute(
            "INSERT INTO checkpoints SELECT thread_id, checkpoint_ns, $1, checkpoint_id, type,"
            " checkpoint, metadata FROM checkpoints WHERE thread_id = 't' ORDER BY checkpoint_id"
            " DESC LIMIT 1",
            late,
        )
    assert await entering == late
    await asyncio.gather(writer.close(), watcher.close())


async def test_a_start_that_is_sent_again_because_its_answer_was_lost_is_one_attempt(
    durable: Durable, ledger: Ledger
) -> None:
    services = services_of(durable)
    async with durable.hold("t") as lease:
        start: dict[str, Any] = {
            "graph": "g",
            "fence": lease.fence,
            "input": INPUT,
            "context": None,
            "base_checkpoint_id": None,
        }
        first, blank = await services.ledger.start("r", closing=None, **start)
        again, still_blank = await services.ledger.start("r", closing=RunStatus.SUPERSEDED, **start)
    assert (first.attempts, again.attempts, blank, still_blank) == (1, 1, True, True)
    assert [(row["run_id"], row["status"], row["attempts"]) for row in await ledger.rows("t")] == [
        ("r", "running", 1)
    ]


async def test_only_an_end_that_the_tables_tell_as_well_does_not_wait_for_the_disk(
    dsn: str, durable: Durable
) -> None:
    async with durable.run("t", four_nodes()) as run:
        await run.ainvoke(INPUT)
    classified = services_of(durable).threads.classifier.arguments(["t"])
    mine = [run.run_id], [run.lease.token], [run.lease.fence.lease_id]
    for statement, arguments, waits in [
        (load("runs")["complete"], (*mine, ["t"], [run.checkpoint.checkpoint_id]), "off"),
        (END, (*classified, *mine, [True]), "off"),
        (
            load("runs")["finish"],
            (
                *mine,
                *(["t"], ["paused"], [None], [None], ["drained"], [run.checkpoint.checkpoint_id]),
                *([True], *([None],) * 4),
            ),
            "on",
        ),
    ]:
        link = DirectConnection(parse_dsn(dsn), role="test", connect_timeout_s=10.0)
        await link.fetch("SET synchronous_commit = on")
        await link.fetch("BEGIN")
        assert len(await link.fetch(statement, *arguments)) == 1
        [setting] = await link.fetch("SHOW synchronous_commit")
        link.drop()
        assert setting[0] == waits


STOPS = re.compile("slow|^ask|_asks?$|asking|raises|raw_pregel")


@pytest.mark.parametrize("durability", ["sync", "async", "exit"])
@pytest.mark.parametrize("name", [name for name in GRAPHS if not STOPS.search(name)])
async def test_a_run_that_completes_says_what_the_tables_say_and_asks_at_most_once(
    durable: Durable, name: str, durability: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    ends: list[str] = []

    def completed(checkpoint_id: str, *end: Any) -> Completed:
        ends.append(checkpoint_id)
        return Completed(checkpoint_id, *end)

    monkeypatch.setattr(group_commit, "Completed", completed)
    services = services_of(durable)
    graph = GRAPHS[name](services.checkpoints.get_checkpointer())
    sent = services.checkpoints.direct.sent
    async with durable.run("t", graph) as run:
        await run.ainvoke(
            {"xs": []} if isinstance(graph, CompiledStateGraph) else "once", durability=durability
        )
        # the new row, and how it ended where its last checkpoint has not said so
        assert services.checkpoints.direct.sent - sent == 2 - len(ends)
        assert run.checkpoint.status is ThreadStatus.COMPLETE
        assert ends in ([], [run.checkpoint.checkpoint_id])  # none in the middle of the run
        assert run.checkpoint == await services.threads.status("t", ignore_lock=True)


async def test_a_graph_whose_channels_have_names_of_their_own_does_not_tell_its_end(
    durable: Durable,
) -> None:
    graphs = services_of(durable).graphs
    saver = services_of(durable).checkpoints.get_checkpointer()
    assert not graphs.bind(GRAPHS["raw_pregel"](saver)).tells_its_end
    assert graphs.bind(GRAPHS["linear"](saver)).tells_its_end


ONE_MORE_HEAD = """
    INSERT INTO checkpoints SELECT thread_id, checkpoint_ns, 'f', checkpoint_id, type, checkpoint, metadata
    FROM checkpoints WHERE thread_id = 't' ORDER BY checkpoint_id DESC LIMIT 1
"""
A_WRITE_AT_THE_HEAD = """
    INSERT INTO checkpoint_writes (thread_id, checkpoint_id, task_id, idx, channel, blob)
    SELECT thread_id, max(checkpoint_id), 'task', 0, '__error__', '' FROM checkpoints WHERE thread_id = 't' GROUP BY 1
"""
A_NEWER_ATTEMPT = "UPDATE aiodurable_runs SET fencing_token = fencing_token + 1"


@pytest.mark.parametrize("change", [None, ONE_MORE_HEAD, A_WRITE_AT_THE_HEAD, A_NEWER_ATTEMPT])
async def test_a_run_is_complete_only_where_nothing_came_after_its_last_checkpoint(
    dsn: str, durable: Durable, ledger: Ledger, change: str | None
) -> None:
    async with durable.run("t", four_nodes()) as run:
        await run.ainvoke(INPUT)
        with psycopg.connect(dsn, autocommit=True) as connection:
            connection.execute("UPDATE aiodurable_runs SET status = 'running'")
            if change is not None:
                connection.execute(change.encode())
        closed = await services_of(durable).ledger.complete(
            run.run_id, fence=run.lease.fence, checkpoint_id=str(run.checkpoint.checkpoint_id)
        )
    assert (closed is not None) is (change is None)
    assert await ledger.statuses("t") == ["complete" if closed else "running"]
