"""`durable.runs`: many at once, lists, waits, cancellations and retries."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterator
from datetime import UTC, datetime, timedelta
from typing import Any

import psycopg
import pytest

from aiodurable.durable import Durable
from aiodurable.errors import (
    GraphNotRegisteredError,
    InvalidArgumentError,
    ResultPrunedError,
    RunCancelledError,
    RunFailedError,
    RunNotFoundError,
    ThreadCompleteError,
    ThreadInterruptedError,
    WaitTimeoutError,
)
from aiodurable.models import ClaimState, RunStatus
from aiodurable.queue import NewRun, RunFilters, search
from tests.support.graphs import asking
from tests.support.scenario_graphs import BREAKS, chain, ok
from tests.support.waiting import wait_until

INPUT: dict[str, Any] = {"xs": []}


@pytest.fixture
async def durable(dsn: str) -> AsyncIterator[Durable]:
    async with Durable(dsn, graphs={"chain": chain(a=ok("a")), "asking": asking()}) as opened:
        yield opened


def new(thread_id: str, **more: Any) -> NewRun:
    return NewRun(thread_id=thread_id, graph="chain", input=INPUT, **more)


async def test_thousands_are_accepted_in_order_from_a_generator(durable: Durable) -> None:
    runs = await durable.runs.create_many(new(f"t{n % 700}", run_id=f"{n:05}") for n in range(1500))
    assert [run.run_id for run in runs] == [f"{n:05}" for n in range(1500)]
    ready = sum(run.claim_state is ClaimState.READY for run in runs)
    assert (ready, sum(run.claim_state is ClaimState.BLOCKED for run in runs)) == (700, 800)

    async def again() -> AsyncIterator[NewRun]:
        for n in range(1500):
            yield new(f"t{n % 700}", run_id=f"{n:05}")

    assert await durable.runs.create_many(again()) == runs


@pytest.mark.parametrize("refused", [False, True], ids=["more to come", "one refused"])
async def test_a_cancelled_call_does_not_wait_for_what_it_writes_and_leaves_no_task(
    durable: Durable, dsn: str, refused: bool
) -> None:
    async def runs() -> AsyncIterator[NewRun]:
        for n in range(500):
            yield new(f"t{n}")
        if refused:
            yield new("\0")
        await asyncio.Event().wait()

    with psycopg.connect(dsn) as locking, psycopg.connect(dsn, autocommit=True) as looking:
        locking.execute("LOCK TABLE aiodurable_runs IN EXCLUSIVE MODE")
        call = asyncio.create_task(durable.runs.create_many(runs()))
        waits = (
            b"SELECT FROM pg_locks l"
            b" WHERE l.relation = 'aiodurable_runs'::regclass AND NOT l.granted"
        )
        await wait_until(lambda: looking.execute(waits).fetchone() is not None)
        call.cancel()
        await asyncio.sleep(0)
        call.cancel()
        done, _ = await asyncio.wait([call], timeout=30)
        assert "aiodurable create_many" not in {task.get_name() for task in asyncio.all_tasks()}
    assert done == {call}
    assert call.cancelled()


async def test_a_run_before_one_that_is_refused_is_accepted(durable: Durable) -> None:
    def runs() -> Iterator[NewRun]:
        yield from (new(f"t{n}", run_id=f"r{n}") for n in range(500))
        yield new("\0")

    with pytest.raises(InvalidArgumentError):
        await durable.runs.create_many(runs())
    assert (await durable.runs.get("r499")).status is RunStatus.QUEUED


async def test_no_run_is_accepted_of_no_run(durable: Durable) -> None:
    assert await durable.runs.create_many([]) == ()


async def test_a_batch_with_a_refused_run_accepts_none_of_its_runs(durable: Durable) -> None:
    await durable.runs.create("t", "chain", INPUT, run_id="r")
    with pytest.raises(InvalidArgumentError, match="another thread"):
        await durable.runs.create_many([new("u", run_id="s"), new("u", run_id="r")])
    with pytest.raises(RunNotFoundError):
        await durable.runs.get("s")


async def test_pages_of_a_list_have_each_run_once(durable: Durable) -> None:
    await durable.runs.create_many(new(f"t{n}", run_id=f"r{n:02}") for n in range(25))
    found, after = list[str](), None
    while True:
        runs, after = await durable.runs.list(after=after, limit=10)
        found += [run.run_id for run in runs]
        if after is None:
            break
    assert found == [f"r{n:02}" for n in range(25)]


@pytest.mark.parametrize(
    ("filters", "found"),
    [
        ({}, "abcd"),
        ({"status": "queued"}, "abc"),
        ({"status": ["complete", RunStatus.QUEUED]}, "abcd"),
        ({"status": "complete"}, "d"),
        ({"claim_state": "scheduled"}, "c"),
        ({"claim_state": [ClaimState.READY, "scheduled"]}, "abc"),
        ({"thread_id": "b"}, "b"),
        ({"graph": "chain"}, "abcd"),
        ({"graph": "other"}, ""),
        ({"queue": "slow"}, "b"),
        ({"fairness_key": "acme"}, "a"),
        ({"concurrency_key": "gpu"}, "b"),
        ({"metadata": {"tenant": 7}}, "a"),
        ({"metadata": {}}, "ab"),
        ({"older_than": timedelta(hours=1)}, ""),
        ({"newer_than": timedelta(hours=1), "status": "queued", "queue": "default"}, "ac"),
        ({"older_than": datetime(2100, 1, 1, tzinfo=UTC)}, "abcd"),
    ],
    ids=str,
)
async def test_a_list_has_what_passes_every_filter(
    durable: Durable, filters: dict[str, Any], found: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    await durable.runs.create_many(
        [
            new("a", run_id="a", fairness_key="acme", metadata={"tenant": 7, "b": 1}),
            new("b", run_id="b", queue="slow", concurrency_key="gpu", metadata={"tenant": 8}),
            new("c", run_id="c", after=60),
        ]
    )
    async with durable.run("d", "chain", run_id="d") as run:
        await run.ainvoke(INPUT)
    runs, after = await durable.runs.list(**filters)
    assert ("".join(run.run_id for run in runs), after) == (found, None)
    runs, after = await durable.runs.newest(**filters)
    assert ("".join(run.run_id for run in runs), after) == (found[::-1], None)
    monkeypatch.setattr(search, "_FEW", 1)  # more match than are read at once
    runs, after = await durable.runs.newest(**filters)
    assert ("".join(run.run_id for run in runs), after) == (found[::-1], None)


@pytest.mark.parametrize("filters", [{}, {"status": "queued"}, {"claim_state": "ready"}], ids=str)
async def test_the_newest_come_first_a_page_at_a_time(
    durable: Durable, filters: RunFilters
) -> None:
    await durable.runs.create_many(new(f"t{n}", run_id=f"r{n:02}") for n in range(25))
    found, after = list[str](), None
    while True:
        runs, after = await durable.runs.newest(after=after, limit=10, **filters)
        found += [run.run_id for run in runs]
        if after is None:
            break
    assert found == [f"r{n:02}" for n in reversed(range(25))]


async def test_a_page_of_the_newest_reads_so_many_and_says_where_it_stopped(
    durable: Durable,
) -> None:
    await durable.runs.create_many(
        new(f"t{n}", run_id=f"r{n}", queue="rare" if n == 2 else "default") for n in range(9)
    )
    pages, after = list[tuple[list[str], str | None]](), None
    while True:
        runs, after = await durable.runs.newest(after=after, max_scanned=4, queue="rare")
        pages.append(([run.run_id for run in runs], after))
        if after is None:
            break
    assert pages == [([], "r5"), (["r2"], "r1"), ([], None)]


@pytest.mark.parametrize(
    "wrong",
    [
        {"status": "done"},
        {"claim_state": 7},
        {"older_than": datetime(2026, 1, 1)},  # noqa: DTZ001
        {"metadata": {"a": {1}}},
        {"queue": "\0"},
        {"limit": 0},
    ],
    ids=str,
)
async def test_a_filter_that_cannot_be_meant_is_refused(
    durable: Durable, wrong: dict[str, Any]
) -> None:
    with pytest.raises(InvalidArgumentError):
        await durable.runs.list(**wrong)
    with pytest.raises(InvalidArgumentError):
        await durable.runs.newest(**wrong)


async def test_who_waits_gets_what_the_graph_returned(durable: Durable) -> None:
    with pytest.raises(RunNotFoundError):
        await durable.runs.wait("r", timeout=30)
    await durable.runs.create("t", "chain", INPUT, run_id="r")
    waiting = asyncio.create_task(durable.runs.wait("r", timeout=30))
    async with durable.run("t", "chain", run_id="r") as run:
        result = await run.ainvoke()
    assert await waiting == await durable.runs.wait("r") == result == {"xs": ["a"]}


async def test_who_waits_for_a_run_that_asks_gets_the_question(durable: Durable) -> None:
    async with durable.run("t", "asking", run_id="r") as run:
        result = await run.ainvoke(INPUT)
    waited = await durable.runs.wait("r", timeout=10)
    assert waited["__interrupt__"] == result["__interrupt__"]


async def test_a_wait_ends_in_time_and_the_run_goes_on(durable: Durable) -> None:
    await durable.runs.create("t", "chain", INPUT, run_id="r")
    with pytest.raises(WaitTimeoutError, match="not over within 0.05 s"):
        await durable.runs.wait("r", timeout=0.05)
    assert (await durable.runs.get("r")).status is RunStatus.QUEUED


async def test_of_several_the_first_that_is_over_is_returned(durable: Durable) -> None:
    await durable.runs.create("t", "chain", INPUT, run_id="r")
    async with durable.run("u", "chain", run_id="s") as run:
        await run.ainvoke(INPUT)
    assert (await durable.runs.wait_first(["r", "s"], timeout=10)).run_id == "s"
    with pytest.raises(InvalidArgumentError, match="no run"):
        await durable.runs.wait_first([])


async def test_who_waits_for_a_failed_run_gets_its_error(durable: Durable) -> None:
    BREAKS.add("a")
    with pytest.raises(ValueError, match="broken"):
        async with durable.run("t", "chain", run_id="r") as run:
            await run.ainvoke(INPUT)
    with pytest.raises(RunFailedError, match="a is broken") as failed:
        await durable.runs.wait("r", timeout=10)
    assert failed.value.status is RunStatus.FAILED
    assert failed.value.traceback is not None
    assert "ValueError" in failed.value.traceback


async def test_a_result_that_was_pruned_or_whose_graph_is_unknown_raises(
    durable: Durable, dsn: str
) -> None:
    async with durable.run("t", "chain", run_id="r") as run:
        await run.ainvoke(INPUT)
    async with Durable(dsn) as thin:
        with pytest.raises(GraphNotRegisteredError):
            await thin.runs.wait("r")
        assert (await thin.runs.wait_first(["r"])).status is RunStatus.COMPLETE
    with psycopg.connect(dsn) as connection:
        connection.execute("DELETE FROM checkpoints")
    with pytest.raises(ResultPrunedError):
        await durable.runs.wait("r")


async def test_a_result_is_read_with_the_graph_that_is_given(durable: Durable, dsn: str) -> None:
    async with durable.run("t", "chain", run_id="r") as run:
        await run.ainvoke(INPUT)
    async with Durable(dsn, graphs={"asking": asking()}) as thin:
        assert await thin.runs.wait("r", chain(a=ok("a")), timeout=10) == {"xs": ["a"]}
        with pytest.raises(InvalidArgumentError, match="accepted for graph 'chain'"):
            await thin.runs.wait("r", "asking", timeout=10)


async def test_a_cancelled_run_never_begins_and_the_next_of_its_thread_may(
    durable: Durable,
) -> None:
    first, second = [await durable.runs.create("t", "chain", INPUT) for _ in range(2)]
    assert second.claim_state is ClaimState.BLOCKED
    cancelled = await durable.runs.cancel(first.run_id)
    assert (cancelled.status, cancelled.reason) == (RunStatus.SUPERSEDED, "cancelled")
    assert (await durable.runs.get(second.run_id)).claim_state is ClaimState.READY
    with pytest.raises(RunCancelledError, match="cancelled"):
        await durable.runs.wait(first.run_id, timeout=10)
    assert await durable.runs.cancel(first.run_id) == cancelled
    with pytest.raises(RunNotFoundError):
        await durable.runs.cancel("nothing")


async def test_a_run_at_work_is_cancelled_and_its_end_waited_for(durable: Durable) -> None:
    async def forever(state: Any) -> Any:
        entered.set()
        await asyncio.Event().wait()

    entered = asyncio.Event()

    async def work() -> None:
        async with durable.run("t", chain(a=forever), run_id="r") as run:
            await run.ainvoke(INPUT)

    working = asyncio.create_task(work())
    await entered.wait()
    cancelled = await durable.runs.cancel("r", wait=True, timeout=30)
    assert (cancelled.status, cancelled.reason) == (RunStatus.PAUSED, "cancelled")
    with pytest.raises(RunCancelledError):
        await working
    with pytest.raises(RunCancelledError):
        await durable.runs.wait("r", timeout=10)


async def test_an_interrupting_run_cancels_the_run_at_work(durable: Durable) -> None:
    async def forever(state: Any) -> Any:
        entered.set()
        await asyncio.Event().wait()

    entered = asyncio.Event()

    async def work() -> None:
        async with durable.run("t", chain(a=forever), run_id="r") as run:
            await run.ainvoke(INPUT)

    working = asyncio.create_task(work())
    await entered.wait()
    run = await durable.runs.create("t", "chain", INPUT, on_busy="interrupt")
    assert run.claim_state is ClaimState.BLOCKED
    with pytest.raises(RunCancelledError):
        await working


@pytest.mark.parametrize(
    ("text", "storable"),
    [("\\u0000", True), ("\\\\u0000", True), ("\0", False), ("\\\0", False), ("é\U0001f600", True)],
    ids=ascii,
)
async def test_metadata_has_any_text_but_a_nul_character(
    durable: Durable, text: str, storable: bool
) -> None:
    """A path such as `C:\\u0000` has none: its backslash begins no escape of JSON's."""
    metadata = {text: [text]}
    if storable:
        run = await durable.runs.create("t", "chain", INPUT, metadata=metadata)
        assert (await durable.runs.list(metadata=metadata)).runs[0].metadata == metadata
        assert run.metadata == metadata
        return
    with pytest.raises(InvalidArgumentError, match="NUL"):
        await durable.runs.create("t", "chain", INPUT, metadata=metadata)
    with pytest.raises(InvalidArgumentError, match="NUL"):
        await durable.runs.list(metadata=metadata)


async def test_many_are_cancelled_by_a_filter_and_a_dry_run_cancels_none(
    durable: Durable,
) -> None:
    await durable.runs.create_many(
        new(f"t{n}", run_id=f"r{n:04}", metadata={"tenant": n % 2}) for n in range(1100)
    )
    odd = tuple(f"r{n:04}" for n in range(1100) if n % 2)
    assert await durable.runs.cancel_many(dry_run=True, metadata={"tenant": 1}) == odd
    assert (await durable.runs.get("r0001")).status is RunStatus.QUEUED
    assert await durable.runs.cancel_many(metadata={"tenant": 1}) == odd
    assert (await durable.runs.get("r1099")).status is RunStatus.SUPERSEDED
    assert (await durable.runs.get("r1098")).status is RunStatus.QUEUED
    assert await durable.runs.cancel_many(metadata={"tenant": 1}) == ()
    with pytest.raises(InvalidArgumentError, match="filter"):
        await durable.runs.cancel_many()


async def test_a_run_that_was_set_aside_is_handed_to_a_worker_again(
    durable: Durable, dsn: str
) -> None:
    BREAKS.add("a")
    with pytest.raises(ValueError, match="broken"):
        async with durable.run("t", "chain", run_id="r") as run:
            await run.ainvoke(INPUT)
    with psycopg.connect(dsn) as connection:
        connection.execute("UPDATE aiodurable_runs SET status = 'quarantined', attempts = 3")
    again = await durable.runs.retry("r")
    assert (again.status, again.claim_state) == (RunStatus.FAILED, ClaimState.READY)
    assert (again.attempts, again.queue) == (0, "default")
    assert [earlier.outcome for earlier in again.earlier_attempts] == ["quarantined"]
    assert "a is broken" in (again.earlier_attempts[0].error or "")


async def test_a_cancelled_run_that_is_retried_goes_to_the_end_of_its_queue(
    durable: Durable,
) -> None:
    first, second = [await durable.runs.create("t", "chain", INPUT) for _ in range(2)]
    await durable.runs.cancel(first.run_id)
    again = await durable.runs.retry(first.run_id)
    assert (again.status, again.claim_state) == (RunStatus.QUEUED, ClaimState.BLOCKED)
    assert (await durable.threads.get("t")).run_id == second.run_id
    assert (await durable.runs.retry(second.run_id)).claim_state is ClaimState.READY


async def test_what_is_complete_asks_or_has_a_successor_is_not_retried(durable: Durable) -> None:
    async with durable.run("t", "chain", run_id="r") as run:
        await run.ainvoke(INPUT)
    with pytest.raises(ThreadCompleteError, match="is complete"):
        await durable.runs.retry("r")
    async with durable.run("u", "asking", run_id="s") as run:
        await run.ainvoke(INPUT)
    with pytest.raises(ThreadInterruptedError, match="answer"):
        await durable.runs.retry("s")
    first = await durable.runs.create("v", "chain", INPUT, dedup_key="k")
    await durable.runs.cancel(first.run_id)
    await durable.runs.create("w", "chain", INPUT, dedup_key="k")
    with pytest.raises(InvalidArgumentError, match="dedup_key"):
        await durable.runs.retry(first.run_id)
