"""The limits of a queue hold over all its workers, and change while they work."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from typing import Any

import psycopg
import pytest
from langchain_core.runnables import RunnableConfig

from aiodurable.durable import Durable
from aiodurable.models import ClaimState, RunStatus
from aiodurable.settings import Settings
from aiodurable.worker.claims import Claims
from tests.support.internals import services_of
from tests.support.scenario_graphs import chain
from tests.support.waiting import wait_until

INPUT: dict[str, Any] = {"xs": []}


class AtWork:
    """What is in the node now, and at most; it waits until the test opens it."""

    def __init__(self) -> None:
        self.open = asyncio.Event()
        self.threads: set[str] = set()
        self.most = 0

    async def node(self, state: Any, config: RunnableConfig) -> dict[str, Any]:
        thread = str(config.get("configurable", {})["thread_id"])
        self.threads.add(thread)
        self.most = max(self.most, len(self.threads))
        try:
            await self.open.wait()
            await asyncio.sleep(0)
        finally:
            self.threads.discard(thread)
        return {"xs": ["done"]}


@pytest.fixture
def at_work() -> AtWork:
    return AtWork()


@pytest.fixture
async def durable(dsn: str, at_work: AtWork) -> AsyncIterator[Durable]:
    graphs = {"held": chain(a=at_work.node)}
    async with Durable(dsn, graphs=graphs, settings=Settings()) as opened:
        yield opened


def limit(dsn: str, columns: str, values: str) -> None:
    with psycopg.connect(dsn, autocommit=True) as connection:
        connection.execute(
            f"INSERT INTO aiodurable_queues (name, {columns}) VALUES ('default', {values})".encode()
        )


async def all_complete(durable: Durable, run_ids: list[str]) -> None:
    for run_id in run_ids:
        record = await durable.runs.wait_first([run_id], timeout=30)
        assert record.status is RunStatus.COMPLETE


async def created(durable: Durable, count: int, **options: Any) -> list[str]:
    return [
        (await durable.runs.create(f"t{n}", "held", INPUT, **options)).run_id for n in range(count)
    ]


async def test_two_workers_together_have_no_more_at_work_than_max_running(
    durable: Durable, dsn: str, at_work: AtWork
) -> None:
    limit(dsn, "max_running", "2")
    run_ids = await created(durable, 6)
    async with durable.work(concurrency=5), durable.work(concurrency=5):
        await wait_until(lambda: len(at_work.threads) == 2, 20)
        at_work.open.set()
        await all_complete(durable, run_ids)
    assert at_work.most == 2


async def test_of_each_concurrency_key_no_more_are_at_work_than_may(
    durable: Durable, dsn: str, at_work: AtWork
) -> None:
    limit(dsn, "max_running_per_key", "1")
    run_ids = await created(durable, 4, concurrency_key="gpu")
    other = await durable.runs.create("other", "held", INPUT, concurrency_key="cpu")
    async with durable.work(concurrency=5):
        await wait_until(lambda: "other" in at_work.threads and len(at_work.threads) == 2, 20)
        at_work.open.set()
        await all_complete(durable, [*run_ids, other.run_id])
    assert at_work.most == 2


async def test_a_paused_queue_begins_nothing_until_it_is_resumed(
    durable: Durable, dsn: str, at_work: AtWork
) -> None:
    limit(dsn, "paused", "true")
    at_work.open.set()
    run_ids = await created(durable, 2)
    async with durable.work() as worker:
        await wait_until(lambda: worker.health().last_claim_s is not None)
        assert (await durable.runs.get(run_ids[0])).status is RunStatus.QUEUED
        with psycopg.connect(dsn, autocommit=True) as connection:
            connection.execute(b"UPDATE aiodurable_queues SET paused = false")
        await all_complete(durable, run_ids)


async def test_a_rate_spreads_what_a_queue_begins(
    durable: Durable, dsn: str, at_work: AtWork
) -> None:
    limit(dsn, "rate, burst", "2, 1")
    at_work.open.set()
    run_ids = await created(durable, 3)
    loop = asyncio.get_running_loop()
    async with durable.work():
        began_at = loop.time()
        await all_complete(durable, run_ids)
        assert loop.time() - began_at > 0.9, "three at two a second, the first at once"


async def test_a_worker_wakes_when_the_next_run_of_a_rate_may_begin(
    durable: Durable, dsn: str, at_work: AtWork, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("aiodurable.worker.worker._POLL_S", (3600.0, 3600.0))
    limit(dsn, "rate, burst", "2, 1")
    at_work.open.set()
    async with durable.work() as worker:
        # no look of its own finds them
        monkeypatch.setattr(worker, "_has_waited", lambda: False)
        await all_complete(durable, await created(durable, 3))


async def test_a_run_that_its_worker_left_does_not_keep_itself_from_being_claimed(
    durable: Durable, dsn: str, at_work: AtWork
) -> None:
    limit(dsn, "max_running, max_running_per_key", "1, 1")
    at_work.open.set()
    run_ids = await created(durable, 2, concurrency_key="gpu")
    with psycopg.connect(dsn, autocommit=True) as connection:
        # as begun by a process that is gone
        connection.execute(
            b"UPDATE aiodurable_runs SET status = 'running', claim_state = NULL, attempts = 1,"
            b" fencing_token = 0, attempted_by = 'gone:1', started_at = now() WHERE thread_id = 't0'"
        )
    async with durable.work():
        await all_complete(durable, run_ids)


async def test_a_rate_without_a_burst_lets_one_seconds_worth_begin_at_once(
    durable: Durable,
) -> None:
    await durable.queues.scale("default", rate=5)
    await created(durable, 8)
    claims = Claims(services_of(durable), ["default"])
    await claims.tidy([])
    assert len(await claims.claim(8)) == 5
    claims.close()


async def test_a_look_at_what_is_limited_passes_over_the_many_of_one_key(
    durable: Durable, dsn: str
) -> None:
    with psycopg.connect(dsn, autocommit=True) as connection:
        connection.execute(
            b"INSERT INTO aiodurable_runs (run_id, thread_id, lock_key, graph, status, claim_state,"
            b" position, queue, priority, fairness_key, concurrency_key)"
            b" SELECT 'r' || n, 'r' || n, n, 'held', 'queued', 'limited', n, 'default', 0, '',"
            b" CASE WHEN n = 700 THEN 'z' ELSE 'a' END FROM generate_series(1, 700) n"
        )
    claims = Claims(services_of(durable), ["default"])
    await claims.tidy([])
    claims.close()
    assert (await durable.runs.get("r700")).claim_state is ClaimState.READY


def many_ready(dsn: str, count: int, key: str) -> None:
    """Ready runs of one concurrency key, and behind them one of the key z."""
    with psycopg.connect(dsn, autocommit=True) as connection:
        connection.execute(
            b"INSERT INTO aiodurable_runs (run_id, thread_id, lock_key, graph, status, claim_state,"
            b" position, queue, priority, fairness_key, concurrency_key)"
            b" SELECT 'r' || n, 'r' || n, n, 'held', 'queued', 'ready', n, 'default', 0, '',"
            b" CASE WHEN n = %(count)s THEN 'z' ELSE %(key)s END"
            b" FROM generate_series(1, %(count)s) n",
            {"count": count, "key": key},
        )


async def test_the_many_of_a_full_key_do_not_hold_back_the_run_behind_them(
    durable: Durable, dsn: str
) -> None:
    await durable.queues.scale("default", max_running_per_key=1)
    many_ready(dsn, 300, "a")
    claims = Claims(services_of(durable), ["default"])
    await claims.tidy([])
    claimed = await claims.claim(10)
    claims.close()
    assert [one.run_id for one in claimed] == ["r1", "r300"]


async def test_a_look_makes_no_more_runs_of_a_key_ready_than_it_has_capacity_for(
    durable: Durable, dsn: str
) -> None:
    await durable.queues.scale("default", max_running_per_key=3)
    many_ready(dsn, 20, "a")
    claims = Claims(services_of(durable), ["default"])
    await claims.tidy([])
    assert len(await claims.claim(10)) == 4
    with psycopg.connect(dsn, autocommit=True) as connection:
        connection.execute(
            b"UPDATE aiodurable_runs SET status = 'complete', claim_state = NULL"
            b" WHERE run_id IN ('r1', 'r2')"
        )
    for _ in range(2):
        await claims.tidy([f"r{n}" for n in range(1, 21)])
    claims.close()
    ready = (await durable.runs.list(claim_state="ready")).runs
    assert sorted(run.run_id for run in ready) == ["r4", "r5"]


@pytest.mark.parametrize(("most", "ready"), [(150, 30), (None, 50)])
async def test_a_key_may_have_more_than_a_hundred_runs_at_work(
    durable: Durable, dsn: str, most: int | None, ready: int
) -> None:
    await durable.queues.scale("default", max_running_per_key=most)
    with psycopg.connect(dsn, autocommit=True) as connection:
        connection.execute(
            b"INSERT INTO aiodurable_runs (run_id, thread_id, lock_key, graph, status, claim_state,"
            b" position, queue, priority, fairness_key, concurrency_key)"
            b" SELECT 'r' || n, 'r' || n, n, 'held', CASE WHEN n <= 120 THEN 'running' ELSE"
            b" 'queued' END, CASE WHEN n > 120 THEN 'limited' END, n, 'default', 0, '', 'a'"
            b" FROM generate_series(1, 170) n"
        )
    claims = Claims(services_of(durable), ["default"])
    for _ in range(2):
        await claims.tidy([])
    claims.close()
    assert len((await durable.runs.list(claim_state="ready")).runs) == ready


async def test_looks_at_what_is_limited_come_to_every_key(durable: Durable, dsn: str) -> None:
    await durable.queues.scale("default", max_running_per_key=1)
    with psycopg.connect(dsn, autocommit=True) as connection:
        connection.execute(
            b"INSERT INTO aiodurable_runs (run_id, thread_id, lock_key, graph, status, claim_state,"
            b" position, queue, priority, fairness_key, concurrency_key)"
            b" SELECT 'r' || n || s, 'r' || n || s, n, 'held', 'queued', s, n, 'default', 0, '',"
            b" to_char(n, '0000') FROM generate_series(1, 700) n,"
            b" unnest(ARRAY['limited', 'claimed']) s WHERE s = 'limited' OR n < 700"
        )
    claims = Claims(services_of(durable), ["default"])
    for _ in range(2):
        await claims.tidy([])
    claims.close()
    assert (await durable.runs.get("r700limited")).claim_state is ClaimState.READY


async def test_a_queue_with_limits_and_one_without_take_turns(durable: Durable, dsn: str) -> None:
    """While more is ready in each than a worker may begin."""
    limit(dsn, "max_running", "100")
    await created(durable, 10)
    for n in range(10):
        await durable.runs.create(f"free-{n}", "held", INPUT, queue="free")
    claims = Claims(services_of(durable), ["free", "default"])
    await claims.signs()
    claimed = [one.queue for _ in range(6) for one in await claims.claim(1)]
    assert claimed == ["free", "default"] * 3


async def test_workers_that_claim_at_once_wait_for_no_row_and_keep_to_the_limit(
    durable: Durable, dsn: str
) -> None:
    limit(dsn, "max_running", "4")
    await created(durable, 20)
    workers = [Claims(services_of(durable), ["default"]) for _ in range(8)]
    for one in workers:
        await one.signs()
    with psycopg.connect(dsn) as connection:
        connection.execute("SELECT FROM aiodurable_queues FOR UPDATE")
        assert await workers[0].claim(1) == []
        first = workers[0].again_s
        assert first is not None
        assert first <= 0.02, "another worker's claim is soon over"
    claimed = 0
    while claimed < 4:
        claimed += sum(map(len, await asyncio.gather(*(one.claim(2) for one in workers))))
    assert claimed == 4
    assert not any(await asyncio.gather(*(one.claim(2) for one in workers)))
