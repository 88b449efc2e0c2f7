"""`threads.why` says what stands in the tables, and predicts what then really happens."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from datetime import UTC, datetime, timedelta
from typing import Any

import psycopg
import pytest
from langgraph.checkpoint.postgres.aio import AsyncPostgresSaver

from aiodurable import Why, sleep_until, wait_for
from aiodurable.durable import Durable
from aiodurable.errors import (
    AiodurableError,
    InvalidArgumentError,
    WorkflowAlreadyRunningError,
)
from aiodurable.models import ClaimState, RunStatus, ThreadStatus
from aiodurable.queue import RetryPolicy
from aiodurable.settings import Settings
from tests.support.scenario_graphs import BREAKS, asks, chain, ok
from tests.support.waiting import wait_until

INPUT: dict[str, Any] = {"xs": ["in"]}
SECRET = "4711-secret"
OTHER: dict[str, Any] = {"xs": ["other"]}


class Held:
    """A node that waits until the test lets it go on."""

    def __init__(self) -> None:
        self.entered, self.open = asyncio.Event(), asyncio.Event()

    async def node(self, state: Any) -> dict[str, Any]:
        self.entered.set()
        await self.open.wait()
        return {"xs": ["held"]}


async def naps(state: Any) -> dict[str, Any]:
    await sleep_until(datetime.now(UTC) + timedelta(seconds=3))
    return {"xs": ["slept"]}


async def waits(state: Any) -> dict[str, Any]:
    return {"xs": [str(await wait_for("payment"))]}


async def secret(state: Any) -> dict[str, Any]:
    raise ValueError(SECRET)


@pytest.fixture
def held() -> Held:
    return Held()


@pytest.fixture
async def durable(dsn: str, held: Held) -> AsyncIterator[Durable]:
    graphs: dict[str, Any] = {
        "chain": chain(a=ok("a"), b=ok("b")),
        "held": chain(held=held.node, b=ok("b")),
        "asks": chain(asks=asks(SECRET)),
        "gate": chain(a=ok("a"), b=ok("b")).compile(interrupt_before=["b"]),
        "naps": chain(naps=naps),
        "waits": chain(waits=waits),
        "secret": chain(a=ok("a"), secret=secret),
    }
    async with Durable(dsn, graphs=graphs, settings=Settings()) as opened:
        yield opened


def write(dsn: str, statement: str) -> None:
    with psycopg.connect(dsn, autocommit=True) as connection:
        connection.execute(statement.encode())


def step(found: Why, by: str) -> str:
    """What somebody does next."""
    (what,) = (one.what for one in found.next if one.by == by)
    return what


async def checked(durable: Durable, thread_id: str, graph: str = "chain") -> Why:
    """The answer, after the paragraph was read and both calls were compared with what they do."""
    found = await durable.threads.why(thread_id)
    assert SECRET not in str(found)
    assert found.status == await durable.threads.status(thread_id) or found.status.holder
    for by, given in (("call", None), ("call_with_input", OTHER)):
        if (predicted := step(found, by)).endswith("Error"):
            with pytest.raises(AiodurableError) as raised:
                async with durable.run(thread_id, graph) as run:
                    await run.ainvoke(given)
            assert type(raised.value).__name__ == predicted
    return found


async def test_a_new_thread_starts_and_has_nothing_to_resume(durable: Durable) -> None:
    found = await checked(durable, "t")
    assert (found.rule.id, step(found, "call"), step(found, "call_with_input")) == (
        "nothing_stored",
        "ThreadNotFoundError",
        "start",
    )
    assert (found.status.status, step(found, "nobody"), found.actions) == ("new", "wait", ())


async def test_a_complete_thread_returns_what_is_stored(durable: Durable) -> None:
    async with durable.run("t", "chain") as run:
        result = await run.ainvoke(INPUT)
    found = await checked(durable, "t")
    assert (found.rule.id, step(found, "call"), step(found, "call_with_input")) == (
        "no_work_left",
        "return",
        "start",
    )
    assert step(found, "nobody") == "wait"
    assert [action.name for action in found.actions] == ["fork"]
    async with durable.run("t", "chain") as run:
        assert await run.ainvoke() == result


async def test_a_failed_thread_is_resumed_by_a_call_alone(durable: Durable) -> None:
    BREAKS.add("b")
    async with durable.run("t", "chain") as run:
        with pytest.raises(ValueError, match="broken"):
            await run.ainvoke(INPUT)
    found = await checked(durable, "t")
    assert (found.rule.id, found.status.failed_node) == ("node_raised", "b")
    assert (step(found, "call"), step(found, "call_with_input")) == ("resume", "finish_first")
    assert step(found, "nobody") == "wait"
    assert "threads resume t --app" in str(found)
    BREAKS.clear()
    async with durable.run("t", "chain") as run:
        assert await run.ainvoke() == {"xs": ["in", "a", "b"]}
        assert run.resumed


async def test_what_a_worker_begins_is_predicted_for_a_ready_run(durable: Durable) -> None:
    await durable.runs.create("t", "chain", INPUT, run_id="r")
    found = await checked(durable, "t")
    assert (found.status.status, found.rule.id) == (ThreadStatus.QUEUED, "run_queued")
    (begins,) = (one for one in found.next if one.by == "worker")
    assert (begins.what, begins.run_id) == ("begin", "r")
    assert "no worker is seen" in str(found)
    assert "aiodurable worker MODULE:ATTRIBUTE --queue default" in str(found)
    async with durable.work():
        assert (await durable.runs.wait_first(["r"], timeout=20)).status is RunStatus.COMPLETE


async def test_a_scheduled_run_begins_at_its_time(durable: Durable) -> None:
    await durable.runs.create("t", "chain", INPUT, run_id="r", after=2)
    found = await checked(durable, "t")
    (begins,) = (one for one in found.next if one.by == "worker")
    assert begins.at is not None
    async with durable.work():
        await durable.runs.wait_first(["r"], timeout=20)
    record = await durable.runs.get("r")
    assert record.started_at is not None
    assert record.started_at >= begins.at


async def test_a_blocked_run_waits_for_the_one_in_front(durable: Durable, held: Held) -> None:
    await durable.runs.create("t", "held", INPUT, run_id="first")
    await durable.runs.create("t", "chain", OTHER, run_id="second")
    async with durable.work():
        await held.entered.wait()
        found = await durable.threads.why("t")
        (behind,) = (run for run in found.facts.runs if run.run_id == "second")
        assert (behind.claim_state, behind.behind) == (ClaimState.BLOCKED, "first")
        assert step(found, "worker") == "wait"
        assert step(found, "holder") == "go_on"
        held.open.set()
        await durable.runs.wait_first(["second"], timeout=20)
    records = [await durable.runs.get(run_id) for run_id in ("first", "second")]
    assert records[1].started_at >= records[0].finished_at  # pyright: ignore[reportOperatorIssue]


async def test_nothing_of_a_paused_queue_begins(durable: Durable) -> None:
    await durable.queues.pause("default")
    await durable.runs.create("t", "chain", INPUT, run_id="r")
    found = await checked(durable, "t")
    assert step(found, "worker") == "wait"
    assert "aiodurable queues resume default" in str(found)
    async with durable.work():
        await durable.queues.resume("default")
        assert (await durable.runs.wait_first(["r"], timeout=20)).status is RunStatus.COMPLETE


async def test_a_full_key_is_named_with_its_number(durable: Durable, held: Held) -> None:
    await durable.queues.scale("default", max_running_per_key=1)
    await durable.runs.create("t1", "held", INPUT, run_id="r1", concurrency_key="acme")
    async with durable.work():
        await held.entered.wait()
        await durable.runs.create("t2", "chain", INPUT, run_id="r2", concurrency_key="acme")

        async def limited() -> bool:
            return (await durable.runs.get("r2")).claim_state is ClaimState.LIMITED

        await wait_until(limited)
        found = await durable.threads.why("t2")
        assert step(found, "worker") == "wait"
        assert "key 'acme' ends: 1 of 1 are at work, the oldest for" in str(found)
        held.open.set()
        assert (await durable.runs.wait_first(["r2"], timeout=20)).status is RunStatus.COMPLETE


async def test_a_full_queue_is_named_with_its_number(durable: Durable, held: Held) -> None:
    await durable.queues.scale("default", max_running=1)
    await durable.runs.create("t1", "held", INPUT, run_id="r1")
    async with durable.work():
        await held.entered.wait()
        await durable.runs.create("t2", "chain", INPUT, run_id="r2")
        found = await durable.threads.why("t2")
        assert step(found, "worker") == "wait"
        assert "1 of 1 are at work" in str(found)
        held.open.set()
        assert (await durable.runs.wait_first(["r2"], timeout=20)).status is RunStatus.COMPLETE


async def test_a_claim_of_a_process_that_is_gone_is_taken_back(durable: Durable, dsn: str) -> None:
    await durable.runs.create("t", "chain", INPUT, run_id="r")
    write(
        dsn,
        "UPDATE aiodurable_runs SET claim_state = 'claimed', claimed_by = 'gone:1#1',"
        " claimed_at = now()",
    )
    assert step(await checked(durable, "t"), "worker") == "take_back"
    async with durable.work():
        assert (await durable.runs.wait_first(["r"], timeout=20)).status is RunStatus.COMPLETE


async def test_a_running_thread_refuses_calls_and_is_ended_by_cancel(
    durable: Durable, held: Held
) -> None:
    async def call() -> None:
        async with durable.run("t", "held") as run:
            await run.ainvoke(INPUT)

    task = asyncio.create_task(call())
    await held.entered.wait()
    found = await durable.threads.why("t")
    assert (found.rule.id, step(found, "holder")) == ("lock_held", "go_on")
    assert step(found, "call") == WorkflowAlreadyRunningError.__name__
    with pytest.raises(WorkflowAlreadyRunningError):
        async with durable.run("t", "held"):
            pass
    assert [action.name for action in found.actions] == ["cancel"]
    await durable.threads.cancel("t", wait=True)
    with pytest.raises(AiodurableError):
        await task
    cancelled = await checked(durable, "t", "held")
    assert (cancelled.status.status, cancelled.status.reason) == ("paused", "cancelled")
    assert cancelled.rule.id in ("run_ended", "input_kept")
    assert step(cancelled, "nobody") == "wait"
    assert "--past-gate" in str(cancelled)


def orphan(dsn: str, more: str = "") -> None:
    """As if the process of the run were gone since before the server's start."""
    write(
        dsn,
        "UPDATE aiodurable_runs SET status = 'running', status_reason = NULL, finished_at = NULL,"
        f" checkpoint_id = NULL, claim_state = NULL, attempted_by = 'gone:1'{more}",
    )


async def test_an_orphan_is_rescued_and_resumed(durable: Durable, dsn: str) -> None:
    BREAKS.add("b")
    policy = RetryPolicy(max_attempts=5, initial_s=1000)
    await durable.runs.create("t", "chain", INPUT, run_id="r", retry_policy=policy)
    async with durable.run("t", "chain", run_id="r") as run:
        with pytest.raises(ValueError, match="broken"):
            await run.ainvoke()
    found = await checked(durable, "t")
    (planned,) = (one for one in found.next if one.by == "worker")
    assert (planned.what, found.facts.runs[0].claim_state) == ("resume", ClaimState.SCHEDULED)
    assert planned.at is not None
    assert planned.at > datetime.now(UTC)
    BREAKS.clear()
    orphan(dsn)
    found = await checked(durable, "t")
    (rescue,) = (one for one in found.next if one.by == "rescuer")
    assert (rescue.what, rescue.run_id) == ("rescue", "r")
    async with durable.work():
        assert (await durable.runs.wait_first(["r"], timeout=40)).status is RunStatus.COMPLETE


async def test_an_orphan_that_was_cancelled_is_closed(durable: Durable, dsn: str) -> None:
    await durable.runs.create("t", "gate", INPUT, run_id="r")
    async with durable.run("t", "gate", run_id="r") as run:
        await run.ainvoke()
    orphan(dsn, ", cancel_requested_at = now()")
    found = await checked(durable, "t", "gate")
    assert (found.status.status, step(found, "rescuer")) == (ThreadStatus.PAUSED, "close")
    async with durable.work():

        async def closed() -> bool:
            return (await durable.runs.get("r")).status is RunStatus.PAUSED

        await wait_until(closed, 40)
    assert (await durable.runs.get("r")).reason == "cancelled"


async def test_a_quarantined_run_waits_for_a_person(durable: Durable) -> None:
    policy = RetryPolicy(max_attempts=1)
    await durable.runs.create("t", "secret", INPUT, run_id="r", retry_policy=policy)
    async with durable.work():
        await durable.runs.wait_first(["r"], timeout=20)
        found = await checked(durable, "t", "secret")
        assert (found.status.status, step(found, "nobody")) == ("quarantined", "wait")
        assert found.rule.id == "run_quarantined"
        assert step(found, "call") == "ThreadQuarantinedError"
        assert "aiodurable runs retry r" in str(found)


async def test_a_question_is_answered_by_a_person(durable: Durable) -> None:
    async with durable.run("t", "asks") as run:
        await run.ainvoke(INPUT)
    found = await checked(durable, "t", "asks")
    assert (found.rule.id, step(found, "call")) == ("question_open", "ThreadInterruptedError")
    assert len(found.facts.questions) == 1
    assert found.actions[0].name == "answer"


async def test_a_gate_is_passed_by_a_call_without_input(durable: Durable) -> None:
    async with durable.run("t", "gate") as run:
        await run.ainvoke(INPUT)
    found = await checked(durable, "t", "gate")
    assert (found.rule.id, found.status.reason) == ("run_ended", "breakpoint")
    assert (step(found, "call"), step(found, "call_with_input")) == ("resume", "ThreadPausedError")
    assert "--past-gate" in found.actions[0].command
    async with durable.run("t", "gate") as run:
        assert await run.ainvoke() == {"xs": ["in", "a", "b"]}


async def test_a_sleeper_is_resumed_at_its_time(durable: Durable) -> None:
    await durable.runs.create("t", "naps", INPUT, run_id="r")
    async with durable.work():

        async def asleep() -> bool:
            return (await durable.threads.status("t")).reason == "sleeping"

        await wait_until(asleep)
        found = await durable.threads.why("t")
        assert (found.rule.id, step(found, "call")) == ("run_asleep", "ThreadPausedError")
        (wakes,) = (one for one in found.next if one.by == "worker")
        assert (wakes.what, wakes.at) == ("resume", found.status.waits[0].until)
        await durable.runs.wait_first(["r"], timeout=20)
    record = await durable.runs.get("r")
    assert wakes.at is not None
    assert record.finished_at is not None
    assert record.finished_at >= wakes.at


async def test_a_waiter_is_resumed_by_its_signal(durable: Durable) -> None:
    await durable.runs.create("t", "waits", INPUT, run_id="r")
    async with durable.work():

        async def waiting() -> bool:
            return (await durable.threads.status("t")).reason == "waiting"

        await wait_until(waiting)
        found = await checked(durable, "t", "waits")
        (wakes,) = (one for one in found.next if one.by == "worker")
        assert (wakes.what, wakes.at, wakes.when) == (
            "resume",
            None,
            "when signal 'payment' is sent",
        )
        assert "aiodurable threads signal t payment VALUE" in str(found)
        await durable.threads.signal("t", "payment", 5)
        assert await durable.runs.wait("r", timeout=20) == {"xs": ["in", "5"]}


async def test_a_drained_run_is_resumed(durable: Durable, held: Held) -> None:
    async with durable.run("t", "held") as run:
        task = asyncio.create_task(run.ainvoke(INPUT))
        await held.entered.wait()
        run.drain()
        held.open.set()
        with pytest.raises(Exception, match="."):
            await task
    found = await checked(durable, "t", "held")
    assert (found.status.reason, step(found, "call")) == ("drained", "resume")
    async with durable.run("t", "held") as run:
        assert await run.ainvoke() == {"xs": ["in", "held", "b"]}


async def test_what_plain_langgraph_left_has_no_run_and_no_worker(
    durable: Durable, dsn: str
) -> None:
    async with AsyncPostgresSaver.from_conn_string(dsn) as saver:
        graph = chain(a=ok("a"), b=ok("b")).compile(checkpointer=saver, interrupt_before=["b"])
        await graph.ainvoke(INPUT, {"configurable": {"thread_id": "t"}}, durability="sync")
    found = await checked(durable, "t")
    assert (found.rule.id, found.facts.runs, found.facts.token) == ("work_left", (), None)
    assert found.status.maybe_at_gate
    assert (step(found, "call"), step(found, "call_with_input")) == ("resume", "ThreadPausedError")
    assert "This may be wrong" in str(found)
    assert "--past-gate" in str(found)
    assert step(found, "nobody") == "wait"


async def test_the_schedule_of_a_thread_says_when_it_fires(durable: Durable) -> None:
    await durable.schedules.create("s", "chain", INPUT, thread_id="t", every=3600)
    await durable.schedules.trigger("s")
    found = await checked(durable, "t")
    (fires,) = (one for one in found.next if one.by == "schedule")
    assert (fires.what, fires.at) == ("accept", (await durable.schedules.get("s")).next_at)


async def test_a_name_that_looks_like_an_option_is_none_in_a_command(durable: Durable) -> None:
    async with durable.run("--all", "gate") as run:
        await run.ainvoke(INPUT)
    await durable.runs.create("--all", "chain", INPUT, run_id="--wait")
    assert [action.command for action in (await durable.threads.why("--all")).actions] == [
        "aiodurable threads resume --past-gate --app MODULE:ATTRIBUTE -- --all",
        "aiodurable threads fork -- --all NEW_THREAD",
        "aiodurable runs cancel -- --wait",
    ]


async def test_a_run_that_waited_too_long_is_named_with_its_queue_as_it_is_written(
    durable: Durable,
) -> None:
    await durable.runs.create("t", "chain", INPUT, queue="Mail", start_timeout=0.01)

    async def too_late() -> Why | None:
        found = await durable.threads.why("t")
        return found if step(found, "worker") == "set_aside" else None

    assert "queue 'Mail'" in str(await wait_until(too_late))


async def test_a_worker_that_was_never_without_work_is_seen(durable: Durable, held: Held) -> None:
    await durable.runs.create("t1", "held", INPUT, run_id="r1")
    async with durable.work(concurrency=1):
        await held.entered.wait()
        await durable.runs.create("t2", "chain", INPUT, run_id="r2")

        async def seen() -> bool:
            return (await durable.threads.why("t2")).facts.workers == 1

        await wait_until(seen)
        found = await durable.threads.why("t2")
        assert "no worker is seen" not in str(found)
        assert "start_worker" not in [action.name for action in found.actions]
        held.open.set()


async def test_a_thread_with_a_damaged_checkpoint_is_explained(durable: Durable, dsn: str) -> None:
    async with durable.run("t", "gate") as run:
        await run.ainvoke(INPUT)
    write(dsn, """UPDATE checkpoints SET metadata = metadata || '{"step": "x"}'""")
    found = await durable.threads.why("t")
    assert found.facts.step is None
    assert "cannot be read" in str(found)


async def test_a_thread_id_that_cannot_be_stored_is_refused(durable: Durable) -> None:
    with pytest.raises(InvalidArgumentError):
        await durable.threads.why("")
