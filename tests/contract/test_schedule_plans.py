"""The statements of schedules read what they must, whatever number of schedules and runs there is."""

from __future__ import annotations

import json
from collections.abc import Iterator
from datetime import UTC, datetime
from typing import Any

import pytest

from aiodurable.postgres.sql import load
from tests.support.postgres import Server

SCHEDULES = load("schedules")
CROWD = 20_000
NOW = datetime(2026, 1, 1, 0, 0, 9, tzinfo=UTC)
"""Ten schedules are due by then, one of which pauses on failure; of 20,000 in all."""
FILL = f"""
INSERT INTO aiodurable_schedules (
    schedule_id, graph, cron, time_zone, anchor_at, jitter_s, catch_up_s, catch_up_all,
    on_busy, queue, priority, fairness_key, next_slot_at, next_at, paused_at,
    pause_on_failure)
SELECT 's' || n, 'g', '@daily', 'UTC', now(), 0, 10, false, 'enqueue', 'default', 0, '',
       t.at, t.at, CASE WHEN n % 2 = 1 THEN now() END, CASE WHEN n = 8 THEN 3 END
FROM generate_series(0, {2 * CROWD}) n,
     LATERAL (SELECT '2026-01-01Z'::timestamptz + n / 2 * interval '1 second' AS at) t;
INSERT INTO aiodurable_runs (run_id, thread_id, lock_key, graph, status, schedule_id)
SELECT 'r' || n, 'r' || n, n, 'g', 'complete', 's' || n % 10
FROM generate_series(1, {CROWD}) n;
ANALYZE aiodurable_schedules;
ANALYZE aiodurable_runs;
"""


@pytest.fixture(scope="module")
def template(server: Server, template: str) -> Iterator[str]:
    """A database with a crowd in it, to be cloned for each test."""
    with server.clone(template, FILL) as name:
        yield name


def pages(explained: str) -> int:
    found = json.loads(explained)[0]["Plan"]
    return found["Shared Hit Blocks"] + found["Shared Read Blocks"]


@pytest.mark.parametrize("mode", ["force_custom_plan", "force_generic_plan"])
@pytest.mark.parametrize(
    ("statement", "arguments", "most"),
    [
        ("next_due", (None,), 10),
        ("due", (datetime(2020, 1, 1, tzinfo=UTC), 100, []), 10),
        ("due", (NOW, 100, []), 150),
        ("get", ("s8",), 10),
        ("lock", ("s8", None), 15),
        ("page", ("s8", 10, None, None), 30),
        ("delete", ("s8",), 20),
        (
            "advance",
            (["s8"], [NOW], [NOW], [NOW], [NOW], [1], [0], [0], [False], [None]),
            30,
        ),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
async def test_a_statement_reads_no_more_than_it_needs(
    crowd: Any, mode: str, statement: str, arguments: tuple[Any, ...], most: int
) -> None:
    await crowd.execute(f"SET plan_cache_mode = {mode}")
    explain = f"EXPLAIN (ANALYZE, BUFFERS, FORMAT json) {SCHEDULES[statement]}"
    transaction = crowd.transaction()
    await transaction.start()
    await crowd.fetchval(explain, *arguments)  # the first of a session reads the catalogs, too
    await transaction.rollback()
    read = pages(await crowd.fetchval(explain, *arguments))
    assert read <= most, read


async def test_what_is_due_comes_with_how_its_runs_ended(crowd: Any) -> None:
    await crowd.execute("UPDATE aiodurable_runs SET status = 'failed' WHERE run_id > 'r9'")
    async with crowd.transaction():
        rows = await crowd.fetch(SCHEDULES["due"], NOW, 100, [])
    assert [row["schedule_id"] for row in rows] == [f"s{n}" for n in range(0, 20, 2)]
    outcomes = {row["schedule_id"]: row["outcomes"] for row in rows}
    assert outcomes.pop("s8") == ["failed"] * 3
    assert set(outcomes.values()) == {None}
