"""Searches that go on from page to page, or look for what is recent, read no more than what they
give.
"""

from __future__ import annotations

from collections.abc import Iterator
from functools import reduce
from typing import Any

import psycopg
import pytest
from psycopg import ClientCursor

from aiodurable.postgres.sql import load
from tests.support.explain import nodes
from tests.support.plan_statements import CROWD, TABLES
from tests.support.postgres import Server

BLOCKS = load("threads")


@pytest.fixture(scope="module")
def template(server: Server, template: str) -> Iterator[str]:
    """A database with a crowd in it, to be cloned for each test."""
    with server.clone(template) as name:
        with psycopg.connect(server.database(name), autocommit=True) as connection:
            ClientCursor(connection).execute(CROWD.encode(), {"first": 1, "last": 3000})
            for table in TABLES:
                connection.execute(f"VACUUM ANALYZE {table}".encode())
        yield name


@pytest.fixture
def crowd(dsn: str) -> Iterator[psycopg.Connection[Any]]:
    with psycopg.connect(dsn, autocommit=True) as connection:
        yield connection


@pytest.mark.parametrize("mode", ["force_custom_plan", "force_generic_plan"])
@pytest.mark.parametrize("analyzed", [True, False])
@pytest.mark.parametrize("most", ["NULL", "100000"])
def test_what_is_recent_is_found_by_block_ranges(
    crowd: psycopg.Connection[Any], mode: str, analyzed: bool, most: str
) -> None:
    """Also right after a bulk load, and by a plan that does not know the bounds."""
    if not analyzed:
        crowd.execute(
            "DELETE FROM pg_statistic WHERE starelid IN ('checkpoints'::regclass,"
            " 'aiodurable_runs'::regclass)"
        )
    crowd.execute(f"PREPARE it AS {BLOCKS['threads_recent']}".encode())
    with crowd.transaction():
        crowd.execute(BLOCKS["without_seqscan"].encode())
        crowd.execute(f"SET LOCAL plan_cache_mode = {mode}".encode())
        row = crowd.execute(
            f"EXPLAIN (FORMAT json) EXECUTE it ('', 100, '00000bb0', '2026-01-01', {most})".encode()
        ).fetchone()
    assert row is not None
    found = list(nodes(row[0][0]["Plan"]))
    used = {node["Index Name"] for node in found if "Index Name" in node}
    assert used == {"aiodurable_checkpoints_id_brin", "aiodurable_runs_unfinished_updated_idx"}
    assert not any(node["Node Type"] == "Seq Scan" for node in found)


@pytest.mark.parametrize("block", ["threads_all", "threads_indexed"])
def test_a_later_page_costs_what_the_first_does(crowd: psycopg.Connection[Any], block: str) -> None:
    def buffers(after: str) -> int:
        values = {"$1": f"'{after}'", "$2": "10", "$3": "'{__error__}'", "$4": "'{failed}'"}
        query = reduce(lambda text, name: text.replace(name, values[name]), values, BLOCKS[block])
        row = crowd.execute(f"EXPLAIN (ANALYZE, BUFFERS, FORMAT json) {query}".encode()).fetchone()
        assert row is not None
        return row[0][0]["Plan"]["Shared Hit Blocks"] + row[0][0]["Plan"]["Shared Read Blocks"]

    first, later = buffers(""), buffers("thread-2")
    assert later <= first * 1.5
    assert first < 200


def buffers(connection: psycopg.Connection[Any], query: str) -> int:
    row = connection.execute(f"EXPLAIN (ANALYZE, BUFFERS, FORMAT json) {query}".encode()).fetchone()
    assert row is not None
    return row[0][0]["Plan"]["Shared Hit Blocks"] + row[0][0]["Plan"]["Shared Read Blocks"]


@pytest.mark.parametrize("analyzed", [True, False])
def test_a_search_for_work_that_finds_none_reads_a_few_pages(
    crowd: psycopg.Connection[Any], analyzed: bool
) -> None:
    """Among thousands of complete threads, and as many that wait at a gate."""
    crowd.execute("UPDATE checkpoint_writes SET channel = 'xs' WHERE channel = '__error__'")
    crowd.execute("UPDATE aiodurable_runs SET status = 'complete'")
    crowd.execute(
        "UPDATE aiodurable_runs SET status = 'paused', status_reason = 'breakpoint' WHERE seq ="
        " 1 AND lock_key % 2 = 0"
    )
    for table in TABLES:
        crowd.execute(f"VACUUM ANALYZE {table}".encode())
    if not analyzed:
        crowd.execute("DELETE FROM pg_statistic WHERE starelid = 'aiodurable_runs'::regclass")
    crowd.execute(BLOCKS["without_seqscan"].replace("true)", "false)").encode())
    query = BLOCKS["threads_resumable"].replace("$1", "''").replace("$2", "100")
    buffers(crowd, query)  # the catalogue's pages
    assert buffers(crowd, query) <= 20
    crowd.execute("UPDATE aiodurable_runs SET status_reason = 'drained' WHERE run_id = 'run-8-1'")
    crowd.execute("UPDATE aiodurable_runs SET status = 'failed' WHERE run_id = 'run-9-1'")
    found = crowd.execute(query.encode()).fetchall()
    assert [thread_id for thread_id, fits in found if fits] == ["thread-8", "thread-9"]
