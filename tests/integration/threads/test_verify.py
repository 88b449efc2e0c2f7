"""`threads.verify` finds what must not be, each by its kind, and nothing where all is well."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from datetime import timedelta
from typing import Any

import psycopg
import pytest
from langgraph.checkpoint.postgres.aio import AsyncPostgresSaver

from aiodurable import Finding, VerifyProgress, wait_for
from aiodurable.durable import Durable
from aiodurable.errors import InvalidArgumentError
from aiodurable.queue import RetryPolicy
from aiodurable.settings import Settings
from aiodurable.threads.findings import KINDS
from tests.support.scenario_graphs import BREAKS, asks, chain, ok

INPUT: dict[str, Any] = {"xs": ["in"]}
WORKER = (
    "INSERT INTO aiodurable_workers VALUES ('host:1#1', 'host', 1, '1', '{default}', '{chain}', 5,"
    " 0, 0, 0, false, now())"
)
DEAD_CLAIM = "claim_state = 'claimed', claimed_by = 'gone:1#1', claimed_at = now()"


async def waits(state: Any) -> dict[str, Any]:
    return {"xs": [str(await wait_for("payment"))]}


@pytest.fixture
async def durable(dsn: str) -> AsyncIterator[Durable]:
    graphs: dict[str, Any] = {
        "chain": chain(a=ok("a"), b=ok("b"), c=ok("c")),
        "asks": chain(a=ok("a"), asks=asks("which?")),
        "gate": chain(a=ok("a"), b=ok("b")).compile(interrupt_before=["b"]),
        "waits": chain(waits=waits),
    }
    async with Durable(dsn, graphs=graphs, settings=Settings()) as opened:
        yield opened


def write(dsn: str, *statements: str) -> None:
    with psycopg.connect(dsn, autocommit=True) as connection:
        for statement in statements:
            connection.execute(statement.encode())


async def verified(durable: Durable, **options: Any) -> list[Finding]:
    return [one async for one in durable.threads.verify(recheck_s=0.1, **options)]


async def lives(durable: Durable) -> None:
    """Threads of every kind: complete, pruned, forked, failed, asked, at a gate, asleep, queued."""
    async with durable.run("two", "chain") as run:
        await run.ainvoke(INPUT)
        await run.ainvoke({"xs": ["more"]})
    await durable.threads.fork("two", "copy", before="b")
    async with durable.run("copy", "chain") as run:
        await run.ainvoke()
    await durable.threads.fork("two", "end")
    async with durable.run("pruned", "chain") as run:
        await run.ainvoke(INPUT)
    await durable.threads.prune(older_than=timedelta(0))
    async with durable.run("pruned", "chain") as run:
        await run.ainvoke({"xs": ["again"]})
    async with durable.run("gate", "gate") as run:
        await run.ainvoke(INPUT)
        await run.aupdate_state({"xs": ["changed"]})
    async with durable.run("asks", "asks") as run:
        await run.ainvoke(INPUT)
        await run.answer("this")
    async with durable.run("open", "asks") as run:
        await run.ainvoke(INPUT)
    BREAKS.add("b")
    async with durable.run("failed", "chain") as run:
        with pytest.raises(ValueError, match="broken"):
            await run.ainvoke(INPUT)
    BREAKS.clear()
    async with durable.run("failed", "chain") as run:
        await run.ainvoke(INPUT)
    await durable.runs.create("worked", "chain", INPUT, run_id="worked", dedup_key="d")
    await durable.runs.create("sleeps", "waits", INPUT, run_id="sleeps")
    policy = RetryPolicy(max_attempts=1)
    await durable.runs.create("more", "chain", INPUT, run_id="more", retry_policy=policy)
    async with durable.work():
        await durable.runs.wait("worked", timeout=20)
        await durable.runs.wait("more", timeout=20)
    await durable.runs.create("worked", "chain", INPUT, run_id="later", after=3600)
    await durable.schedules.create("s", "chain", INPUT, every=3600)


async def test_nothing_is_found_where_all_is_well(durable: Durable) -> None:
    await lives(durable)
    seen: list[VerifyProgress] = []
    assert await verified(durable, batch_size=3, progress=seen.append) == []
    assert seen[-1].threads == 11
    assert seen[-1].threads_per_second > 0


HEAD = "(SELECT max(checkpoint_id) FROM checkpoints WHERE thread_id = 't')"
SECOND = (
    "(SELECT checkpoint_id FROM checkpoints WHERE thread_id = 't' ORDER BY checkpoint_id OFFSET 1"
    " LIMIT 1)"
)
SIBLING = (
    "INSERT INTO checkpoints SELECT thread_id, checkpoint_ns, 'f' || checkpoint_id,"
    " parent_checkpoint_id, type, checkpoint, metadata FROM checkpoints WHERE thread_id = 't' AND"
    f" checkpoint_id = {SECOND}"
)
PLANTED: dict[str, tuple[str, ...]] = {
    "forked_line": (SIBLING,),
    "missing_parent": (
        f"DELETE FROM checkpoint_writes WHERE thread_id = 't' AND checkpoint_id = {SECOND}",
        f"DELETE FROM checkpoints WHERE thread_id = 't' AND checkpoint_id = {SECOND}",
    ),
    "out_of_order": (
        (
            "UPDATE checkpoints SET parent_checkpoint_id = 'f' WHERE thread_id = 't' AND checkpoint_id"
            f" = {HEAD}"
        ),
    ),
    "unreadable_checkpoint": (
        (
            "UPDATE checkpoints SET metadata = '{}' WHERE thread_id = 't' AND checkpoint_id ="
            f" {HEAD}"
        ),
    ),
    "missing_value": ("DELETE FROM checkpoint_blobs WHERE thread_id = 't' AND channel = 'xs'",),
    "writes_of_no_checkpoint": (
        (
            "INSERT INTO checkpoint_writes (thread_id, checkpoint_id, task_id, idx, channel, blob)"
            " VALUES ('t', '1', 'x', 0, 'xs', '')"
        ),
    ),
    "rows_of_no_thread": (
        (
            "INSERT INTO checkpoint_blobs (thread_id, channel, version, type) VALUES ('z', 'x', '1',"
            " 'empty')"
        ),
    ),
    "token_beyond_fence": ("UPDATE aiodurable_fences SET token = 0 WHERE thread_id = 't'",),
    "runs_tied": (
        (
            "INSERT INTO aiodurable_runs (run_id, thread_id, lock_key, status, fencing_token, seq)"
            " SELECT 'other', thread_id, lock_key, 'failed', fencing_token, seq FROM aiodurable_runs"
            " WHERE thread_id = 't'"
        ),
    ),
    "two_running": (
        "DROP INDEX aiodurable_runs_one_running_idx",
        (
            "INSERT INTO aiodurable_runs (run_id, thread_id, lock_key, status, fencing_token, seq)"
            " SELECT 'n' || n, 't', 1, 'running', 0, n FROM generate_series(1, 2) n"
        ),
    ),
    "running_without_token": (
        (
            "INSERT INTO aiodurable_runs (run_id, thread_id, lock_key, status) VALUES ('n', 't', 1,"
            " 'running')"
        ),
    ),
    "missing_result": (
        f"DELETE FROM checkpoint_writes WHERE thread_id = 't' AND checkpoint_id = {HEAD}",
        f"DELETE FROM checkpoints WHERE thread_id = 't' AND checkpoint_id = {HEAD}",
    ),
    "input_not_used": (
        "UPDATE aiodurable_runs SET input_type = 'msgpack', input = '', consumed = false",
        "UPDATE checkpoints SET metadata = metadata - 'aiodurable_run_id'",
    ),
    "dedup_twice": (
        "DROP INDEX aiodurable_runs_dedup_idx",
        (
            "INSERT INTO aiodurable_runs (run_id, thread_id, lock_key, status, dedup_key, graph)"
            " SELECT 'n' || n, 'u' || n, 1, 'failed', 'd', 'g' FROM generate_series(1, 2) n"
        ),
    ),
    "schedule_without_next": (
        (
            "INSERT INTO aiodurable_schedules (schedule_id, graph, time_zone, every_s, anchor_at,"
            " jitter_s, catch_up_s, catch_up_all, on_busy, queue, priority, fairness_key)"
            " VALUES ('s', 'g', 'UTC', 60, now(), 0, 10, false, 'enqueue', 'default', 0, '')"
        ),
    ),
}


@pytest.mark.parametrize("kind", PLANTED)
async def test_a_planted_corruption_is_found_by_its_kind(
    durable: Durable, dsn: str, kind: str
) -> None:
    async with durable.run("t", "chain") as run:
        await run.ainvoke(INPUT)
    assert await verified(durable) == []
    write(dsn, *PLANTED[kind])
    found = await verified(durable)
    assert kind in {one.kind for one in found}
    first = next(one for one in found if one.kind == kind)
    assert first.what
    assert first.why_it_matters
    assert first.what_to_do


async def test_rows_beside_an_accepted_run_are_no_finding_that_tells_to_delete_its_thread(
    durable: Durable, dsn: str
) -> None:
    write(dsn, *PLANTED["rows_of_no_thread"])
    await durable.runs.create("z", "chain", INPUT)
    assert await verified(durable) == []


STUCK: dict[str, str] = {
    "claim_stuck": DEAD_CLAIM,
    "blocked_stuck": "claim_state = 'blocked'",
    "limited_stuck": "claim_state = 'limited', concurrency_key = 'acme'",
    "scheduled_stuck": "claim_state = 'scheduled', scheduled_at = now() - interval '2 min'",
}


@pytest.mark.parametrize("kind", STUCK)
async def test_what_a_worker_should_have_changed_is_stuck_only_where_there_is_one(
    durable: Durable, dsn: str, kind: str
) -> None:
    await durable.runs.create("t", "chain", INPUT, run_id="r")
    write(dsn, f"UPDATE aiodurable_runs SET {STUCK[kind]}")
    assert await verified(durable) == []
    with psycopg.connect(dsn, application_name="aiodurable:worker@host:1"):
        assert await verified(durable) == []  # a worker of the tables in another schema
        write(dsn, WORKER)  # one that is frozen
        assert [(one.kind, one.place) for one in await verified(durable)] == [(kind, "r")]
    async with durable.work():
        await durable.runs.wait("r", timeout=20)
        assert await verified(durable) == []


async def test_what_two_processes_of_plain_langgraph_forked_is_found(
    durable: Durable, dsn: str
) -> None:
    entered, opened = 0, asyncio.Event()

    async def meets(state: Any) -> dict[str, Any]:
        nonlocal entered
        entered += 1
        if entered == 2:
            opened.set()
        await opened.wait()
        return {"xs": ["met"]}

    async def run() -> None:
        async with AsyncPostgresSaver.from_conn_string(dsn) as saver:
            graph = chain(meets=meets, b=ok("b")).compile(checkpointer=saver)
            await graph.ainvoke(INPUT, {"configurable": {"thread_id": "t"}}, durability="sync")

    await asyncio.gather(run(), run())
    assert "forked_line" in {one.kind for one in await verified(durable)}


async def test_a_change_of_the_past_that_langgraph_marks_is_no_finding(
    durable: Durable, dsn: str
) -> None:
    async with AsyncPostgresSaver.from_conn_string(dsn) as saver:
        graph = chain(a=ok("a"), b=ok("b")).compile(checkpointer=saver)
        config: Any = {"configurable": {"thread_id": "t"}}
        await graph.ainvoke(INPUT, config)
        past = [state async for state in graph.aget_state_history(config)][1]
        changed = await graph.aupdate_state(past.config, {"xs": ["changed"]})
        await graph.ainvoke(None, changed)
    assert await verified(durable) == []


async def test_an_input_given_to_an_older_checkpoint_is_not_taken_for_two_processes(
    durable: Durable, dsn: str
) -> None:
    async with AsyncPostgresSaver.from_conn_string(dsn) as saver:
        graph = chain(a=ok("a"), b=ok("b")).compile(checkpointer=saver)
        config: Any = {"configurable": {"thread_id": "t"}}
        await graph.ainvoke(INPUT, config)
        past = [state async for state in graph.aget_state_history(config)][1]
        await graph.ainvoke({"xs": ["instead"]}, past.config)
    (found,) = await verified(durable)
    assert found.kind == "forked_line"  # the tables do not tell why
    assert "somebody gave an older checkpoint a new input" in found.why_it_matters
    assert found.what_to_do.startswith("nothing if that was on purpose")


@pytest.mark.parametrize(
    "damage", ["UPDATE aiodurable_fences SET token = 0", "DELETE FROM aiodurable_fences"]
)
async def test_the_statement_that_raises_a_fence_mends_it(
    durable: Durable, dsn: str, damage: str
) -> None:
    for _ in range(2):
        async with durable.run("t", "chain") as run:
            await run.ainvoke(INPUT)
    write(dsn, damage)
    advice = (await verified(durable))[0].what_to_do
    statement = advice.partition(": ")[2].partition(";")[0]
    write(dsn, statement.replace("…", "t"))
    assert await verified(durable) == []
    async with durable.run("t", "chain") as run:
        await run.ainvoke(INPUT)
    assert await verified(durable) == []


async def test_it_goes_on_after_a_thread_and_stops_at_a_limit(durable: Durable, dsn: str) -> None:
    for n in range(4):
        async with durable.run(f"t{n}", "chain") as run:
            await run.ainvoke(INPUT)
    write(dsn, "UPDATE aiodurable_fences SET token = 0")
    first = await verified(durable, limit=2, batch_size=1)
    rest = await verified(durable, after="t1")
    assert [one.thread_id for one in (*first, *rest)] == ["t0", "t1", "t2", "t3"]


async def test_numbers_out_of_range_are_refused_at_the_call(durable: Durable) -> None:
    refused: list[Callable[[], Any]] = [
        lambda: durable.threads.verify(limit=0),
        lambda: durable.threads.verify(batch_size=0),
        lambda: durable.threads.verify(threads_per_second=0),
        lambda: durable.threads.verify(recheck_s=-1),
    ]
    for call in refused:
        with pytest.raises(InvalidArgumentError):
            call()


def test_each_kind_is_planted_here() -> None:
    assert {*PLANTED, *STUCK, "schedule_stuck"} == set(KINDS)
