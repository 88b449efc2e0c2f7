"""A page of the newest runs reads an index of few runs, or so many of all as it may."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import psycopg
import pytest

from aiodurable.postgres.sql import load
from tests.contract.test_insight_plans import FILL
from tests.support.explain import nodes, rows_of
from tests.support.postgres import Server

RARE = """
UPDATE aiodurable_runs SET status = 'paused' WHERE run_id LIKE 'w999_';
UPDATE aiodurable_runs SET claim_state = NULL WHERE run_id NOT LIKE 'q1234_';
"""
"""Among 60,000 runs ten are paused, and ten wait."""


@pytest.fixture(scope="module")
def template(server: Server, template: str) -> Iterator[str]:
    """A database with a crowd in it, to be cloned for each test."""
    with server.clone(template, FILL + RARE) as name:
        # Entries of rows that are no longer there count as read, by some plans and not by others.
        with psycopg.connect(server.database(name), autocommit=True) as connection:
            connection.execute("VACUUM ANALYZE aiodurable_runs")
        yield name


@pytest.mark.parametrize("mode", ["force_custom_plan", "force_generic_plan"])
@pytest.mark.parametrize(
    ("statement", "parts", "arguments", "most"),
    [
        ("newest", ("walk",), (51,), 60),
        ("newest", ("after", "walk"), (51, "r5"), 60),
        ("newest", ("after", "oldest", "queue", "walk"), (51, "w5", "w4", "nowhere"), 4_500),
        ("newest", ("statuses", "unfinished", "few"), (51, ["paused"]), 30),
        ("newest", ("statuses", "unfinished", "queue", "few"), (51, ["paused"], "queue-1"), 30),
        ("newest", ("claim_states", "waiting", "few"), (51, ["ready"]), 30),
        ("newest", ("thread_id", "few"), (51, "q7"), 5),
        ("newest", ("schedule_id", "walk"), (51, "s7"), 60),
        ("newest", ("after", "schedule_id", "walk"), (51, "r1", "s7"), 60),
        ("oldest_scanned", (), (1_000,), 1_100),
        ("oldest_scanned", ("after",), (1_000, "r5"), 1_100),
        ("few_unfinished", (), (["failed", "running"], 500), 1_100),
        ("few_unfinished", (), (["paused"], 500), 20),
        ("few_waiting", (), (5,), 20),
        ("few_waiting", (), (500,), 60),
    ],
    ids=str,
)
async def test_a_page_reads_no_more_runs_than_it_needs(
    crowd: Any,
    mode: str,
    statement: str,
    parts: tuple[str, ...],
    arguments: tuple[Any, ...],
    most: int,
) -> None:
    await crowd.execute(f"SET plan_cache_mode = {mode}")
    query = f"EXPLAIN (ANALYZE, FORMAT json) {load('queue', *parts)[statement]}"
    plan = json.loads(await crowd.fetchval(query, *arguments))[0]["Plan"]
    read = sum(
        rows_of(node)
        for node in nodes(plan)
        if "aiodurable_" in node.get("Relation Name", "") + node.get("Index Name", "")
    )
    assert read <= most, (read, plan)
