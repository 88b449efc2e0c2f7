"""A claimed run that cannot be begun: its row says why, and the worker does not spin on it."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator
from typing import Any

import asyncpg
import httpx
import psycopg
import pytest

from aiodurable import sleep
from aiodurable.dashboard import dashboard
from aiodurable.durable import Durable
from aiodurable.errors import ConfigurationError, PostgresUnavailableError
from aiodurable.models import ClaimState, RunRecord, RunStatus, ThreadStatus
from aiodurable.queue import RetryPolicy
from aiodurable.runs.ledger import Ledger
from aiodurable.runs.queued import QueuedRuns
from aiodurable.settings import Settings
from aiodurable.worker.claims import Claimed, Claims
from aiodurable.worker.executor import Execution
from tests.support.internals import services_of
from tests.support.scenario_graphs import BREAKS, chain, ok
from tests.support.waiting import wait_until

INPUT: dict[str, Any] = {"xs": ["in"]}


@pytest.fixture
async def durable(dsn: str) -> AsyncIterator[Durable]:
    async with Durable(dsn, graphs={"chain": chain(a=ok("a"))}, settings=Settings()) as opened:
        yield opened


async def test_an_input_that_cannot_be_read_sets_the_run_aside(
    durable: Durable, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def refuses(*_: object) -> None:
        raise ConfigurationError("a class that the graph may not build")

    created = await durable.runs.create("t", "chain", INPUT)
    monkeypatch.setattr(Ledger, "loaded", refuses)

    async def set_aside() -> RunRecord | None:
        record = await durable.runs.get(created.run_id)
        return record if record.status is RunStatus.QUARANTINED else None

    async with durable.work():
        record = await wait_until(set_aside)
    assert record is not None
    assert (record.reason, record.claim_state, record.attempts) == ("cannot be begun", None, 0)
    assert "may not build" in (record.error or "")


async def test_a_run_that_is_cancelled_between_the_claim_and_the_attempt_stays_cancelled(
    durable: Durable,
) -> None:
    await durable.runs.create("t", "chain", INPUT, run_id="r")
    services = services_of(durable)
    BREAKS.add("a")
    async with durable.run("t", "chain", run_id="r") as run:
        with pytest.raises(ValueError, match="a is broken"):
            await run.ainvoke()
    BREAKS.clear()
    await durable.runs.retry("r")
    claims = Claims(services, ["default"])
    [claimed] = await claims.claim(1)
    await durable.runs.cancel("r")
    await Execution(services, claims, claimed, {"": RetryPolicy()}).execute()
    claims.close()
    record = await durable.runs.get("r")
    assert (record.status, record.reason, record.attempts) == (RunStatus.PAUSED, "cancelled", 0)


async def test_a_thread_that_is_cancelled_after_a_rescued_run_was_claimed_is_not_gone_on_with(
    durable: Durable, dsn: str
) -> None:
    await durable.runs.create("t", "chain", INPUT, run_id="r")
    with psycopg.connect(dsn, autocommit=True) as connection:
        # as left by a process that is gone, rescued, and cancelled just now
        connection.execute(
            b"UPDATE aiodurable_runs SET status = 'running', attempts = 1, fencing_token = 0,"
            b" attempted_by = 'gone:1', started_at = now()"
        )
    services = services_of(durable)
    claims = Claims(services, ["default"])
    [claimed] = await claims.claim(1)
    with psycopg.connect(dsn, autocommit=True) as connection:
        connection.execute(b"UPDATE aiodurable_runs SET cancel_requested_at = now()")
    await Execution(services, claims, claimed, {"": RetryPolicy()}).execute()
    claims.close()
    async with durable.work():
        # a server that has just started says only after the grace whose process is gone
        record = await durable.runs.wait_first(["r"], timeout=40)
    assert (record.status, record.reason) == (RunStatus.PAUSED, "cancelled")


async def test_a_run_whose_thread_is_held_is_not_claimed_again_and_again(
    durable: Durable, monkeypatch: pytest.MonkeyPatch
) -> None:
    claimed_at = list[float]()
    claim = Claims.claim

    async def noted(self: Claims, most: int) -> list[Claimed]:
        found = await claim(self, most)
        claimed_at.extend(time.monotonic() for _ in found)
        return found

    monkeypatch.setattr(Claims, "claim", noted)
    async with durable.run("t", "chain"), durable.work():
        await durable.runs.create("t", "chain", INPUT, run_id="r")
        await wait_until(lambda: len(claimed_at) >= 3)
    assert claimed_at[2] - claimed_at[0] > 0.8, "about one look a second"


async def test_a_run_that_could_not_be_begun_is_not_passed_by_the_one_behind_it(
    durable: Durable, monkeypatch: pytest.MonkeyPatch
) -> None:
    begin = QueuedRuns.begin
    away = ["first"]

    async def begun(self: QueuedRuns, run_id: str, **options: Any) -> Any:
        if run_id in away:
            away.remove(run_id)
            raise PostgresUnavailableError("away for a moment")
        return await begin(self, run_id, **options)

    monkeypatch.setattr(QueuedRuns, "begin", begun)
    for name in ("first", "second"):
        await durable.runs.create("t", "chain", {"xs": [name]}, run_id=name)
    async with durable.work():
        result = await durable.runs.wait("second", timeout=20)
    assert result == {"xs": ["first", "a", "second", "a"]}


async def test_a_run_of_a_graph_that_a_worker_lacks_keeps_no_other_waiting(
    durable: Durable, dsn: str
) -> None:
    await durable.runs.create("t", "chain", INPUT, run_id="gone", priority=1)
    with psycopg.connect(dsn, autocommit=True) as connection:
        connection.execute(b"UPDATE aiodurable_runs SET graph = 'gone'")
    await durable.runs.create("u", "chain", INPUT, run_id="r")
    async with durable.work(concurrency=1):
        assert await durable.runs.wait("r", timeout=20) == {"xs": ["in", "a"]}


async def naps(state: Any) -> dict[str, Any]:
    await sleep(0.01)
    return {"xs": ["slept"]}


async def page_of(durable: Durable, path: str) -> str:
    """A page of the dashboard."""
    app = dashboard(durable, authorize=lambda *_: True)
    async with httpx.AsyncClient(
        transport=httpx.ASGITransport(app), base_url="http://localhost"
    ) as client:
        return (await client.get(path)).text


@pytest.mark.parametrize("kind", ["asleep", "failed"])
async def test_a_run_that_waits_for_a_worker_with_its_version_of_the_graph_says_so(
    dsn: str, kind: str
) -> None:
    BREAKS.update({"b"} if kind == "failed" else ())
    old = chain(a=ok("a"), b=naps if kind == "asleep" else ok("b"))
    policy = RetryPolicy(initial_s=0.01)
    async with Durable(dsn, graphs={"chain": old}, retry_policies={"chain": policy}) as before:
        await before.runs.create("t", "chain", INPUT, run_id="r")
        services = services_of(before)
        claims = Claims(services, ["default"])
        [claimed] = await claims.claim(1)
        await Execution(services, claims, claimed, {"": policy}).execute()
        claims.close()
    BREAKS.clear()

    async def put_back() -> RunRecord | None:
        record = await after.runs.get("r")
        said = f"{record.reason} {record.error}"
        return record if "graph changed" in said or "GraphChangedError" in said else None

    async with Durable(dsn, graphs={"chain": chain(a=ok("a"))}) as after:
        async with after.work():
            record = await wait_until(put_back, 20)
        why = await after.threads.why("t")
        pages = [await page_of(after, path) for path in ("/thread?id=t", "/run?id=r")]
    assert record is not None
    if kind == "asleep":
        assert (record.status, record.reason) == (RunStatus.PAUSED, "sleeping")
        assert "GraphChangedError" in (record.error or "")
    else:
        assert (record.status, record.reason) == (RunStatus.FAILED, "graph changed")
        assert "b is broken" in (record.error or ""), "what the attempt said stays"
    assert "if its version of graph 'chain' fits" in str(why)
    for text in (str(why), *pages):
        assert "The graph changed" in text
        assert "aiodurable check" in text, "it says what to do"

    async with Durable(dsn, graphs={"chain": old}) as again:
        with psycopg.connect(dsn, autocommit=True) as connection:
            connection.execute(b"UPDATE aiodurable_runs SET scheduled_at = now()")
        async with again.work():
            record = await again.runs.wait_first(["r"], timeout=20)
    assert (record.status, record.reason, record.error) == (RunStatus.COMPLETE, None, None)


async def test_a_worker_stops_well_where_postgres_goes_away_after_its_last_claim(
    durable: Durable, monkeypatch: pytest.MonkeyPatch
) -> None:
    claim, put_back = Claims.claim, Claims.put_back
    draining = list[asyncio.Task[None]]()
    worker = durable.work()

    async def last_claim(self: Claims, most: int) -> list[Claimed]:
        claimed = await claim(self, most)
        if claimed:
            draining.append(asyncio.create_task(worker.drain()))
            await asyncio.sleep(0)
            await asyncio.sleep(0)
        return claimed

    async def away(self: Claims, *given: Any, **options: Any) -> bool:
        monkeypatch.setattr(Claims, "put_back", put_back)
        raise PostgresUnavailableError("away for a moment")

    monkeypatch.setattr(Claims, "claim", last_claim)
    monkeypatch.setattr(Claims, "put_back", away)
    await durable.runs.create("t", "chain", INPUT, run_id="r")
    async with worker:
        await worker.run_forever()
    await asyncio.gather(*draining)
    assert not worker.failed
    record = await durable.runs.get("r")
    assert (record.status, record.claim_state) == (RunStatus.QUEUED, ClaimState.READY)


async def test_a_run_that_completes_although_it_was_taken_for_an_orphan_is_claimed_no_more(
    dsn: str,
) -> None:
    async def taken_for_an_orphan(state: Any) -> dict[str, Any]:
        with psycopg.connect(dsn, autocommit=True) as connection:
            connection.execute(b"UPDATE aiodurable_runs SET claim_state = 'ready'")
        return {"xs": ["a"]}

    graphs = {"rescued": chain(a=taken_for_an_orphan)}
    async with Durable(dsn, graphs=graphs, settings=Settings()) as durable:
        await durable.runs.create("t", "rescued", INPUT, run_id="r")
        async with durable.run("t", "rescued", run_id="r") as run:
            await run.ainvoke()
        record = await durable.runs.get("r")
    assert (record.status, record.claim_state) == (RunStatus.COMPLETE, None)


async def test_a_claimed_run_with_nothing_left_to_do_is_left_alone(
    durable: Durable, dsn: str
) -> None:
    await durable.runs.create("t", "chain", INPUT, run_id="r")
    async with durable.run("t", "chain", run_id="r") as run:
        await run.ainvoke()
    with psycopg.connect(dsn, autocommit=True) as connection:
        connection.execute(b"UPDATE aiodurable_runs SET claim_state = 'ready'")
    services = services_of(durable)
    claims = Claims(services, ["default"])
    [claimed] = await claims.claim(1)
    await Execution(services, claims, claimed, {"": RetryPolicy()}).execute()
    claims.close()
    record = await durable.runs.get("r")
    assert (record.status, record.claim_state) == (RunStatus.COMPLETE, None)


async def test_a_worker_that_stops_leaves_nothing_claimed(
    durable: Durable, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def away(*_: object) -> None:
        raise PostgresUnavailableError("away for a moment")

    asked = asyncio.Event()

    async def waits(*_: object, **__: object) -> None:
        asked.set()
        await asyncio.Event().wait()

    await durable.runs.create("t", "chain", INPUT, run_id="r")
    monkeypatch.setattr(Claims, "put_back", away)
    with monkeypatch.context() as patch:
        patch.setattr(services_of(durable).locks, "acquire_thread", waits)
        async with durable.work(drain_timeout_s=0):
            await asyncio.wait_for(asked.wait(), 20)
    assert (await durable.runs.get("r")).claim_state is ClaimState.READY


class Deadlock(asyncpg.DeadlockDetectedError):
    """As Postgres ends one of two transactions."""


@pytest.mark.parametrize("left", ["queued", "drained", "failed"])
async def test_a_deadlock_where_a_run_begins_costs_it_nothing(
    durable: Durable, dsn: str, monkeypatch: pytest.MonkeyPatch, left: str
) -> None:
    deadlocks = [Deadlock("deadlock detected")]
    where, name = (QueuedRuns, "begin") if left == "queued" else (Ledger, "retry")
    write = getattr(where, name)

    async def once(*arguments: Any, **options: Any) -> Any:
        if deadlocks:
            raise deadlocks.pop()
        return await write(*arguments, **options)

    await durable.runs.create("t", "chain", INPUT, run_id="r")
    if left != "queued":
        BREAKS.add("a")
        async with durable.run("t", "chain", run_id="r") as run:
            with pytest.raises(ValueError, match="a is broken"):
                await run.ainvoke()
        BREAKS.clear()
        status = b"'paused', status_reason = 'drained'" if left == "drained" else b"'failed'"
        with psycopg.connect(dsn, autocommit=True) as connection:
            connection.execute(
                b"UPDATE aiodurable_runs SET claim_state = 'ready', status = " + status
            )
    monkeypatch.setattr(where, name, once)
    async with durable.work():
        record = await durable.runs.wait_first(["r"], timeout=20)
    assert not deadlocks
    assert record.status is RunStatus.COMPLETE


async def test_a_defect_where_a_drained_run_begins_sets_it_aside_for_all_to_see(
    durable: Durable, dsn: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def refuses(*_: object) -> None:
        raise ConfigurationError("a class that the graph may not build")

    await durable.runs.create("t", "chain", INPUT, run_id="r")
    with psycopg.connect(dsn, autocommit=True) as connection:
        connection.execute(
            b"UPDATE aiodurable_runs SET claim_state = 'ready', status = 'paused', attempts = 1,"
            b" status_reason = 'drained', fencing_token = 0, started_at = now()"
        )
    monkeypatch.setattr(Ledger, "loaded", refuses)
    async with durable.work():
        record = await wait_until(
            lambda: _with_status(durable, RunStatus.QUARANTINED), 20, what="quarantined"
        )
    assert record
    assert (await durable.runs.get("r")).reason == "cannot be begun"


async def _with_status(durable: Durable, status: RunStatus) -> bool:
    return (await durable.runs.get("r")).status is status


async def test_a_run_that_was_set_aside_before_it_began_is_in_front_of_nothing(
    durable: Durable, dsn: str
) -> None:
    await durable.runs.create("t", "chain", INPUT, run_id="later", after=3600)
    await durable.runs.create("t", "chain", {"xs": ["late"]}, run_id="late", start_timeout=0.001)
    async with durable.work():
        assert (await durable.runs.wait_first(["late"], timeout=20)).reason == "waited too long"
        assert (await durable.threads.get("t")).status is ThreadStatus.QUEUED
        with psycopg.connect(dsn, autocommit=True) as connection:
            connection.execute(
                b"UPDATE aiodurable_runs SET scheduled_at = now() WHERE run_id = 'later'"
            )
        assert await durable.runs.wait("later", timeout=20) == {"xs": ["in", "a"]}
    assert (await durable.runs.get("late")).status is RunStatus.QUARANTINED


async def test_a_thread_whose_only_run_was_set_aside_before_it_began_says_so(
    durable: Durable,
) -> None:
    await durable.runs.create("t", "chain", INPUT, run_id="late", start_timeout=0.001)
    async with durable.work():
        await durable.runs.wait_first(["late"], timeout=20)
    assert (await durable.threads.get("t")).status is ThreadStatus.QUARANTINED


@pytest.mark.parametrize("began", [False, True], ids=["queued", "failed"])
async def test_a_run_that_is_cancelled_before_its_attempt_is_no_cause_for_a_warning(
    durable: Durable, caplog: pytest.LogCaptureFixture, *, began: bool
) -> None:
    await durable.runs.create("t", "chain", INPUT, run_id="r")
    if began:
        BREAKS.add("a")
        async with durable.run("t", "chain", run_id="r") as run:
            with pytest.raises(ValueError, match="a is broken"):
                await run.ainvoke()
        BREAKS.clear()
        await durable.runs.retry("r")
    services = services_of(durable)
    claims = Claims(services, ["default"])
    [claimed] = await claims.claim(1)
    await durable.runs.cancel("r")
    with caplog.at_level("WARNING"):
        await Execution(services, claims, claimed, {"": RetryPolicy()}).execute()
    claims.close()
    assert "cannot be begun" not in caplog.text
    assert "was left alone" not in caplog.text
    record = await durable.runs.get("r")
    assert record.status is (RunStatus.PAUSED if began else RunStatus.SUPERSEDED)
