"""What the ledger and the live lock add to the tables, rule by rule.

The ledger's rows are written by hand here: whatever wrote them, a status must follow from them.
"""

from __future__ import annotations

from typing import Any

import psycopg
import pytest
from langgraph.checkpoint.postgres.aio import AsyncPostgresSaver
from langgraph.types import Command
from psycopg import sql

from aiodurable.errors import InvalidArgumentError
from aiodurable.lock_keys import lock_key
from aiodurable.models import ThreadStatus
from aiodurable.postgres.pool import PsycopgPool
from aiodurable.runs.threads import Threads
from tests.support.internals import services_of
from tests.support.scenario_graphs import BREAKS
from tests.support.scenarios import Thread
from tests.support.waiting import wait_until

NAME = "thread"


class World:
    """One thread, its graph, its ledger."""

    def __init__(
        self, dsn: str, saver: AsyncPostgresSaver, database: PsycopgPool, threads: Threads
    ) -> None:
        self._dsn, self._saver, self._database, self._threads = dsn, saver, database, threads

    def thread(self, graph: str, run_id: str | None = "one") -> Thread:
        """Driven as a durable run does (its checkpoints carry the run_id), or as plain LangGraph
        does (None).
        """
        thread = Thread(self._dsn, self._saver, NAME, graph)
        if run_id is not None:
            thread.config = {
                "configurable": {
                    "thread_id": NAME,
                    "aiodurable_run_id": run_id,
                    "aiodurable_graph_name": graph,
                }
            }
        return thread

    async def row(
        self,
        status: str,
        run_id: str = "one",
        *,
        input: bytes | None = b"x",
        base: str | None = None,
        **more: Any,
    ) -> None:
        values: dict[str, Any] = {
            "run_id": run_id,
            "thread_id": NAME,
            "lock_key": lock_key(NAME, "aiodurable"),
            "status": status,
            "input_type": "bytes" if input else None,
            "input": input,
            "base_checkpoint_id": base,
            **more,
        }
        slots = ", ".join(f"${n}" for n in range(1, len(values) + 1))
        query = (
            f"INSERT INTO aiodurable_runs ({', '.join(values)}, created_at) VALUES ({slots},"
            " clock_timestamp())"
        )
        await self._database.execute(query, *values.values())

    async def status(self, **options: Any) -> Any:
        return await services_of(self._threads).threads.status(NAME, **options)

    async def head(self) -> str | None:
        return (await self.status()).checkpoint_id


@pytest.fixture
def world(dsn: str, saver: AsyncPostgresSaver, database: PsycopgPool, threads: Threads) -> World:
    return World(dsn, saver, database, threads)


# ---- a run with no checkpoint of its own --------------------------------------------------------


@pytest.mark.parametrize(
    ("written", "told"),
    [
        ("queued", "queued"),
        ("running", "crashed"),
        ("failed", "failed"),
        ("paused", "paused"),
        ("quarantined", "quarantined"),
        ("rejected", "new"),
        ("superseded", "new"),
    ],
)
async def test_the_ledger_gives_the_status_of_a_run_without_a_checkpoint(
    world: World, written: str, told: str
) -> None:
    await world.row(
        written, error="ValueError('x')", status_reason="drain", attempts=2, graph="linear"
    )
    found = await world.status()
    assert found.status == told
    if told != "new":
        assert (found.run_id, found.attempts, found.graph) == ("one", 2, "linear")
        assert found.updated_at is not None
    assert found.reason == (
        "drain" if told in ("queued", "failed", "paused", "quarantined") else None
    )


async def test_a_run_killed_before_its_first_checkpoint_is_crashed_over_a_complete_head(
    world: World,
) -> None:
    await world.thread("linear").start()
    await world.row("complete")
    base = await world.head()
    await world.row("running", "two", base=base)
    found = await world.status()
    assert (found.status, found.run_id) == ("crashed", "two")


async def test_new_input_over_an_abandoned_question_is_crashed_and_not_a_question(
    world: World,
) -> None:
    await world.thread("ask").start()
    base = await world.head()
    await world.row("superseded")
    await world.row("running", "two", base=base)
    assert (await world.status()).status == "crashed"


async def test_a_rejected_run_changes_nothing(world: World) -> None:
    await world.thread("linear").start(interrupt_before=["b"])
    await world.row("paused", status_reason="breakpoint")
    await world.row("rejected", "two", base=await world.head())
    found = await world.status()
    assert (found.status, found.run_id, found.reason) == ("paused", "one", "breakpoint")


# ---- a run about the head -----------------------------------------------------------------------


@pytest.mark.parametrize(
    ("written", "told"),
    [
        ("running", "crashed"),
        ("complete", "crashed"),
        ("paused", "paused"),
        ("failed", "failed"),
        ("quarantined", "quarantined"),
    ],
)
async def test_the_ledger_gives_the_status_of_work_left_at_the_head(
    world: World, written: str, told: str
) -> None:
    await world.thread("linear").start(interrupt_before=["b"])
    await world.row(written, error="OSError('gone')", status_reason="why")
    found = await world.status()
    assert (found.status, found.pending) == (told, ("b",))
    assert found.error == ("OSError('gone')" if told in ("failed", "quarantined") else None)


@pytest.mark.parametrize(
    "written", ["running", "complete", "paused", "failed", "interrupted", "quarantined"]
)
async def test_a_complete_head_is_complete_whatever_its_own_run_says(
    world: World, written: str
) -> None:
    await world.thread("linear").start()
    await world.row(written)
    assert (await world.status()).status == "complete"


@pytest.mark.parametrize("written", ["running", "complete", "paused", "failed", "interrupted"])
async def test_an_error_in_the_tables_is_failed_whatever_its_own_run_says(
    world: World, written: str
) -> None:
    BREAKS.add("b")
    await world.thread("linear").start()
    await world.row(written, error="another")
    found = await world.status()
    assert (found.status, found.failed_node, found.error) == (
        "failed",
        "b",
        "ValueError('b is broken')",
    )


@pytest.mark.parametrize("written", ["running", "complete", "paused", "failed", "interrupted"])
async def test_an_open_question_is_interrupted_whatever_its_own_run_says(
    world: World, written: str
) -> None:
    await world.thread("ask").start()
    await world.row(written)
    found = await world.status()
    assert (found.status, [i.value for i in found.interrupts]) == ("interrupted", ["q?"])


async def test_quarantine_stands_over_an_error(world: World) -> None:
    BREAKS.add("b")
    await world.thread("linear").start()
    await world.row("quarantined", status_reason="5 attempts", attempts=5)
    found = await world.status()
    assert (found.status, found.failed_node, found.reason, found.attempts) == (
        "quarantined",
        "b",
        "5 attempts",
        5,
    )


async def test_work_left_in_front_of_a_queue_comes_before_the_queue(world: World) -> None:
    BREAKS.add("b")
    await world.thread("linear").start()
    await world.row("failed", fencing_token=1)
    await world.row("queued", "two", base=await world.head())
    found = await world.status()
    assert (found.status, found.run_id, found.failed_node) == ("failed", "one", "b")


async def test_a_thread_of_plain_langgraph_that_asks_is_interrupted_whatever_is_queued(
    world: World,
) -> None:
    await world.thread("ask", run_id=None).start()
    await world.row("queued", "two", base=await world.head())
    assert (await world.status()).status == "interrupted"


async def test_a_complete_thread_with_a_next_run_is_queued(world: World) -> None:
    await world.thread("linear").start()
    await world.row("complete", fencing_token=1, attempts=1)
    await world.row("queued", "three", position=3, graph="linear")
    await world.row("queued", "two", position=2, graph="linear")
    await world.row("superseded", "one and a half", position=1)
    found = await world.status()
    assert (found.status, found.run_id, found.attempts) == ("queued", "two", 0)
    under_its_lease = await world.status(ignore_lock=True)
    assert (under_its_lease.status, under_its_lease.run_id) == ("complete", "one")


async def test_a_queued_run_is_none_of_a_thread_that_plain_langgraph_completed(
    world: World,
) -> None:
    await world.thread("linear", run_id=None).start()
    await world.row("queued", "two", base=await world.head())
    under_its_lease = await world.status(ignore_lock=True)
    assert (under_its_lease.status, under_its_lease.run_id) == ("complete", None)


# ---- plain LangGraph before and after -----------------------------------------------------------


async def test_plain_langgraph_that_went_on_to_the_end_makes_it_complete(world: World) -> None:
    await world.thread("linear").start(interrupt_before=["b"])
    await world.row("paused")
    await world.thread("linear", run_id=None).run()
    assert (await world.status()).status == "complete"


async def test_plain_langgraph_that_went_on_and_stopped_makes_it_crashed(world: World) -> None:
    await world.thread("linear").start(interrupt_before=["a"])
    await world.row("paused")
    await world.thread("linear", run_id=None).run(interrupt_before=["b"])
    assert (await world.status()).status == "crashed"


async def test_an_input_that_was_consumed_stays_consumed_when_plain_langgraph_goes_on(
    world: World,
) -> None:
    await world.thread("linear").start(interrupt_before=["b"])
    await world.row("running")
    await world.thread("linear", run_id=None).run()
    assert (await world.status()).status == "complete"


@pytest.mark.parametrize(
    ("graph", "told"), [("linear", "complete"), ("ask", "interrupted"), ("tasks", "complete")]
)
async def test_an_adopted_thread_killed_before_its_first_checkpoint_is_as_it_was(
    world: World, graph: str, told: str
) -> None:
    await world.thread(graph, run_id=None).start()
    await world.row("running", input=None, base=await world.head())
    assert (await world.status()).status == told


@pytest.mark.parametrize(
    ("written", "told"), [("running", "crashed"), ("paused", "paused"), ("failed", "failed")]
)
async def test_the_ledger_gives_the_status_of_an_adopted_thread_with_work_left(
    world: World, written: str, told: str
) -> None:
    await world.thread("linear", run_id=None).start(interrupt_before=["b"])
    await world.row(written, input=None, base=await world.head(), error="OSError('gone')")
    assert (await world.status()).status == told


async def test_the_graph_and_run_are_read_from_the_head_where_the_ledger_is_silent(
    world: World,
) -> None:
    await world.thread("linear").start()
    found = await world.status()
    assert (found.graph, found.run_id) == ("linear", None)


# ---- the live lock ------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "name", [NAME, "ein Faden", "線", "x" * 512, *(f"sign {n}" for n in range(6))]
)
async def test_the_holder_of_the_lock_is_named(dsn: str, threads: Threads, name: str) -> None:
    key = lock_key(name, "aiodurable")
    async with await psycopg.AsyncConnection.connect(
        dsn, autocommit=True, application_name="holder@host:1"
    ) as holder:
        await holder.execute("SELECT pg_advisory_lock(%s)", (key,))
        told = await threads.status(name)
        assert told.status == ThreadStatus.RUNNING
        assert told.holder is not None
        assert (told.holder.key, told.holder.pid) == (key, holder.info.backend_pid)
        assert told.holder.application == "holder@host:1"
        assert told.holder.since is not None
        beneath = await services_of(threads).threads.status(name, ignore_lock=True)
        assert (beneath.status, beneath.holder) == (ThreadStatus.NEW, None)
        assert (await threads.status("another")).holder is None

    async def freed() -> bool:
        return (await threads.status(name)).status == ThreadStatus.NEW

    await wait_until(freed, what="the lock of a closed connection is gone")


@pytest.mark.parametrize(
    "flag", [sql.SQL("pg_advisory_lock_shared"), sql.SQL("pg_advisory_lock")], ids=["shared", "own"]
)
async def test_a_waiters_flag_and_a_lock_of_another_database_hold_nothing(
    dsn: str, server: Any, threads: Threads, flag: sql.SQL
) -> None:
    key = lock_key(NAME, "aiodurable")
    halves = (key >> 32, (key & 0xFFFFFFFF) - (1 << 32 if key & 0x80000000 else 0))
    async with (
        await psycopg.AsyncConnection.connect(dsn, autocommit=True) as waiter,
        await psycopg.AsyncConnection.connect(server.url, autocommit=True) as stranger,
    ):
        await waiter.execute(sql.SQL("SELECT {}(%s::int, %s::int)").format(flag), halves)
        await stranger.execute("SELECT pg_advisory_lock(%s)", (key,))
        assert (await threads.status(NAME)).status == ThreadStatus.NEW


async def test_a_locked_thread_is_running_and_without_its_lock_what_its_tables_show(
    world: World, dsn: str
) -> None:
    BREAKS.add("b")
    await world.thread("linear").start()
    await world.row("failed")
    async with await psycopg.AsyncConnection.connect(dsn, autocommit=True) as holder:
        await holder.execute("SELECT pg_advisory_lock(%s)", (lock_key(NAME, "aiodurable"),))
        assert (await world.status()).status == ThreadStatus.RUNNING
        assert (await world.status(ignore_lock=True)).status == ThreadStatus.FAILED


@pytest.mark.parametrize("thread_id", ["", "a\0b", "x" * 10_000, "\ud800"])
async def test_a_thread_id_that_cannot_be_is_refused(threads: Threads, thread_id: str) -> None:
    with pytest.raises(InvalidArgumentError):
        await threads.status(thread_id)


async def test_a_question_that_a_dead_run_answered_is_not_open_again(world: World) -> None:
    await world.thread("ask").start()
    await world.thread("ask").killed(Command(resume="yes"), 0, after=True)
    await world.row("running", attempts=2)
    found = await world.status()
    assert (found.status, found.interrupts) == ("crashed", ())
