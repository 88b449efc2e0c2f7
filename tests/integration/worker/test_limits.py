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
    """What is in the node now, and at most; it waits until it is let go."""

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
