"""A lease that is a row is found by its key, also by a statement that was planned while the table was empty."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import psycopg
import pytest

from aiodurable.postgres.queries import load
from explained import nodes

KEYS = f"array{list(range(1, 501))}"
STATEMENTS = {
    "acquire": (load("rows")["acquire"], "bigint, bigint[], integer", f"7, {KEYS}, 0"),
    "release": (load("rows")["release"], "bigint, bigint[]", f"7, {KEYS}"),
    "undo": (load("rows")["undo"], "bigint, bigint[]", f"7, {KEYS}"),
    "acquire_one": (load("rows")["acquire_one"], "bigint, bigint", "7, 9"),
    "release_one": (load("rows")["release_one"], "bigint, bigint", "7, 9"),
}


@pytest.fixture
def planned(dsn: str) -> Iterator[psycopg.Connection[Any]]:
    """As a lock session: plans are made once, here of an empty table, which then fills."""
    with psycopg.connect(dsn, autocommit=True) as connection:
        connection.execute("SET plan_cache_mode = force_generic_plan")
        connection.execute(load("rows")["configure"].encode())
        connection.execute(f"SELECT {load('rows')['live'].rpartition('SELECT ')[2].replace('$1', '7')}".encode())
        for name, (statement, types, values) in STATEMENTS.items():
            connection.execute(f"PREPARE {name} ({types}) AS {statement}".encode())
            connection.execute(f"EXPLAIN EXECUTE {name} ({values})".encode())
        connection.execute("INSERT INTO aiodurable_locks (key, owner) SELECT n, 7 FROM generate_series(1, 20000) n")
        yield connection


@pytest.mark.parametrize("name", STATEMENTS)
def test_a_row_is_reached_by_its_key_alone(planned: psycopg.Connection[Any], name: str) -> None:
    row = planned.execute(f"EXPLAIN (ANALYZE, FORMAT json) EXECUTE {name} ({STATEMENTS[name][2]})".encode()).fetchone()
    assert row is not None
    found = [node for node in nodes(row[0][0]["Plan"]) if node["Actual Loops"]]
    assert not [node for node in found if node["Node Type"] == "Seq Scan" and node["Relation Name"] != "pg_database"]
    scans = [node for node in found if node.get("Index Name") == "aiodurable_locks_pkey"]
    assert scans
    for node in scans:
        assert "key" in node["Index Cond"]
        assert node["Actual Rows"] * node["Actual Loops"] <= 500


def test_those_of_some_keys_are_read_by_their_keys(dsn: str) -> None:
    """By a function, which plans its statements for itself: also of an empty table, which then fills.
    On a session as all that read it are; left alone, Postgres 15 goes on reading the whole table."""
    read = f"SELECT count(*) FROM aiodurable_lock_rows({KEYS})"
    scans = "SELECT sum(seq_scan), sum(idx_scan) FROM pg_stat_xact_user_tables WHERE relname = 'aiodurable_locks'"
    with psycopg.connect(dsn, autocommit=True) as connection:
        connection.execute(load("links")["by_index"].replace("$1", "pg_backend_pid()").encode())
        for _ in range(10):
            connection.execute(read)
        connection.execute("INSERT INTO aiodurable_locks (key, owner) SELECT n, 7 FROM generate_series(1, 20000) n")
        with connection.transaction():
            before = connection.execute(scans).fetchone()
            connection.execute(read)
            after = connection.execute(scans).fetchone()
    assert before is not None
    assert after is not None
    assert after[0] == before[0]
    assert after[1] > before[1]
