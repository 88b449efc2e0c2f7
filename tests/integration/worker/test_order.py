"""The runs of one thread begin in order of acceptance, whichever worker claims them, and none waits long for
one that is over.
"""

from __future__ import annotations

from collections.abc import AsyncIterator
from datetime import UTC, datetime, timedelta

import psycopg
import pytest

from aiodurable.durable import Durable
from aiodurable.models import ClaimState, RunStatus
from aiodurable.queue import RetryPolicy
from aiodurable.settings import Settings
from aiodurable.worker.claims import Claims
from aiodurable.worker.executor import Execution
from tests.support.internals import services_of
from tests.support.scenario_graphs import chain, ok

POLICIES = {"": RetryPolicy()}


@pytest.fixture
async def durable(dsn: str) -> AsyncIterator[Durable]:
    async with Durable(dsn, graphs={"chain": chain(a=ok("a"))}, settings=Settings()) as opened:
        yield opened


def change(dsn: str, assignments: str, where: str = "true") -> None:
    with psycopg.connect(dsn, autocommit=True) as connection:
        connection.execute(f"UPDATE aiodurable_runs SET {assignments} WHERE {where}".encode())


async def test_runs_of_a_thread_that_are_due_together_keep_their_order(
    durable: Durable, dsn: str
) -> None:
    soon = datetime.now(UTC) + timedelta(seconds=60)
    for name in ("first", "second", "third"):
        await durable.runs.create("t", "chain", {"xs": [name]}, run_id=name, run_at=soon)
    change(dsn, "scheduled_at = now() - interval '1 s'")
    claims = Claims(services_of(durable), ["default"])
    await claims.tidy([])
    claims.close()
    states = [(await durable.runs.get(name)).claim_state for name in ("first", "second", "third")]
    assert states == [ClaimState.READY, ClaimState.BLOCKED, ClaimState.BLOCKED]
    async with durable.work():
        result = await durable.runs.wait("third", timeout=20)
    assert result == {"xs": ["first", "a", "second", "a", "third", "a"]}


async def test_a_claimed_run_does_not_pass_an_earlier_one_that_another_worker_has_claimed(
    durable: Durable, dsn: str
) -> None:
    for name in ("first", "second"):
        await durable.runs.create("t", "chain", {"xs": [name]}, run_id=name)
    change(dsn, "claim_state = 'ready'")  # as two creates at the same moment leave them
    services = services_of(durable)
    early, late = Claims(services, ["default"]), Claims(services, ["default"])
    [first] = await early.claim(1)
    [second] = await late.claim(1)
    await Execution(services, late, second, POLICIES).execute()
    assert (await durable.runs.get("second")).claim_state is ClaimState.BLOCKED
    await Execution(services, early, first, POLICIES).execute()
    early.close()
    late.close()
    async with durable.work():
        result = await durable.runs.wait("second", timeout=20)
    assert result == {"xs": ["first", "a", "second", "a"]}


async def test_a_run_whose_claim_was_freed_is_not_begun_by_the_worker_that_had_it(
    durable: Durable, dsn: str
) -> None:
    await durable.runs.create("t", "chain", {"xs": []}, run_id="r")
    services = services_of(durable)
    claims = Claims(services, ["default"])
    [claimed] = await claims.claim(1)
    change(dsn, "claimed_by = 'another:1#1'")
    await Execution(services, claims, claimed, POLICIES).execute()
    claims.close()
    record = await durable.runs.get("r")
    assert (record.status, record.claim_state) == (RunStatus.QUEUED, ClaimState.CLAIMED)


async def test_the_end_of_a_direct_run_lets_the_next_run_of_its_thread_begin(
    durable: Durable, dsn: str
) -> None:
    async with durable.run("t", "chain") as run:
        await durable.runs.create("t", "chain", {"xs": ["queued"]}, run_id="queued")
        change(dsn, "claim_state = 'blocked'")  # as where it is accepted while the run is at work
        await run.ainvoke({"xs": ["direct"]})
    assert (await durable.runs.get("queued")).claim_state is ClaimState.READY


async def test_claims_of_a_process_that_lives_and_begins_nothing_are_freed(
    durable: Durable, dsn: str
) -> None:
    for name in ("old", "new"):
        await durable.runs.create(name, "chain", {"xs": []}, run_id=name)
    with psycopg.connect(dsn, application_name="aiodurable pool @elsewhere:7"):
        change(
            dsn,
            "claim_state = 'claimed', claimed_by = 'elsewhere:7#1', claimed_at = now()"
            " - CASE run_id WHEN 'old' THEN interval '2 min' ELSE interval '0' END",
        )
        claims = Claims(services_of(durable), ["default"])
        await claims.give_back([])
        claims.close()
    assert (await durable.runs.get("old")).claim_state is ClaimState.READY
    assert (await durable.runs.get("new")).claim_state is ClaimState.CLAIMED
