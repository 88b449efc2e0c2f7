"""`durable.insights` says what the tables and the server hold."""

from __future__ import annotations

import asyncio
import os
import socket
import time
from collections.abc import AsyncIterator
from datetime import UTC, datetime, timedelta
from typing import Any

import psycopg
import pytest

from aiodurable.durable import Durable
from aiodurable.errors import InvalidArgumentError
from aiodurable.models import ClaimState, RunStatus, ThreadStatus
from aiodurable.settings import Settings
from aiodurable.worker import history as worker_history
from tests.support.scenario_graphs import BREAKS, asks, chain, ok
from tests.support.waiting import wait_until

INPUT: dict[str, Any] = {"xs": ["in"]}
PROCESS = f"{socket.gethostname()}:{os.getpid()}"


class Held:
    """Nodes that wait until the test opens them."""

    def __init__(self) -> None:
        self.open = asyncio.Event()
        self.at_work = 0

    async def node(self, state: Any) -> dict[str, Any]:
        self.at_work += 1
        await self.open.wait()
        return {"xs": ["held"]}


@pytest.fixture
def held() -> Held:
    return Held()


@pytest.fixture
async def durable(dsn: str, held: Held) -> AsyncIterator[Durable]:
    graphs = {
        "chain": chain(a=ok("a"), b=ok("b")),
        "asking": chain(a=ok("a"), b=asks("which?")),
        "breaking": chain(a=ok("a"), b=ok("b")),
        "held": chain(a=ok("a"), held=held.node, b=ok("b")),
    }
    async with Durable(dsn, graphs=graphs, settings=Settings()) as opened:
        yield opened


async def test_an_empty_database_has_nothing_to_show(durable: Durable) -> None:
    seen = await durable.insights.overview()

    assert (seen.threads.total, seen.runs, seen.running, seen.workers) == (0, {}, 0, 0)
    assert seen.oldest_ready_age_s is None
    assert await durable.insights.history() == []
    assert (await durable.insights.throughput()).ended == {}
    assert await durable.insights.latencies() == []
    assert await durable.insights.queues() == []
    assert await durable.insights.workers() == []
    assert await durable.insights.schedules() == []
    assert (await durable.insights.audit()).records == ()


async def test_the_overview_counts_threads_runs_and_leases(durable: Durable) -> None:
    async with durable.run("done", "chain") as run:
        await run.ainvoke(INPUT)
    async with durable.run("asking", "asking") as run:
        await run.ainvoke(INPUT)
    for number in range(3):
        await durable.runs.create(f"waits-{number}", "chain", INPUT)
    await durable.runs.create("later", "chain", INPUT, after=3600)

    async with durable.hold("held"):
        seen = await durable.insights.overview(max_age_s=0)

    assert seen.threads.by_status[ThreadStatus.COMPLETE] == 1
    assert seen.threads.by_status[ThreadStatus.QUEUED] == 4
    assert seen.open_questions == 1
    assert seen.runs == {ClaimState.READY: 3, ClaimState.SCHEDULED: 1}
    assert not seen.runs_capped
    assert seen.leases == 1
    assert seen.oldest_ready_age_s is not None
    assert 0 <= seen.oldest_ready_age_s < 60


async def test_threads_are_counted_no_more_often_than_requested(durable: Durable) -> None:
    before = await durable.insights.overview()
    await durable.runs.create("new", "chain", INPUT)

    kept = await durable.insights.overview(max_age_s=600)
    fresh = await durable.insights.overview(max_age_s=0)

    assert kept.threads_at == before.threads_at
    assert kept.threads.total == 0
    assert kept.runs == {ClaimState.READY: 1}
    assert fresh.threads.total == 1


def test_threads_are_counted_in_one_event_loop_after_the_other(dsn: str) -> None:
    durable = Durable(dsn)

    async def looks() -> None:
        async with durable:
            await asyncio.gather(*(durable.insights.overview(max_age_s=0) for _ in range(4)))

    asyncio.run(looks())
    asyncio.run(looks())


async def test_many_threads_are_those_of_the_newest_sample(durable: Durable, dsn: str) -> None:
    sample = (
        "INSERT INTO aiodurable_status_history VALUES (now() - interval '{} minutes',"
        """ now() - interval '{} minutes', '{{"complete": {}}}', '{{complete}}', '{{}}', '{{}}', 1)"""
    )
    _execute(dsn, sample.format(8, 8, 7_000))
    _execute(dsn, sample.format(4, 4, 9_000))

    sampled = await durable.insights.overview()
    counted = await durable.insights.overview(max_age_s=0)

    assert sampled.threads.by_status == {ThreadStatus.COMPLETE: 9_000}
    assert sampled.threads.estimated == {ThreadStatus.COMPLETE}
    assert sampled.at - sampled.threads_at == pytest.approx(
        timedelta(minutes=4), abs=timedelta(minutes=1)
    )
    assert counted.threads.total == 0


async def test_throughput_and_latencies_are_of_the_runs_that_ended(durable: Durable) -> None:
    for thread in ("a", "b", "c"):
        async with durable.run(thread, "chain") as run:
            await run.ainvoke(INPUT)
    BREAKS.add("b")
    with pytest.raises(Exception, match="b"):
        async with durable.run("d", "breaking") as run:
            await run.ainvoke(INPUT)

    seen = await durable.insights.throughput(minutes=10)
    by_graph = {one.graph: one for one in await durable.insights.latencies(minutes=10)}

    assert seen.ended == {RunStatus.COMPLETE: 3, RunStatus.FAILED: 1}
    assert seen.per_minute[RunStatus.COMPLETE] == pytest.approx(0.3)
    assert by_graph["chain"].count == 3
    assert 0 <= by_graph["chain"].run.p50_s <= by_graph["chain"].run.p99_s < 60
    waits = by_graph["chain"].wait
    assert waits is not None
    assert 0 <= waits.p50_s < 60


async def test_a_run_that_was_answered_days_later_did_not_wait_for_its_start(
    durable: Durable, dsn: str
) -> None:
    async with durable.run("asking", "asking") as run:
        await run.ainvoke(INPUT)
    _execute(dsn, "UPDATE aiodurable_runs SET created_at = created_at - interval '3 days'")
    async with durable.run("asking", "asking") as run:
        await run.answer("this")

    (seen,) = await durable.insights.latencies()

    assert seen.wait is None


@pytest.mark.parametrize("graph", ["chain", "breaking"])
async def test_a_run_has_waited_since_it_was_due(durable: Durable, dsn: str, graph: str) -> None:
    BREAKS.update({"b"} if graph == "breaking" else ())
    await durable.runs.create("later", graph, INPUT, after=3600, run_id="r", max_attempts=1)
    _execute(
        dsn,
        "UPDATE aiodurable_runs SET scheduled_at = now(), created_at = now() - interval '1 hour'",
    )
    async with durable.work():
        assert (await durable.runs.wait_first(["r"], timeout=30)).finished_at is not None

    (seen,) = await durable.insights.latencies()

    assert seen.wait is not None
    assert seen.wait.p99_s < 60


async def test_queues_show_their_depth_their_keys_and_their_limits(durable: Durable) -> None:
    for number in range(5):
        await durable.runs.create(
            f"a{number}", "chain", INPUT, queue="mail", fairness_key="big", concurrency_key="k"
        )
    await durable.runs.create("b", "chain", INPUT, queue="mail", fairness_key="small")
    await durable.runs.create("later", "chain", INPUT, queue="mail", after=60)
    await durable.queues.scale("mail", max_running=3)
    await durable.queues.pause("idle")

    idle, mail = await durable.insights.queues()

    assert (idle.name, idle.paused, idle.ready, idle.keys) == ("idle", True, 0, ())
    assert (mail.name, mail.max_running, mail.paused) == ("mail", 3, False)
    assert (mail.ready, mail.scheduled, mail.running, mail.capped) == (6, 1, 0, False)
    assert mail.oldest_ready_age_s is not None
    keys = {(key.kind, key.key): (key.waiting, key.running) for key in mail.keys}
    assert keys == {
        ("fairness", "big"): (5, 0),
        ("fairness", "small"): (1, 0),
        ("concurrency", "k"): (5, 0),
    }


async def test_the_oldest_run_is_found_behind_many_fairness_keys(
    durable: Durable, dsn: str
) -> None:
    for key in ("a", "b", "c"):
        for priority in (0, 5):
            await durable.runs.create(
                f"{key}{priority}", "chain", INPUT, fairness_key=key, priority=priority
            )
    _execute(
        dsn,
        "UPDATE aiodurable_runs SET created_at = created_at - interval '1 hour'"
        " WHERE thread_id = 'c0'",
    )

    (queue,) = await durable.insights.queues()

    assert queue.oldest_ready_age_s == pytest.approx(3600, abs=60)


async def test_a_run_that_was_accepted_for_later_is_as_old_as_it_is_due(
    durable: Durable, dsn: str
) -> None:
    await durable.runs.create("later", "chain", INPUT, after=3600)
    _execute(
        dsn,
        "UPDATE aiodurable_runs SET claim_state = 'ready', scheduled_at = now(),"
        " created_at = now() - interval '1 hour'",
    )

    (queue,) = await durable.insights.queues()

    assert queue.oldest_ready_age_s == pytest.approx(0, abs=60)
    assert (await durable.insights.overview()).oldest_ready_age_s == pytest.approx(0, abs=60)


async def test_a_worker_is_listed_while_it_works_and_gone_at_its_end(
    durable: Durable, held: Held
) -> None:
    async with durable.work(["mail", "default"], concurrency=7) as worker:
        await durable.runs.create("held", "held", INPUT)
        await wait_until(lambda: held.at_work, what="the node")
        (seen,) = await wait_until(durable.insights.workers, what="a registered worker")
        (queue,) = await durable.insights.queues()
        overview = await durable.insights.overview()
        held.open.set()
    gone = await durable.insights.workers()

    assert seen.worker.startswith(f"{PROCESS}#")
    assert (seen.hostname, seen.pid) == (socket.gethostname(), os.getpid())
    assert (seen.queues, seen.concurrency) == (("mail", "default"), 7)
    assert set(seen.graphs) == set(worker.graphs)
    assert seen.alive is True
    assert not seen.draining
    assert (queue.running, queue.claimed) == (1, 0)
    assert (overview.workers, overview.workers_alive, overview.slots) == (1, 1, 7)
    assert overview.running == 1
    assert gone == []


async def test_a_draining_worker_says_so_at_once(durable: Durable, held: Held) -> None:
    async with durable.work() as worker:
        await durable.runs.create("held", "held", INPUT)
        await wait_until(lambda: held.at_work, what="the node")
        draining = asyncio.create_task(worker.drain())

        async def says_so() -> bool:
            return any(one.draining for one in await durable.insights.workers())

        await wait_until(says_so, what="a row that says so")
        held.open.set()
        await draining


async def test_a_worker_whose_process_is_gone_is_not_alive(durable: Durable, dsn: str) -> None:
    _worker_row(dsn, "nowhere:7#1", seen="1 minute")

    (seen,) = await durable.insights.workers()
    overview = await durable.insights.overview()

    assert seen.alive is False
    assert seen.age_s == pytest.approx(60, abs=30)
    assert (overview.workers, overview.workers_alive, overview.slots) == (1, 0, 0)


async def test_a_worker_on_a_host_with_a_long_name_is_alive(
    dsn: str, held: Held, monkeypatch: pytest.MonkeyPatch
) -> None:
    pod = "shop-worker-production-eu-west-7d9f8b6c5d-abcde"
    monkeypatch.setattr(socket, "gethostname", lambda: pod)
    async with (
        Durable(dsn, graphs={"held": chain(held=held.node)}) as durable,
        durable.work(),
    ):
        (seen,) = await wait_until(durable.insights.workers, what="a registered worker")
    assert seen.alive is True


async def test_workers_take_one_sample_and_remove_what_is_old(
    durable: Durable, dsn: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    # the interval began a minute ago, and the next one begins in decades
    monkeypatch.setattr(worker_history, "_EVERY_S", time.time() - 60)
    async with durable.run("done", "chain") as run:
        await run.ainvoke(INPUT)
    await durable.runs.create("later", "chain", INPUT, after=3600)
    _worker_row(dsn, "nowhere:7#1", seen="1 day")
    await durable.insights.record("me", "test")
    await durable.insights.record("me", "test")
    _execute(
        dsn,
        "UPDATE aiodurable_audit SET at = at - interval '91 days'"
        " WHERE id = (SELECT min(id) FROM aiodurable_audit)",
    )
    began = time.monotonic()
    _execute(
        dsn,
        "INSERT INTO aiodurable_status_history"
        " SELECT now() - ago, now() - ago, '{}', '{}', '{}', '{}', 300"
        " FROM unnest('{26 hours,10 minutes}'::interval[]) ago",
    )

    async def samples() -> Any:
        return (await durable.insights.history())[1:]

    async with durable.work(["a"]), durable.work(["b"]):
        (sample,) = await wait_until(samples, what="a sample")

    assert sample.by_status == {ThreadStatus.COMPLETE: 1, ThreadStatus.QUEUED: 1}
    assert sample.estimated == frozenset()
    assert sample.queued[ClaimState.SCHEDULED] == 1
    assert sample.ended == {RunStatus.COMPLETE: 1}
    assert 600 <= sample.ended_s <= 600 + time.monotonic() - began
    assert _execute(dsn, "SELECT count(*) FROM aiodurable_status_history") == 2
    assert await durable.insights.workers() == []
    assert len((await durable.insights.audit()).records) == 1


async def test_lock_sessions_show_what_they_hold(durable: Durable) -> None:
    async with durable.hold("a"), durable.hold("b"):
        sessions = await durable.insights.lock_sessions()

    assert sum(session.leases for session in sessions) == 2
    assert {session.process for session in sessions} == {PROCESS}
    assert all(session.since is not None for session in sessions)


async def test_schedules_show_what_comes_next_and_what_came_last(durable: Durable) -> None:
    await durable.schedules.create("nightly", "chain", INPUT, cron="30 7 * * *")
    await durable.schedules.create("paused", "chain", INPUT, every=60)
    await durable.schedules.pause("paused")
    record = await durable.schedules.trigger("nightly")

    nightly, paused = await durable.insights.schedules()
    page = await durable.insights.schedules(after="nightly", limit=1)

    assert len(nightly.next_times) == 5
    assert nightly.next_times[0] == nightly.schedule.next_slot_at
    assert all(time.hour == 7 and time.minute == 30 for time in nightly.next_times)
    assert [run.run_id for run in nightly.last_runs] == [record.run_id]
    assert nightly.last_runs[0].status is RunStatus.QUEUED
    assert paused.next_times == ()
    assert [one.schedule.schedule_id for one in page] == ["paused"]


async def test_the_database_has_sizes_and_what_a_prune_would_remove(durable: Durable) -> None:
    for _ in range(2):
        async with durable.run("a", "chain") as run:
            await run.ainvoke(INPUT)

    young = await durable.insights.database()
    seen = await durable.insights.database(older_than=timedelta(0))
    report = await durable.threads.prune(older_than=timedelta(0), dry_run=True)

    tables = {table.name: table for table in seen.tables}
    assert tables["checkpoints"].bytes > 0
    assert tables["aiodurable_runs"].index_bytes > 0
    assert seen.bytes > sum(table.bytes + table.index_bytes for table in seen.tables)
    assert (young.prunable.checkpoints, young.prunable.threads) == (0, 0)
    assert seen.prunable.exact
    assert (seen.prunable.checkpoints > 0) == (report.rows > 0)
    assert seen.prunable.threads == 1
    assert not seen.standby


async def test_the_audit_has_pages_and_belongs_to_threads(durable: Durable) -> None:
    begun = datetime.now(UTC) - timedelta(minutes=5)
    first = await durable.insights.record(
        "ann", "threads.cancel", thread_id="t", run_id="r", details={"dry_run": False}
    )
    await durable.insights.record("bob", "queues.pause", details={"queue": "mail"})
    third = await durable.insights.record("ann", "threads.delete", thread_id="t")

    page = await durable.insights.audit(limit=2)
    rest = await durable.insights.audit(limit=2, before=page.before)
    of_thread = await durable.insights.audit(thread_id="t")

    assert [record.action for record in page.records] == ["threads.delete", "queues.pause"]
    assert rest == ((first,), None)
    assert of_thread.records == (third, first)
    assert first.at > begun
    assert first.details == {"dry_run": False}
    assert (first.actor, first.thread_id, first.run_id) == ("ann", "t", "r")


@pytest.mark.parametrize(
    ("values", "argument"),
    [
        ({"actor": ""}, "actor"),
        ({"actor": "a\x00"}, "actor"),
        ({"actor": "x" * 201}, "actor"),
        ({"action": "a\nb"}, "action"),
        ({"details": {"a": object()}}, "details"),
        ({"details": {"a": float("nan")}}, "details"),
        ({"details": {"a": "\x00"}}, "details"),
        ({"details": {"a": "x" * 10_001}}, "details"),
        ({"thread_id": ""}, "thread_id"),
    ],
)
async def test_what_cannot_be_recorded_is_refused(
    durable: Durable, values: dict[str, Any], argument: str
) -> None:
    with pytest.raises(InvalidArgumentError) as refused:
        await durable.insights.record(**{"actor": "me", "action": "test", **values})

    assert refused.value.argument == argument
    assert (await durable.insights.audit()).records == ()


@pytest.mark.parametrize("value", [0, -1, float("nan"), float("inf")])
async def test_windows_that_are_none_are_refused(durable: Durable, value: float) -> None:
    with pytest.raises(InvalidArgumentError):
        await durable.insights.throughput(minutes=value)
    with pytest.raises(InvalidArgumentError):
        await durable.insights.history(hours=value)


async def test_all_of_it_works_where_a_durable_only_looks(durable: Durable, dsn: str) -> None:
    async with durable.run("a", "chain") as run:
        await run.ainvoke(INPUT)

    async with Durable(dsn, settings=Settings(lock_connections=0)) as looks:
        insights = looks.insights
        seen = await insights.overview()
        await insights.history()
        await insights.latencies()
        await insights.throughput()
        await insights.queues()
        await insights.workers()
        await insights.lock_sessions()
        await insights.schedules()
        await insights.database()
        await insights.audit()

    assert seen.threads.total == 1


def _execute(dsn: str, statement: str) -> Any:
    with psycopg.connect(dsn, autocommit=True) as connection:
        found = connection.execute(statement)  # type: ignore[arg-type]
        return (found.fetchone() or (None,))[0] if found.description else None


def _worker_row(dsn: str, worker: str, *, seen: str) -> None:
    _execute(
        dsn,
        "INSERT INTO aiodurable_workers VALUES"
        f" ('{worker}', 'nowhere', 7, '1', '{{}}', '{{}}', 5, 0, 0, 0, false, now(),"
        f" now() - interval '{seen}')",
    )
