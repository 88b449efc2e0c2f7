"""Pruning removes the past of finished threads, and nothing that anybody still needs."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from typing import Any

import asyncpg
import psycopg
import pytest
from langgraph.checkpoint.base.id import uuid6
from langgraph.checkpoint.postgres.aio import AsyncPostgresSaver
from langgraph.types import Command
from psycopg import sql
from psycopg.conninfo import make_conninfo

from aiodurable.checkpoints.fences import Fence, bump
from aiodurable.dsn import parse_dsn
from aiodurable.durable import Durable
from aiodurable.errors import InvalidArgumentError
from aiodurable.postgres.pool import PsycopgPool
from aiodurable.runs.threads import Threads
from aiodurable.settings import Settings
from aiodurable.threads import PruneReport, prune
from tests.support.checkpoint_rows import write_in_flight
from tests.support.internals import wrap_reading_of_prune
from tests.support.scenario_graphs import BREAKS
from tests.support.scenarios import Thread
from tests.support.waiting import within

NOW = timedelta(0)
TABLES = ("checkpoints", "checkpoint_writes", "checkpoint_blobs")


async def rows(dsn: str) -> dict[str, dict[str, int]]:
    """Rows per thread and table."""
    found: dict[str, dict[str, int]] = {}
    async with await psycopg.AsyncConnection.connect(dsn) as connection:
        for table in TABLES:
            query = sql.SQL("SELECT thread_id, count(*) FROM {} GROUP BY 1").format(
                sql.Identifier(table)
            )
            for thread_id, count in await (await connection.execute(query)).fetchall():
                found.setdefault(thread_id, {})[table] = count
    return found


GRAPHS = [
    "linear",
    "fan_out",
    "sends",
    "subgraph",
    "subgraph_with_memory",
    "tasks_remembering",
    "deferred",
    "agent",
]


@pytest.mark.parametrize("graph", GRAPHS)
async def test_a_pruned_thread_goes_on_as_if_nothing_had_happened(
    dsn: str, saver: AsyncPostgresSaver, threads: Threads, graph: str
) -> None:
    given: Any = {"messages": [("user", "look")]} if graph == "agent" else {"xs": ["x"]}
    pruned, untouched = Thread(dsn, saver, "pruned", graph), Thread(dsn, saver, "untouched", graph)
    for thread in (pruned, untouched):
        await thread.run(given)
    before = await pruned.state()
    told = await threads.prune(older_than=NOW, graph=None)
    assert told.threads == 2
    after = await pruned.state()
    assert (after.values, after.next, after.config) == (before.values, before.next, before.config)
    assert after.parent_config is None
    assert (await threads.status("pruned")).status == "complete"
    again = Thread(dsn, saver, "again", graph)
    await again.run(given)
    if graph != "agent":
        assert await pruned.run(given) == await again.run(given)


async def test_only_the_newest_checkpoint_is_left(
    dsn: str, saver: AsyncPostgresSaver, threads: Threads
) -> None:
    thread = Thread(dsn, saver, "thread", "subgraph")
    await thread.start()
    all_rows = await rows(dsn)
    told = await threads.prune(older_than=NOW)
    left = await rows(dsn)
    assert left["thread"]["checkpoints"] == 1
    assert "checkpoint_writes" not in left["thread"]
    assert told.rows == sum(all_rows["thread"].values()) - sum(left["thread"].values())
    assert told.bytes > 0
    assert (await threads.prune(older_than=NOW)).rows == 0


@pytest.mark.parametrize("graph", ["linear", "subgraph_with_memory", "sends"])
async def test_it_leaves_what_langgraphs_own_prune_leaves(
    dsn: str, saver: AsyncPostgresSaver, threads: Threads, graph: str
) -> None:
    for name in ("ours", "theirs"):
        await Thread(dsn, saver, name, graph).start()
        await Thread(dsn, saver, name, graph).start()
    await saver.aprune(["theirs"], strategy="keep_latest")
    theirs = (await rows(dsn))["theirs"]
    await threads.prune(older_than=NOW, batch_size=1)
    assert (await rows(dsn))["ours"] == theirs


async def test_nothing_means_nothing(
    dsn: str, saver: AsyncPostgresSaver, threads: Threads, database: PsycopgPool
) -> None:
    await Thread(dsn, saver, "plain", "subgraph").start()
    await Thread(dsn, saver, "leased", "linear").start()
    await database.execute("INSERT INTO aiodurable_fences (thread_id, token) VALUES ('leased', 7)")
    insert = (
        "INSERT INTO aiodurable_runs (run_id, thread_id, lock_key, status) VALUES ('one', 'leased',"
        " 0, 'complete')"
    )
    await database.execute(insert)
    told = await threads.prune(strategy="delete", older_than=NOW)
    assert (told.threads, await rows(dsn)) == (2, {})
    assert [thread async for thread in threads.search()] == []
    # A stale writer never meets its token again; the plain thread leaves nothing behind.
    fences = await database.fetch("SELECT thread_id, token FROM aiodurable_fences")
    assert fences == [{"thread_id": "leased", "token": 8}]


async def test_a_dry_run_tells_the_same_and_removes_nothing(
    dsn: str, saver: AsyncPostgresSaver, threads: Threads
) -> None:
    for name in "abc":
        await Thread(dsn, saver, name, "linear").start()
    for strategy in ("keep_latest", "delete"):
        before = await rows(dsn)
        told = await threads.prune(strategy=strategy, older_than=NOW, dry_run=True)
        assert (await rows(dsn), told.threads) == (before, 3)
        assert await threads.prune(strategy=strategy, older_than=NOW) == told


async def test_a_dry_run_counts_a_thread_once_though_its_rows_lie_far_apart(
    dsn: str, saver: AsyncPostgresSaver, threads: Threads, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(prune, "_PAGES", 1)
    for strategy in ("keep_latest", "delete"):
        for _ in range(12):
            for name in ("a", "b", "c"):
                await Thread(dsn, saver, name, "linear").start()
        told = await threads.prune(strategy=strategy, older_than=NOW, dry_run=True)
        assert told.scanned > 3, "or no thread lies on several pages"
        done = await threads.prune(strategy=strategy, older_than=NOW)
        assert (told.threads, told.rows, told.bytes) == (3, done.rows, done.bytes)


@pytest.mark.parametrize("dry_run", [True, False])
async def test_a_transaction_has_one_long_thread_or_several_short_ones(
    dsn: str,
    saver: AsyncPostgresSaver,
    threads: Threads,
    monkeypatch: pytest.MonkeyPatch,
    dry_run: bool,
) -> None:
    """A lease waits for the whole transaction that prunes its thread."""
    for name in ("long 1", "short 1", "short 2", "long 2", "short 3", "long 3"):
        for _ in range(3 if name.startswith("long") else 1):
            await Thread(dsn, saver, name, "linear").start()
    per_call = (await rows(dsn))["short 1"]["checkpoints"]
    monkeypatch.setattr(prune, "_CHECKPOINTS", 2 * per_call)
    so_far: list[int] = []
    told = await threads.prune(
        older_than=NOW, dry_run=dry_run, progress=lambda report: so_far.append(report.threads)
    )
    assert (told.threads, told.skipped) == (6, 0)
    assert {*so_far} - {0} == {1, 3, 4, 5, 6}


async def test_threads_that_need_somebody_stay_unless_named(
    dsn: str, saver: AsyncPostgresSaver, threads: Threads
) -> None:
    await Thread(dsn, saver, "asks", "ask").start()
    await Thread(dsn, saver, "crashed", "linear").start(interrupt_before=["b"])
    BREAKS.add("b")
    await Thread(dsn, saver, "failed", "linear").start()
    BREAKS.clear()
    before = await rows(dsn)
    assert (await threads.prune(older_than=NOW)).rows == 0
    assert await rows(dsn) == before
    told = await threads.prune(older_than=NOW, status=["interrupted", "failed"])
    assert told.threads == 2
    assert [(await threads.status(name)).status for name in ("asks", "crashed", "failed")] == [
        "interrupted",
        "crashed",
        "failed",
    ]
    await Thread(dsn, saver, "asks", "ask").run(Command(resume="yes"))
    await Thread(dsn, saver, "failed", "linear").run()
    assert [(await threads.status(name)).status for name in ("asks", "failed")] == [
        "complete",
        "complete",
    ]


async def test_an_interrupted_subgraph_keeps_its_call(
    dsn: str, saver: AsyncPostgresSaver, threads: Threads
) -> None:
    thread = Thread(dsn, saver, "thread", "subgraph_asking")
    await thread.start()
    await threads.prune(older_than=NOW, status=["interrupted"])
    assert (await thread.answer("yes"))["xs"] == ["a", "a", "i", "yes", "z"]


async def test_age_and_graph_choose(dsn: str, saver: AsyncPostgresSaver, threads: Threads) -> None:
    await Thread(dsn, saver, "thread", "linear").start()
    assert (await threads.prune(older_than=timedelta(hours=1))).threads == 0
    assert (await threads.prune(older_than=datetime(2020, 1, 1, tzinfo=UTC))).threads == 0
    assert (await threads.prune(older_than=NOW, graph="another")).threads == 0
    assert (await threads.prune(older_than=NOW)).threads == 1


async def test_a_leased_thread_is_left_alone(
    dsn: str, saver: AsyncPostgresSaver, threads: Threads
) -> None:
    await Thread(dsn, saver, "thread", "linear").start()
    async with Durable(dsn) as durable, durable.hold("thread"):
        assert (await threads.prune(strategy="delete", older_than=NOW)).rows == 0


async def test_a_thread_that_a_write_in_flight_belongs_to_is_left_alone(
    dsn: str, saver: AsyncPostgresSaver, threads: Threads, database: PsycopgPool
) -> None:
    await Thread(dsn, saver, "thread", "linear").start()
    fence = Fence("thread", *await bump(database, "thread"))
    writer = await asyncpg.connect(**parse_dsn(dsn).asyncpg)
    async with writer.transaction():
        assert await write_in_flight(writer, fence) == ["thread"]
        pruning = threads.prune(strategy="delete", older_than=NOW)
        told = await within(30, pruning, what="the prune, which does not wait for a writer")
        assert (told.rows, told.skipped) == (0, 1)
    await writer.close()


async def test_a_lease_taken_after_the_status_was_read_keeps_the_thread(
    dsn: str,
    saver: AsyncPostgresSaver,
    threads: Threads,
    database: PsycopgPool,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    for name in ("known", "unknown"):
        await Thread(dsn, saver, name, "linear").start()
    await bump(database, "known")

    def then_lease(read: Callable[..., Any]) -> Callable[..., Any]:
        async def read_then_lease(*args: Any, **kwargs: Any) -> Any:
            found = await read(*args, **kwargs)
            for name in ("known", "unknown"):
                await bump(database, name)
            return found

        return read_then_lease

    wrap_reading_of_prune(monkeypatch, threads, then_lease)
    told = await threads.prune(strategy="delete", older_than=NOW)
    assert (told.rows, told.skipped) == (0, 2)


async def test_a_lease_with_a_token_that_a_crash_undid_keeps_its_thread_too(
    dsn: str,
    saver: AsyncPostgresSaver,
    threads: Threads,
    database: PsycopgPool,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The token is what it was when the status was read, and another lease has it."""
    await Thread(dsn, saver, "thread", "linear").start()
    await bump(database, "thread")

    def then_crash(read: Callable[..., Any]) -> Callable[..., Any]:
        async def read_then_crash(*args: Any, **kwargs: Any) -> Any:
            found = await read(*args, **kwargs)
            await database.execute("UPDATE aiodurable_fences SET lease_id = lease_id + 1")
            return found

        return read_then_crash

    wrap_reading_of_prune(monkeypatch, threads, then_crash)
    report = await threads.prune(strategy="delete", older_than=NOW)
    assert (report.rows, report.skipped) == (0, 1)


async def test_a_thread_that_went_on_after_its_status_was_read_is_kept(
    dsn: str, saver: AsyncPostgresSaver, threads: Threads, monkeypatch: pytest.MonkeyPatch
) -> None:
    thread = Thread(dsn, saver, "thread", "linear")
    await thread.start()

    def then_go_on(read: Callable[..., Any]) -> Callable[..., Any]:
        async def read_then_go_on(*args: Any, **kwargs: Any) -> Any:
            found = await read(*args, **kwargs)
            await thread.run({"xs": ["again"]})
            return found

        return read_then_go_on

    wrap_reading_of_prune(monkeypatch, threads, then_go_on)
    told = await threads.prune(strategy="delete", older_than=NOW)
    assert (told.rows, told.skipped) == (0, 1)
    assert (await thread.state()).values["xs"] == ["a", "b", "again", "a", "b"]


async def test_a_thread_with_a_delta_channel_is_refused_by_name(
    dsn: str, saver: AsyncPostgresSaver, threads: Threads
) -> None:
    await Thread(dsn, saver, "delta", "delta").start()
    await Thread(dsn, saver, "linear", "linear").start()
    told = await threads.prune(older_than=NOW)
    assert (told.threads, told.unprunable) == (1, ("delta",))
    assert (await threads.prune(strategy="delete", older_than=NOW)).threads == 2


async def test_a_cancelled_prune_goes_on_where_it_was(
    dsn: str, saver: AsyncPostgresSaver, threads: Threads
) -> None:
    for n in range(6):
        await Thread(dsn, saver, f"thread {n}", "linear").start()
    seen: list[PruneReport] = []

    def cancel(report: PruneReport) -> None:
        seen.append(report)
        task.cancel()

    task = asyncio.create_task(
        threads.prune(strategy="delete", older_than=NOW, batch_size=2, progress=cancel)
    )
    with pytest.raises(asyncio.CancelledError):
        await task
    assert 0 < seen[-1].threads < 6
    rest = await threads.prune(strategy="delete", older_than=NOW)
    assert rest.threads == 6 - seen[-1].threads


NOTES_COMPRESSION = """
CREATE TABLE noted (wal_compression text);
CREATE FUNCTION note() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    INSERT INTO noted VALUES (current_setting('wal_compression'));
    RETURN NULL;
END $$;
CREATE TRIGGER note BEFORE DELETE ON checkpoints FOR EACH STATEMENT EXECUTE FUNCTION note();
DO $$ BEGIN CREATE ROLE prunes LOGIN; EXCEPTION WHEN duplicate_object THEN NULL; END $$;
DO $$ BEGIN CREATE ROLE compresses LOGIN; EXCEPTION WHEN duplicate_object THEN NULL; END $$;
GRANT ALL ON ALL TABLES IN SCHEMA public TO prunes, compresses;
GRANT ALL ON ALL SEQUENCES IN SCHEMA public TO prunes, compresses;
"""
"""Who deletes checkpoints writes down how its log is compressed."""


@pytest.mark.parametrize("role", ["superuser", "compresses", "prunes"])
async def test_a_prune_compresses_its_log_where_its_role_may(
    dsn: str, saver: AsyncPostgresSaver, role: str
) -> None:
    await Thread(dsn, saver, "thread", "linear").start()
    async with await psycopg.AsyncConnection.connect(dsn, autocommit=True) as connection:
        await connection.execute(NOTES_COMPRESSION.encode())
        found = await connection.execute(
            "SELECT setting, 'lz4' = ANY (enumvals) FROM pg_settings WHERE name = 'wal_compression'"
        )
        own, has_lz4 = await found.fetchone() or ("", False)
        if has_lz4:
            await connection.execute("GRANT SET ON PARAMETER wal_compression TO compresses")
        who = dsn if role == "superuser" else make_conninfo(dsn, user=role)
        async with Durable(who, settings=Settings(auto_migrate=False)) as durable:
            assert (await durable.threads.prune(older_than=NOW)).threads == 1
        noted = await (await connection.execute("SELECT DISTINCT * FROM noted")).fetchall()
    assert noted == [("lz4" if has_lz4 and role != "prunes" else own,)]


async def test_a_role_that_may_compress_no_more_prunes_on(
    dsn: str, saver: AsyncPostgresSaver
) -> None:
    for n in range(3):
        await Thread(dsn, saver, f"thread-{n}", "linear").start()
    with psycopg.connect(dsn, autocommit=True) as connection:
        connection.execute(NOTES_COMPRESSION.encode())
        found = connection.execute(
            "SELECT 'lz4' = ANY (enumvals) FROM pg_settings WHERE name = 'wal_compression'"
        )
        if found.fetchone() != (True,):
            pytest.skip("this server was built without lz4, or cannot choose it")
        connection.execute("GRANT SET ON PARAMETER wal_compression TO compresses")

        def revoke(_: PruneReport) -> None:
            connection.execute("REVOKE SET ON PARAMETER wal_compression FROM compresses")

        who = make_conninfo(dsn, user="compresses")
        async with Durable(who, settings=Settings(auto_migrate=False)) as durable:
            report = await durable.threads.prune(older_than=NOW, batch_size=1, progress=revoke)
    assert report.threads == 3


async def test_what_a_killed_prune_left_half_done_the_next_one_finishes(
    dsn: str, saver: AsyncPostgresSaver, threads: Threads
) -> None:
    """The past goes first, the link to it in the next transaction."""
    thread = Thread(dsn, saver, "thread", "subgraph_with_memory")
    await thread.start()
    await thread.start()

    def die(_: PruneReport) -> None:
        raise RuntimeError

    with pytest.raises(RuntimeError):
        await threads.prune(older_than=NOW, progress=die)
    half = await thread.state()
    assert half.parent_config is not None, "or there is no half to finish"
    assert (await threads.status("thread")).status == "complete"
    told = await threads.prune(older_than=NOW)
    assert (told.threads, told.rows) == (0, 0)
    async with await psycopg.AsyncConnection.connect(dsn) as connection:
        parents = await connection.execute("SELECT parent_checkpoint_id FROM checkpoints")
        assert {parent for (parent,) in await parents.fetchall()} == {None}


async def test_threads_go_in_the_order_of_their_last_rows_not_of_their_ids(
    dsn: str, saver: AsyncPostgresSaver, threads: Threads, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("d", "b", "c", "a", "b"):
        await Thread(dsn, saver, name, "linear").start()
    seen: list[str] = []

    def noted(read: Callable[..., Any]) -> Callable[..., Any]:
        async def read_and_note(*args: Any) -> Any:
            found = await read(*args)
            seen.extend(thread.thread_id for thread in found)
            return found

        return read_and_note

    wrap_reading_of_prune(monkeypatch, threads, noted)
    told = await threads.prune(older_than=NOW, batch_size=1)
    assert told.threads == 4
    assert (seen, told.progress) == (["d", "c", "a", "b"], 1.0)


async def test_what_a_step_under_way_has_written_stays(
    dsn: str, saver: AsyncPostgresSaver, threads: Threads, database: PsycopgPool
) -> None:
    """Plain LangGraph may store what a task wrote before the checkpoint that the task goes on
    from.
    """
    thread = Thread(dsn, saver, "thread", "linear")
    await thread.start()
    await thread.start()
    config: Any = {
        "configurable": {"thread_id": "thread", "checkpoint_ns": "", "checkpoint_id": str(uuid6())}
    }
    await saver.aput_writes(config, [("xs", ["under way"])], "a task")
    told = await threads.prune(older_than=NOW)
    assert told.threads == 1
    kept = await database.fetch("SELECT task_id FROM checkpoint_writes")
    assert [row["task_id"] for row in kept] == ["a task"]


@pytest.mark.parametrize("sooner_s", [30, -30])
async def test_ages_go_by_the_time_in_the_checkpoint_though_its_id_is_of_another_second(
    dsn: str, saver: AsyncPostgresSaver, threads: Threads, database: PsycopgPool, sooner_s: int
) -> None:
    """The host's clock was set between the two. Ids only tell where to look."""
    await Thread(dsn, saver, "thread", "linear").start()
    (head,) = await database.fetch("SELECT max(checkpoint ->> 'ts') AS ts FROM checkpoints")
    written = datetime.fromisoformat(head["ts"]) - timedelta(seconds=sooner_s)
    await database.execute(
        "UPDATE checkpoints SET checkpoint = jsonb_set(checkpoint, '{ts}', to_jsonb($1::text))",
        written.isoformat(),
    )
    found = threads.search(status="complete", newer_than=written - timedelta(seconds=1))
    assert [thread.thread_id async for thread in found] == ["thread"]
    found = threads.search(status="complete", newer_than=written + timedelta(seconds=1))
    assert [thread.thread_id async for thread in found] == []
    assert (await threads.prune(older_than=written - timedelta(seconds=1))).threads == 0
    assert (await threads.prune(older_than=written + timedelta(seconds=1))).threads == 1


@pytest.mark.parametrize(
    "wrong",
    [
        {"strategy": "some"},
        {"older_than": timedelta(days=-1)},
        {"older_than": datetime(2026, 1, 1)},  # noqa: DTZ001 - that is what is refused
        {"status": ["running"]},
        {"status": ["complete", "queued"]},
        {"status": ["lost"]},
        {"batch_size": 0},
        {"duty_cycle": 0},
        {"duty_cycle": 1.5},
    ],
    ids=str,
)
async def test_what_cannot_be_meant_is_refused(threads: Threads, wrong: dict[str, Any]) -> None:
    with pytest.raises(InvalidArgumentError):
        await threads.prune(**{"older_than": NOW, **wrong})
