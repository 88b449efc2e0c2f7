"""The statements of insights read what they must, whatever number of threads and runs there is."""

from __future__ import annotations

import json
from collections.abc import Iterator
from datetime import UTC, datetime
from typing import Any

import pytest

from aiodurable.postgres.sql import load
from tests.support.explain import nodes, rows_of
from tests.support.postgres import Server

INSIGHTS = load("insights")
CROWD = 20_000
NOBODY = "thread-of-nobody"
QUEUES = [f"queue-{n}" for n in range(5)]
WORKER = ("w", "host", 7, "1", ["q"], ["g"], 5, 0, 0.0, 0.0, False, 1.0, 25.0)
FILL = f"""
INSERT INTO aiodurable_runs (
    run_id, thread_id, lock_key, graph, status, schedule_id, started_at, finished_at)
SELECT 'r' || n, 'r' || n, n, 'g', 'complete', 's' || n % 10, now(),
       now() - n * interval '1 second'
FROM generate_series(1, {CROWD}) n;
INSERT INTO aiodurable_runs (
    run_id, thread_id, lock_key, graph, status, claim_state, position, queue, priority,
    fairness_key, concurrency_key, scheduled_at)
SELECT 'q' || n, 'q' || n, n, 'g', 'queued',
       (ARRAY['ready', 'scheduled', 'blocked', 'limited'])[1 + n % 4], n, 'queue-' || n % 5,
       n % 3, 'tenant-' || n % 100, 'key-' || n % 100, now()
FROM generate_series(1, {CROWD}) n;
INSERT INTO aiodurable_runs (run_id, thread_id, lock_key, graph, status, queue)
SELECT 'w' || n, 'w' || n, n, 'g',
       (ARRAY['running', 'failed', 'quarantined', 'interrupted'])[1 + n % 4], 'queue-' || n % 5
FROM generate_series(1, {CROWD}) n;
INSERT INTO aiodurable_schedules (
    schedule_id, graph, every_s, time_zone, anchor_at, jitter_s, catch_up_s, catch_up_all,
    on_busy, queue, priority, fairness_key)
SELECT 's' || n, 'g', 60, 'UTC', now(), 0, 10, false, 'enqueue', 'default', 0, ''
FROM generate_series(0, {CROWD}) n;
INSERT INTO aiodurable_audit (id, actor, action, thread_id)
SELECT 1000000 + n, 'a', 'b', 't' || n % 1000 FROM generate_series(1, {CROWD}) n;
INSERT INTO aiodurable_status_history (at, taken_at)
SELECT now() - n * interval '5 minutes', now() - n * interval '5 minutes'
FROM generate_series(1, 300) n;
ANALYZE aiodurable_runs, aiodurable_schedules, aiodurable_audit, aiodurable_status_history,
        aiodurable_workers;
"""


@pytest.fixture(scope="module")
def template(server: Server, template: str) -> Iterator[str]:
    """A database with a crowd in it, to be cloned for each test."""
    with server.clone(template, FILL) as name:
        yield name


@pytest.fixture
async def crowd(crowd: Any) -> Any:
    await crowd.execute("SELECT set_config('enable_seqscan', 'off', false)")
    return crowd


@pytest.mark.parametrize("mode", ["force_custom_plan", "force_generic_plan"])
@pytest.mark.parametrize(
    ("statement", "arguments", "most"),
    [
        ("depth", (100,), 900),
        ("ended", (1e6, 100), 100),
        ("ended", (60.0, 20_000), 60),
        ("latencies", (1e6, 100), 100),
        ("queue_names", (100,), 260),
        ("pressure", (QUEUES, 20, 5), 300),
        ("oldest_ready", (QUEUES, 20), 100),
        ("schedules", ("s1", 10), 10),
        ("last_slots", (["s1", "s2"], 5), 10),
        ("register", WORKER, 1),
        ("unregister", ("w",), 1),
        ("take_slot", (300.0, 90_000.0), 5),
        ("write_sample", (datetime(2026, 1, 1, tzinfo=UTC), "{}", [], "{}", "{}", 1.0), 1),
        ("history", (3600.0,), 40),
        ("tidy", (600.0, 7_776_000.0, 100), 210),
        ("audit", (None, None, 10), 10),
        ("audit", (1_010_000, None, 10), 10),
        ("audit", (None, "t7", 10), 10),
        ("audit", (None, NOBODY, 10), 0),
        ("record", ("me", "test", None, None, "{}"), 1),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
async def test_a_statement_reads_no_more_than_it_needs(
    crowd: Any, mode: str, statement: str, arguments: tuple[Any, ...], most: int
) -> None:
    await crowd.execute(f"SET plan_cache_mode = {mode}")
    explain = f"EXPLAIN (ANALYZE, BUFFERS, FORMAT json) {INSIGHTS[statement]}"
    transaction = crowd.transaction()
    await transaction.start()
    plan = json.loads(await crowd.fetchval(explain, *arguments))[0]["Plan"]
    await transaction.rollback()
    read = sum(
        rows_of(node)
        for node in nodes(plan)
        if "aiodurable_" in node.get("Relation Name", "") + node.get("Index Name", "")
    )
    assert read <= most, read


async def test_what_a_prune_would_remove_reads_some_pages_and_looks_up_the_rest(
    crowd: Any,
) -> None:
    await crowd.execute(
        f"""
        INSERT INTO checkpoints (thread_id, checkpoint_ns, checkpoint_id, checkpoint, metadata)
        SELECT 'thread-' || n % 1000, '', lpad(to_hex(n), 8, '0'), '{{}}', '{{}}'
        FROM generate_series(1, {CROWD}) n;
        ANALYZE checkpoints
        """
    )
    explain = f"EXPLAIN (ANALYZE, FORMAT json) {INSIGHTS['prunable']}"
    plan = json.loads(await crowd.fetchval(explain, 1.0, "f"))[0]["Plan"]
    read = sum(
        node["Actual Rows"] * node["Actual Loops"]
        for node in nodes(plan)
        if node.get("Relation Name") == "checkpoints"
    )
    assert read <= CROWD / 10


def test_every_statement_over_a_table_that_grows_is_guarded() -> None:
    """The others read one row a worker or a session, or no table."""
    guarded = {
        mark.args[1][n][0]
        for mark in test_a_statement_reads_no_more_than_it_needs.pytestmark  # type: ignore[attr-defined]
        if mark.args[0] == ("statement", "arguments", "most")
        for n in range(len(mark.args[1]))
    }
    small = {"workers", "leases_held", "lock_sessions", "tables", "server"}
    assert guarded | small | {"prunable"} == set(INSIGHTS)
