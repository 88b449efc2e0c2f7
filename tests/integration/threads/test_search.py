"""Finding threads: every thread once, by page, by any filter."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Any

import psycopg
import pytest
from langgraph.checkpoint.postgres.aio import AsyncPostgresSaver
from langgraph.types import Command

from aiodurable.errors import InvalidArgumentError
from aiodurable.lock_keys import lock_key
from aiodurable.models import ThreadStatus, WorkflowCheckpoint
from aiodurable.postgres.pool import PsycopgPool
from aiodurable.runs.threads import Threads
from aiodurable.threads import NEEDS_ATTENTION, ThreadFilters, counts, search
from aiodurable.threads.filters import Filter
from aiodurable.threads.status import Classifier
from tests.support.internals import services_of
from tests.support.round_trips import round_trips
from tests.support.scenario_graphs import BREAKS
from tests.support.scenarios import Thread
from tests.support.waiting import wait_until

EVERYTHING = {"complete", "crashed", "asking", "failed", "lost", "waiting", "given up"}


@pytest.fixture
async def zoo(dsn: str, database: PsycopgPool) -> None:
    """Threads of every kind: with and without a ledger row, with and without a checkpoint."""
    async with AsyncPostgresSaver.from_conn_string(dsn) as saver:
        await Thread(dsn, saver, "complete", "linear").start()
        await Thread(dsn, saver, "crashed", "linear").start(interrupt_before=["b"])
        await Thread(dsn, saver, "asking", "ask").start()
        stamped = Thread(dsn, saver, "failed", "linear")
        stamped.config = {
            "configurable": {"thread_id": "failed", "aiodurable_graph_name": "linear"}
        }
        BREAKS.add("b")
        await stamped.start()
    query = """
        INSERT INTO aiodurable_runs (run_id, thread_id, lock_key, graph, status, input_type, input, error, created_at)
        VALUES ($1, $1, 0, $2, $3, 'bytes', '', $4, now() - $5::interval)"""
    await database.execute(query, "lost", "report", "running", None, timedelta(hours=2))
    await database.execute(query, "waiting", "report", "queued", None, timedelta(hours=2))
    await database.execute(
        query, "given up", "report", "quarantined", "OSError('disk')", timedelta(hours=2)
    )


async def found(threads: Threads, **filters: Any) -> set[str]:
    return {thread.thread_id async for thread in threads.search(**filters)}


@pytest.mark.parametrize("page", [1, 2, 3, 500])
async def test_every_thread_is_found_once(
    zoo: None, threads: Threads, page: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(search, "_STEPS", (page, 2 * page))
    everything = [thread async for thread in threads.search()]
    assert sorted(thread.thread_id for thread in everything) == sorted(EVERYTHING)
    assert everything == [await threads.status(thread.thread_id) for thread in everything]


@pytest.mark.parametrize(
    ("filters", "names"),
    [
        ({"status": NEEDS_ATTENTION}, {"crashed", "asking", "failed", "lost", "given up"}),
        ({"status": ThreadStatus.CRASHED}, {"crashed", "lost"}),
        ({"status": "failed"}, {"failed"}),
        ({"status": ["queued", ThreadStatus.COMPLETE]}, {"waiting", "complete"}),
        ({"status": []}, set()),
        ({"status": "new"}, set()),
        ({"older_than": timedelta(hours=1)}, {"lost", "waiting", "given up"}),
        ({"newer_than": timedelta(hours=1)}, {"complete", "crashed", "asking", "failed"}),
        ({"older_than": timedelta(hours=3)}, set()),
        (
            {"newer_than": timedelta(hours=3), "older_than": timedelta(hours=1)},
            {"lost", "waiting", "given up"},
        ),
        ({"graph": "linear"}, {"failed"}),
        ({"graph": "report"}, {"lost", "waiting", "given up"}),
        ({"graph": "report", "status": "crashed"}, {"lost"}),
        ({"error": "is broken"}, {"failed"}),
        ({"error": "disk"}, {"given up"}),
        ({"error": "%"}, set()),
        ({"prefix": "c"}, {"complete", "crashed"}),
        ({"prefix": "c", "status": "crashed"}, {"crashed"}),
        ({"prefix": "%"}, set()),
        (
            {"status": ["failed", "interrupted", "quarantined", "queued", "paused"]},
            {"asking", "failed", "waiting", "given up"},
        ),
        ({"status": "running"}, set()),
        ({"holder": "anybody"}, set()),
        (
            {"newer_than": timedelta(minutes=5), "status": NEEDS_ATTENTION},
            {"crashed", "asking", "failed"},
        ),
        ({"newer_than": timedelta(days=2)}, EVERYTHING),
    ],
)
async def test_filters_pass_what_they_say(
    zoo: None, threads: Threads, filters: Any, names: set[str]
) -> None:
    assert await found(threads, **filters) == names


@pytest.mark.parametrize("limit", [1, 2, 6, 7, 8])
async def test_a_limit_bounds_what_is_found(
    zoo: None, threads: Threads, limit: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(search, "_STEPS", (2, 2))
    assert len([thread async for thread in threads.search(limit=limit)]) == min(limit, 7)
    assert len([t async for t in threads.search(limit=limit, error="broken")]) == 1


async def test_an_error_is_searched_among_threads_that_have_one(
    zoo: None, threads: Threads, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(search, "_STEPS", (1, 1))
    found, _ = await threads.search_page(error="broken", limit=5, max_scanned=2)
    assert [thread.status for thread in found] == ["failed"]
    assert {thread.error for thread in found} == {"ValueError('b is broken')"}


async def test_a_search_looks_into_subgraphs_of_threads_that_it_finds_alone(
    zoo: None, threads: Threads, monkeypatch: pytest.MonkeyPatch
) -> None:
    await threads.search_page(error="broken")  # the connection is open
    with round_trips(monkeypatch) as trips:
        found, _ = await threads.search_page(error="nowhere")
        missed = len(trips)
        trips.clear()
        (failed,), _ = await threads.search_page(error="broken")
        assert len(trips) == missed + 1
    assert not found
    assert failed.failed_path == ("b",)


async def test_a_moment_and_an_age_mean_the_same(zoo: None, threads: Threads) -> None:
    moment = datetime.now(UTC) - timedelta(hours=1)
    assert await found(threads, older_than=moment) == await found(
        threads, older_than=timedelta(hours=1)
    )


@pytest.mark.parametrize(
    "filters",
    [
        {"older_than": datetime(2026, 1, 1)},  # noqa: DTZ001 - that is what is refused
        {"newer_than": datetime(2026, 1, 1)},  # noqa: DTZ001
        {"older_than": timedelta(seconds=-1)},
        {"newer_than": timedelta(seconds=-1)},
        {"limit": 0},
        {"limit": -1},
        {"status": "lost"},
        {"status": ["failed", "lost"]},
        {"status": 5},
        {"status": [["failed"]]},
        {"older_than": 5},
        {"newer_than": "1h"},
        {"graph": 5},
        {"prefix": b"t"},
        {"error": ValueError},
        {"holder": 1},
        {"orphaned": "yes"},
        {"limit": "10"},
    ],
    ids=str,
)
async def test_a_filter_that_cannot_be_meant_is_refused_at_once(
    threads: Threads, filters: Any
) -> None:
    with pytest.raises(InvalidArgumentError):
        threads.search(**filters)


async def test_no_connection_is_held_between_two_pages(
    zoo: None, threads: Threads, database: PsycopgPool
) -> None:
    def all_are_free() -> bool:  # the pool may be opening one more in the background
        stats = database.pool.get_stats()
        return stats["pool_size"] == stats["pool_available"]

    async for _ in threads.search():
        await wait_until(all_are_free, what="every connection is back in the pool")


async def test_threads_that_sort_strangely_are_found(dsn: str, threads: Threads) -> None:
    names = [
        "a",
        "A",
        "b",
        " ",
        "~",
        "é",
        "e\u0301",
        "Z",
        "z",
        "線",
        "-1",
        "10",
        "9",
        "a b",
        "a-b",
        "ab",
        "\U0001f9f5",
    ]
    async with AsyncPostgresSaver.from_conn_string(dsn) as saver:
        for name in names:
            await Thread(dsn, saver, name, "silent").start(durability="exit")
    listed: list[WorkflowCheckpoint] = [thread async for thread in threads.search()]
    assert sorted(thread.thread_id for thread in listed) == sorted(names)


async def test_running_threads_are_found_by_their_holder(
    zoo: None, dsn: str, threads: Threads
) -> None:
    async with await psycopg.AsyncConnection.connect(
        dsn, autocommit=True, application_name="worker@host:7"
    ) as holder:
        for name in ("complete", "lost", "no thread at all"):
            await holder.execute("SELECT pg_advisory_lock(%s)", (lock_key(name, "aiodurable"),))
        assert await found(threads, status="running") == {"complete", "lost"}
        assert await found(threads, holder="host:7") == {"complete", "lost"}
        assert await found(threads, holder="host:8") == set()
        assert await found(threads, holder="host:7", status="failed") == set()
        assert await found(threads, holder="host:7", newer_than=timedelta(hours=1)) == {"complete"}


@pytest.mark.parametrize(
    "filters",
    [{}, {"status": ["failed", "interrupted", "queued"]}, {"newer_than": timedelta(hours=3)}],
)
async def test_pages_taken_one_by_one_are_the_whole(
    zoo: None, threads: Threads, filters: Any
) -> None:
    whole = [thread.thread_id async for thread in threads.search(**filters)]
    paged: list[str] = []
    while page := [
        t.thread_id
        async for t in threads.search(**filters, after=paged[-1] if paged else None, limit=2)
    ]:
        paged += page
    assert paged == whole


@pytest.mark.parametrize("limit", [1, 2, 100])
@pytest.mark.parametrize(
    "filters",
    [{}, {"status": "failed"}, {"status": NEEDS_ATTENTION}, {"newer_than": timedelta(hours=3)}],
)
async def test_one_page_after_the_other_is_the_whole(
    zoo: None, threads: Threads, filters: ThreadFilters, limit: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(search, "_STEPS", (2, 2))
    found, after = await threads.search_page(**filters, limit=limit)
    while after is not None:
        page, after = await threads.search_page(**filters, after=after, limit=limit)
        assert len(page) <= limit
        found += page
    assert found == [thread async for thread in threads.search(**filters)]


async def test_a_page_scans_at_most_max_scanned_threads(zoo: None, threads: Threads) -> None:
    pages: list[list[str]] = []
    after: str | None = None
    while True:
        page, after = await threads.search_page(status="crashed", max_scanned=2, after=after)
        pages.append([thread.thread_id for thread in page])
        if after is None:
            break
    assert len(pages) > len(EVERYTHING) // 2
    assert [name for page in pages for name in page] == sorted(["crashed", "lost"])


async def test_a_page_reads_few_more_threads_than_fit_on_it(
    zoo: None, threads: Threads, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(search, "_SMALLEST_STEP", 1)
    read = list[int]()
    original = Classifier.classify

    async def classify(it: Classifier, thread_ids: Any, *args: Any) -> Any:
        read.append(len(thread_ids))
        return await original(it, thread_ids, *args)

    monkeypatch.setattr(Classifier, "classify", classify)
    found, _ = await threads.search_page(limit=5)
    assert len(found) == 5
    assert read == [6], "not all seven"


async def test_a_page_of_recent_threads_is_bounded_and_misses_none(
    zoo: None, threads: Threads, monkeypatch: pytest.MonkeyPatch
) -> None:
    recent = ThreadFilters(newer_than=timedelta(minutes=5))
    with round_trips(monkeypatch) as trips:
        few = await threads.search_page(**recent)
        by_time = len(trips)
        monkeypatch.setattr(search, "_RECENT_OF_A_PAGE", 3)
        trips.clear()
        assert await threads.search_page(**recent) == few
        assert len(trips) > by_time, "it scanned all threads instead"
    assert few.threads


async def test_orphans_are_runs_whose_holder_is_gone(
    zoo: None, dsn: str, threads: Threads, database: PsycopgPool
) -> None:
    query = """INSERT INTO aiodurable_runs (run_id, thread_id, lock_key, graph, status, base_checkpoint_id)
               SELECT 'of ' || $1, $1, $2, 'report', 'running', max(checkpoint_id) FROM checkpoints WHERE thread_id = $1"""
    for name in ("failed", "held"):
        await database.execute(query, name, lock_key(name, "aiodurable"))
    async with await psycopg.AsyncConnection.connect(dsn, autocommit=True) as holder:
        await holder.execute("SELECT pg_advisory_lock(%s)", (lock_key("held", "aiodurable"),))
        assert await found(threads, orphaned=True) == {"lost", "failed"}
        assert await found(threads, orphaned=True, status="crashed") == {"lost"}
        assert await found(threads, orphaned=True, older_than=timedelta(hours=1)) == {"lost"}
        assert await found(threads, orphaned=True, status="running") == set()
        assert await found(threads, status="running") == {"held"}
        assert (await threads.count(orphaned=True)).by_status == {"crashed": 1, "failed": 1}


async def test_a_prefix_uses_the_index_where_text_sorts_bytewise(
    zoo: None, dsn: str, threads: Threads, database: PsycopgPool, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def names(prefix: str, **bounds: Any) -> list[str]:
        return [thread.thread_id async for thread in threads.search(prefix=prefix, **bounds)]

    async with AsyncPostgresSaver.from_conn_string(dsn) as saver:
        for name in ("c", "ca", "d"):
            await Thread(dsn, saver, name, "silent").start(durability="exit")
    monkeypatch.setattr(search, "_STEPS", (1, 1))
    assert await names("c") == ["c", "ca", "complete", "crashed"]
    assert await names("c", after="ca") == ["complete", "crashed"]
    assert await names("c", after="d") == []
    assert await names("co", after="c") == ["complete"]
    assert await names("crashed and more") == []
    looked_at = [
        step.last
        async for step in services_of(threads).threads.search.steps(Filter.of(prefix="co"))
    ]
    (row,) = await database.fetch("SELECT 'B' < 'a' AS bytewise")
    everything = [thread.thread_id async for thread in threads.search()]
    assert looked_at == (["co", "complete", "crashed"] if row["bytewise"] else everything)


async def test_counts_are_those_of_what_is_found(zoo: None, threads: Threads) -> None:
    everything = {
        "complete": 1,
        "crashed": 2,
        "interrupted": 1,
        "failed": 1,
        "queued": 1,
        "quarantined": 1,
    }
    counts = await threads.count()
    assert (counts.by_status, counts.exact, counts.total) == (everything, True, 7)
    assert (await threads.count(status=["failed", "queued"])).by_status == {
        "failed": 1,
        "queued": 1,
    }
    assert (await threads.count(prefix="c")).by_status == {"complete": 1, "crashed": 1}
    assert (await threads.count(graph="linear")).by_status == {"failed": 1}
    assert (await threads.count(error="broken")).by_status == {"failed": 1}
    assert (
        await threads.estimate_counts() == counts
    )  # a small table is counted, whatever was asked for


async def test_an_estimate_counts_what_is_rare_and_says_what_it_estimated(
    zoo: None, dsn: str, threads: Threads, database: PsycopgPool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The whole table as the sample: then an estimate must be the count."""
    async with AsyncPostgresSaver.from_conn_string(dsn) as saver:
        await Thread(dsn, saver, "answered", "ask").start()
        await Thread(dsn, saver, "answered", "ask").run(Command(resume="yes"))
    everything = await threads.count()
    (table,) = await database.fetch("SELECT pg_relation_size('checkpoints') / 8192 AS pages")
    monkeypatch.setattr(counts, "_PAGES", table["pages"] - 0.001)
    estimate = await threads.estimate_counts()
    assert (estimate.by_status, estimate.exact) == (everything.by_status, False)
    assert estimate.estimated == {"complete", "crashed"}
    assert (await threads.estimate_counts(status=["failed", "queued"])).exact
    async with await psycopg.AsyncConnection.connect(dsn, autocommit=True) as holder:
        await holder.execute(
            "SELECT pg_advisory_lock(%s)", (lock_key("a lock of another kind", "aiodurable"),)
        )
        assert (await threads.estimate_counts()).estimated == {"complete", "crashed", "running"}
    monkeypatch.setattr(counts, "_RARE", 0)
    estimate = await threads.estimate_counts()
    assert {
        **estimate.by_status,
        "crashed": 2,
        "quarantined": 1,
    } == everything.by_status  # these two have no head
    assert "failed" in estimate.estimated


async def test_an_estimate_takes_no_filter_but_the_status(threads: Threads) -> None:
    with pytest.raises(TypeError, match="prefix"):
        await threads.estimate_counts(prefix="a")  # pyright: ignore[reportCallIssue]
