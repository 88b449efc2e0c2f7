"""`drain_queue`, `advance`, `assert_created`, `refute_created`, on a real queue."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from datetime import timedelta
from typing import Any, TypedDict

import pytest
from langgraph.graph import START, StateGraph
from langgraph.types import interrupt

from aiodurable import (
    Durable,
    InvalidArgumentError,
    RetryPolicy,
    RunStatus,
    Snooze,
    WaitTimeoutError,
    sleep,
    wait_for,
)
from aiodurable.errors import ConfigurationError
from aiodurable.models import ClaimState
from aiodurable.testing import advance, assert_created, clock, drain_queue, refute_created


class Order(TypedDict, total=False):
    order: int
    done: bool
    customer: dict[str, Any]


CALLS: list[int] = []


def one_node(node: Any) -> Any:
    builder = StateGraph(Order)
    builder.add_node("node", node)
    builder.add_edge(START, "node")
    return builder


async def work(state: Order) -> Order:
    CALLS.append(state.get("order", 0))
    return {"done": True}


async def fail_twice(state: Order) -> Order:
    CALLS.append(0)
    if len(CALLS) < 3:
        raise ConnectionError
    return {"done": True}


async def fail(state: Order) -> Order:
    raise ConnectionError


async def snooze_once(state: Order) -> Order:
    CALLS.append(0)
    if len(CALLS) == 1:
        raise Snooze(3600)
    return {"done": True}


async def ask(state: Order) -> Order:
    return {"done": bool(interrupt("sure?"))}


async def nap(state: Order) -> Order:
    await sleep(3600)
    CALLS.append(1)
    await sleep(7200)
    return {"done": True}


async def wait(state: Order) -> Order:
    try:
        await wait_for("never", timeout=86400)
    except WaitTimeoutError:
        return {"done": True}
    return {"done": False}


async def wait_for_ever(state: Order) -> Order:
    return {"done": await wait_for("word")}


GRAPHS = {
    node.__name__: one_node(node)
    for node in (work, fail_twice, fail, snooze_once, ask, nap, wait, wait_for_ever)
}


@pytest.fixture
async def durable(dsn: str) -> AsyncIterator[Durable]:
    CALLS.clear()
    async with Durable(dsn, graphs=GRAPHS) as opened:
        yield opened


# ---- drain_queue --------------------------------------------------------------------------------


async def test_a_drain_executes_what_is_ready_in_order_and_also_what_waited_for_it(
    durable: Durable,
) -> None:
    for number in (1, 2):
        await durable.runs.create("t", "work", {"order": number})
    await durable.runs.create("urgent", "work", {"order": 3}, priority=1)
    await durable.runs.create("other", "work", {"order": 4}, queue="other")
    report = await drain_queue(durable)
    assert CALLS == [3, 1, 2]
    assert (dict(report.counts), report.limit_reached) == ({"complete": 3}, False)
    assert len(await drain_queue(durable, queues=["other"])) == 1


async def test_what_is_due_later_is_left_unless_it_is_wanted_and_then_the_earliest_is_first(
    durable: Durable,
) -> None:
    for number, after in ((1, 7200), (2, 3600)):
        await durable.runs.create(f"t{number}", "work", {"order": number}, after=after)
    assert len(await drain_queue(durable, with_retries=True)) == 0
    report = await drain_queue(durable, with_scheduled=True)
    assert (CALLS, dict(report.counts)) == ([2, 1], {"complete": 2})


async def test_retries_are_executed_without_their_waits_where_they_are_wanted(
    durable: Durable,
) -> None:
    run = await durable.runs.create("t", "fail_twice", {}, retry_policy=RetryPolicy(initial_s=60))
    assert dict((await drain_queue(durable, with_scheduled=True)).counts) == {"retry": 1}
    assert dict((await drain_queue(durable, with_retries=True)).counts) == {
        "retry": 1,
        "complete": 1,
    }
    assert (await durable.runs.get(run.run_id)).attempts == 3


async def test_a_run_that_always_fails_ends_in_quarantine(durable: Durable) -> None:
    await durable.runs.create("t", "fail", {})
    report = await drain_queue(durable, with_retries=True, retry_policy=RetryPolicy(max_attempts=2))
    assert [outcome for _, outcome in report.runs] == ["retry", "quarantined"]


async def test_a_snooze_is_no_retry_but_something_that_is_due_later(durable: Durable) -> None:
    await durable.runs.create("t", "snooze_once", {})
    assert dict((await drain_queue(durable, with_retries=True)).counts) == {"snoozed": 1}
    assert dict((await drain_queue(durable, with_scheduled=True)).counts) == {"complete": 1}


async def test_a_run_that_asks_is_over_for_a_drain(durable: Durable) -> None:
    await durable.runs.create("t", "ask", {})
    assert dict((await drain_queue(durable)).counts) == {"interrupted": 1}


async def test_a_thread_that_is_held_is_tried_once_and_does_not_keep_a_drain_going(
    durable: Durable,
) -> None:
    await durable.runs.create("t", "work", {})
    async with durable.hold("t"):
        report = await drain_queue(durable, with_scheduled=True, with_retries=True)
    assert dict(report.counts) == {"not_begun": 1}
    assert CALLS == []


async def test_a_drain_stops_at_its_limit_and_says_so(durable: Durable) -> None:
    for number in range(3):
        await durable.runs.create(f"t{number}", "work", {"order": number})
    report = await drain_queue(durable, limit=2)
    assert (len(report), report.limit_reached) == (2, True)
    assert len(await drain_queue(durable)) == 1


async def test_a_paused_queue_is_not_drained(durable: Durable) -> None:
    await durable.runs.create("t", "work", {})
    await durable.queues.pause("default")
    assert len(await drain_queue(durable)) == 0


async def test_a_drain_without_graphs_or_queues_is_refused(durable: Durable, dsn: str) -> None:
    for wrong in ({"queues": "default"}, {"queues": []}, {"limit": 0}):
        with pytest.raises(InvalidArgumentError):
            await drain_queue(durable, **wrong)
    async with Durable(dsn) as without:
        with pytest.raises(ConfigurationError, match="has no graphs by name"):
            await drain_queue(without)


# ---- advance ------------------------------------------------------------------------------------


async def test_time_that_passes_makes_due_what_waits_and_no_more(durable: Durable) -> None:
    for number, after in ((1, 3600), (2, 7200)):
        await durable.runs.create(f"t{number}", "work", {"order": number}, after=after)
    assert await advance(durable, 3000) == 2
    assert len(await drain_queue(durable)) == 0
    await advance(durable, timedelta(minutes=11))
    await drain_queue(durable)
    assert CALLS == [1]


async def test_time_that_passes_ends_a_backoff_and_a_start_timeout(durable: Durable) -> None:
    late = await durable.runs.create("late", "work", {}, start_timeout=60)
    await advance(durable, 61)
    assert dict((await drain_queue(durable)).counts) == {"quarantined": 1}
    assert (await durable.runs.get(late.run_id)).reason == "waited too long"
    await durable.runs.create("t", "fail_twice", {}, retry_policy=RetryPolicy(initial_s=60))
    await drain_queue(durable)
    await advance(durable, 90)
    assert dict((await drain_queue(durable)).counts) == {"retry": 1}


async def test_a_worker_that_sleeps_begins_what_has_become_due(durable: Durable) -> None:
    run = await durable.runs.create("t", "work", {"order": 1}, after=3600)
    async with durable.work():
        await advance(durable, 3600)
        await durable.runs.wait(run.run_id, timeout=60)
    assert CALLS == [1]


@pytest.mark.parametrize("by", [0, -1, float("nan"), 1e11, timedelta(0)])
async def test_time_passes_forwards_alone(durable: Durable, by: Any) -> None:
    with pytest.raises(InvalidArgumentError):
        await advance(durable, by)


# ---- assert_created -----------------------------------------------------------------------------


async def test_a_run_is_found_by_parts_of_what_it_was_accepted_with(durable: Durable) -> None:
    run = await durable.runs.create(
        "t",
        "work",
        {"order": 1, "customer": {"name": "Ada", "city": "London"}},
        queue="mail",
        metadata={"tenant": "a", "plan": "free"},
        dedup_key="order-1",
    )
    found = await assert_created(
        durable,
        graph="work",
        thread_id="t",
        queue="mail",
        status="queued",
        claim_state=ClaimState.READY,
        metadata={"tenant": "a"},
        input={"customer": {"name": "Ada"}},
    )
    assert found.run_id == run.run_id
    await refute_created(durable, graph="work", input={"order": 2})
    await drain_queue(durable, queues=["mail"])
    await assert_created(durable, status=RunStatus.COMPLETE, input={"order": 1})


async def test_a_message_lists_the_runs_there_are_and_their_inputs_only_on_request(
    durable: Durable,
) -> None:
    with pytest.raises(AssertionError, match="no run at all"):
        await assert_created(durable, graph="work")
    await refute_created(durable)
    run = await durable.runs.create("t", "work", {"order": 4711})
    with pytest.raises(
        AssertionError, match=rf"with queue='mail'.*\n- {run.run_id}: thread 't'"
    ) as e:
        await assert_created(durable, queue="mail")
    assert "4711" not in str(e.value)
    with pytest.raises(AssertionError, match=r"input=\{'order': 4711\}"):
        await assert_created(durable, queue="mail", show_input=True)
    with pytest.raises(AssertionError, match="a run was created with graph='work'"):
        await refute_created(durable, graph="work")


async def test_a_filter_that_does_not_exist_is_an_error_of_its_own(durable: Durable) -> None:
    for check in (assert_created, refute_created):
        with pytest.raises(TypeError, match="no filter nothing"):
            await check(durable, nothing=1)  # pyright: ignore[reportArgumentType]


async def test_time_passes_for_what_nodes_sleep_and_wait_for(durable: Durable) -> None:
    nap = await durable.runs.create("t", "nap", {})
    waits = await durable.runs.create("u", "wait", {})
    assert dict((await drain_queue(durable)).counts) == {"paused": 2}
    await advance(durable, 3000)
    assert len(await drain_queue(durable)) == 0
    await advance(durable, 601)
    assert dict((await drain_queue(durable)).counts) == {"paused": 1}
    assert CALLS == [1]
    await advance(durable, 7201)
    assert dict((await drain_queue(durable)).counts) == {"complete": 1}
    await advance(durable, timedelta(days=1))
    assert dict((await drain_queue(durable)).counts) == {"complete": 1}
    for run in (nap, waits):
        assert (await durable.runs.wait(run.run_id))["done"]


async def test_a_drain_with_what_is_scheduled_sleeps_for_nothing_and_waits_for_no_signal(
    durable: Durable,
) -> None:
    for thread_id, graph in (("t", "nap"), ("u", "wait"), ("v", "wait_for_ever")):
        await durable.runs.create(thread_id, graph, {})
    report = await drain_queue(durable, with_scheduled=True)
    assert dict(report.counts) == {"paused": 4, "complete": 2}
    assert not report.limit_reached
    await durable.threads.signal("v", "word", True)
    assert dict((await drain_queue(durable)).counts) == {"complete": 1}


async def test_schedules_fire_the_slots_of_the_time_that_passes_each_once(durable: Durable) -> None:
    await durable.schedules.create("often", "work", {"order": 7}, every=timedelta(hours=1))
    for hours in (3, 2):
        await advance(durable, timedelta(hours=hours))
        assert dict((await drain_queue(durable)).counts) == {"complete": hours}
    assert (await durable.schedules.get("often")).fired == 5


async def test_schedules_that_fire_too_often_for_the_time_that_passes_are_refused(
    durable: Durable, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(clock, "_MOST", 3)
    await durable.schedules.create("often", "work", {"order": 7}, every=timedelta(hours=1))
    with pytest.raises(InvalidArgumentError, match="fired 3 times") as refused:
        await asyncio.wait_for(advance(durable, 1e10), 60)
    assert refused.value.argument == "by"
    assert (await durable.schedules.get("often")).fired == 3
    await advance(durable, timedelta(hours=2))
    assert (await durable.schedules.get("often")).fired == 5
