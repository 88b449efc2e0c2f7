"""`runs.create`: what it accepts is there, once, in order, and never in another one's place."""

from __future__ import annotations

import asyncio
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from aiodurable.durable import Durable
from aiodurable.errors import (
    GraphNotRegisteredError,
    InvalidArgumentError,
    RunInProgressError,
    RunNotFoundError,
)
from aiodurable.models import ClaimState, RunStatus
from aiodurable.queue import RetryPolicy

INPUT: dict[str, Any] = {"xs": []}


async def test_an_accepted_run_waits_for_a_worker_with_all_it_was_accepted_with(
    durable: Durable,
) -> None:
    created = await durable.runs.create(
        "t",
        "chain",
        INPUT,
        priority=3,
        fairness_key="acme",
        concurrency_key="gpu",
        queue="slow",
        max_attempts=4,
        retry_policy=RetryPolicy(initial_s=2.0, non_retryable=(ValueError,)),
        timeout=60,
        start_timeout=3600,
        metadata={"tenant": 7},
        summary="the tides",
        config={"tags": ["a"]},
        context={"user": 1},
    )
    found = await durable.runs.get(created.run_id)
    assert found == created
    assert (found.status, found.claim_state) == (RunStatus.QUEUED, ClaimState.READY)
    assert (found.queue, found.priority, found.fairness_key) == ("slow", 3, "acme")
    assert (found.concurrency_key, found.max_attempts) == ("gpu", 4)
    assert (found.timeout_s, found.start_timeout_s) == (60, 3600)
    assert (found.metadata, found.summary) == ({"tenant": 7}, "the tides")
    assert (found.attempts, found.token, found.worker) == (0, None, None)


async def test_a_run_that_was_never_accepted_is_not_found(durable: Durable) -> None:
    with pytest.raises(RunNotFoundError, match="never accepted"):
        await durable.runs.get("nothing")


async def test_the_same_run_id_returns_the_run_there_is(durable: Durable) -> None:
    first = await durable.runs.create("t", "chain", INPUT, run_id="r")
    assert await durable.runs.create("t", "chain", {"xs": []}, run_id="r") == first
    both = await asyncio.gather(
        *(durable.runs.create("u", "chain", INPUT, run_id="at once") for _ in range(5))
    )
    assert len({run.created_at for run in both}) == 1


@pytest.mark.parametrize(
    ("differs", "given"),
    [
        ("thread", ("u", "chain", INPUT)),
        ("graph", ("t", "other", INPUT)),
        ("input", ("t", "chain", {"xs": ["more"]})),
    ],
)
async def test_a_run_id_with_another_thread_graph_or_input_is_refused(
    durable: Durable, differs: str, given: tuple[Any, ...]
) -> None:
    await durable.runs.create("t", "chain", INPUT, run_id="r")
    with pytest.raises(InvalidArgumentError, match=f"another {differs}"):
        await durable.runs.create(*given, run_id="r")


async def test_a_dedup_key_returns_the_run_that_has_it_until_that_is_over(
    durable: Durable,
) -> None:
    first = await durable.runs.create("t", "chain", INPUT, dedup_key="daily")
    again = await durable.runs.create("u", "chain", {"xs": ["other"]}, dedup_key="daily")
    assert again == first
    many = await asyncio.gather(
        *(durable.runs.create(f"v{n}", "chain", INPUT, dedup_key="k") for n in range(8))
    )
    assert len({run.run_id for run in many}) == 1


async def test_runs_of_one_thread_wait_for_each_other_in_order(durable: Durable) -> None:
    states = [(await durable.runs.create("t", "chain", INPUT)).claim_state for _ in range(3)]
    assert states == [ClaimState.READY, ClaimState.BLOCKED, ClaimState.BLOCKED]
    assert (await durable.runs.create("u", "chain", INPUT)).claim_state is ClaimState.READY


async def test_a_run_that_is_due_later_holds_up_nobody(durable: Durable) -> None:
    later = await durable.runs.create("t", "chain", INPUT, after=60)
    assert later.claim_state is ClaimState.SCHEDULED
    assert later.scheduled_at is not None
    wait = later.scheduled_at - datetime.now(UTC)
    assert timedelta(seconds=30) < wait < timedelta(seconds=90)
    at = datetime(2100, 1, 1, tzinfo=UTC)
    assert (await durable.runs.create("t", "chain", INPUT, run_at=at)).scheduled_at == at
    assert (await durable.runs.create("t", "chain", INPUT)).claim_state is ClaimState.READY


async def test_a_busy_thread_rejects_where_it_is_to(durable: Durable) -> None:
    first = await durable.runs.create("t", "chain", INPUT, on_busy="reject", run_id="r")
    assert first.claim_state is ClaimState.READY
    with pytest.raises(RunInProgressError, match="not over"):
        await durable.runs.create("t", "chain", INPUT, on_busy="reject")
    assert await durable.runs.create("t", "chain", INPUT, on_busy="reject", run_id="r") == first


async def test_of_many_at_once_that_reject_one_is_accepted(durable: Durable) -> None:
    results = await asyncio.gather(
        *(durable.runs.create("t", "chain", INPUT, on_busy="reject") for _ in range(6)),
        return_exceptions=True,
    )
    assert sum(isinstance(result, RunInProgressError) for result in results) == 5


async def test_an_interrupting_run_takes_the_place_of_those_that_wait(durable: Durable) -> None:
    waiting = [await durable.runs.create("t", "chain", INPUT) for _ in range(2)]
    later = await durable.runs.create("t", "chain", INPUT, after=60)
    new = await durable.runs.create("t", "chain", INPUT, on_busy="interrupt")
    given_up = [await durable.runs.get(run.run_id) for run in waiting]
    assert [run.status for run in given_up] == [RunStatus.SUPERSEDED] * 2
    assert [run.claim_state for run in given_up] == [None] * 2
    assert (await durable.runs.get(later.run_id)).claim_state is ClaimState.SCHEDULED
    assert (await durable.runs.get(new.run_id)).status is RunStatus.QUEUED


@pytest.mark.parametrize(
    "wrong",
    [
        {"on_busy": "wait"},
        {"run_at": datetime(2100, 1, 1)},  # noqa: DTZ001
        {"run_at": datetime(2100, 1, 1, tzinfo=UTC), "after": 1},
        {"after": -1},
        {"after": float("nan")},
        {"priority": 2**31},
        {"queue": ""},
        {"queue": "x" * 201},
        {"fairness_key": "a\0b"},
        {"dedup_key": 7},
        {"max_attempts": 0},
        {"timeout": 0},
        {"start_timeout": float("inf")},
        {"metadata": {"a": object}},
        {"metadata": {"a": "\0"}},
        {"metadata": {"a": float("nan")}},
        {"summary": "\0"},
        {"run_id": ""},
        {"config": {"configurable": {"thread_id": "u"}}},
    ],
    ids=str,
)
async def test_what_cannot_be_meant_is_refused_and_nothing_accepted(
    durable: Durable, wrong: dict[str, Any]
) -> None:
    with pytest.raises(InvalidArgumentError):
        await durable.runs.create("t", "chain", INPUT, **wrong)
    assert (await durable.runs.create("t", "chain", INPUT)).claim_state is ClaimState.READY


async def test_no_input_is_refused(durable: Durable) -> None:
    with pytest.raises(InvalidArgumentError, match="no input"):
        await durable.runs.create("t", "chain", None)


async def test_a_process_with_graphs_accepts_only_what_it_knows(dsn: str) -> None:
    from tests.support.scenario_graphs import chain, ok

    async with Durable(dsn, graphs={"chain": chain(a=ok("a"))}) as durable:
        await durable.runs.create("t", "chain", INPUT)
        with pytest.raises(GraphNotRegisteredError, match="chian"):
            await durable.runs.create("t", "chian", INPUT)
