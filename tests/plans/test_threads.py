"""Each query about threads uses the index its comment names, whatever the planner thinks of small tables or huge ones."""

from __future__ import annotations

from collections.abc import Iterator
from functools import reduce
from typing import Any

import psycopg
import pytest
from psycopg import sql

from aiodurable.postgres.queries import load

BLOCKS = {**load("threads"), **load("copying"), "heal": load("checkpoints")["heal"]}

CROWD = """
INSERT INTO checkpoints (thread_id, checkpoint_ns, checkpoint_id, checkpoint, metadata)
SELECT 'thread-' || n, '', lpad(to_hex(n), 8, '0') || '-0000-6000-8000-00000000000' || k,
       '{"v": 4, "ts": "2026-01-01T00:00:00Z", "channel_versions": {"__start__": "2"}, "updated_channels": []}', '{}'
FROM generate_series(1, 3000) n, generate_series(0, 9) k;

INSERT INTO checkpoint_writes (thread_id, checkpoint_ns, checkpoint_id, task_id, idx, channel, type, blob)
SELECT c.thread_id, '', c.checkpoint_id, 'task', i,
       CASE WHEN i = 1 AND c.thread_id LIKE '%0' THEN '__error__' ELSE 'xs' END, 'msgpack', '\\xa161'
FROM checkpoints c, generate_series(0, 1) i;

INSERT INTO checkpoint_blobs (thread_id, checkpoint_ns, channel, version, type, blob)
SELECT c.thread_id, '', 'xs', c.checkpoint_id, 'msgpack', '\\xa161' FROM checkpoints c;

INSERT INTO aiodurable_runs (run_id, thread_id, lock_key, status)
SELECT 'run-' || n || '-' || k, 'thread-' || n, n, CASE WHEN n % 10 = 0 AND k = 1 THEN 'failed' ELSE 'complete' END
FROM generate_series(1, 3000) n, generate_series(0, 1) k;

INSERT INTO aiodurable_locks (key, owner) SELECT n, n % 4 FROM generate_series(1, 3000) n;
"""

CLASSIFY = "text[], bigint[], boolean, text[], timestamptz, timestamptz, text, text"
ONE = "array['thread-7'], array[7], false, null, null, null, null, null"
PAGE = f"array{[f'thread-{n}' for n in range(500)]}, array_fill(7, array[500]), false, null, null, null, null, null"

LANGGRAPHS = {"checkpoints_pkey", "checkpoint_writes_pkey", "checkpoint_blobs_pkey"}
INSIDE = "array['thread-7'], array['a:1'], array['a'], array['00000007-0000-6000-8000-000000000009']"
COPY = "'thread-7', 'copy', '00000007-0000-6000-8000-000000000003', true"


@pytest.fixture
def crowd(dsn: str) -> Iterator[psycopg.Connection[Any]]:
    with psycopg.connect(dsn, autocommit=True) as connection:
        connection.execute(CROWD)
        for table in ("checkpoints", "checkpoint_writes", "checkpoint_blobs", "aiodurable_runs", "aiodurable_locks"):
            connection.execute(sql.SQL("VACUUM ANALYZE {}").format(sql.Identifier(table)))
        yield connection


def plan(connection: psycopg.Connection[Any], block: str, types: str, values: str, mode: str) -> list[dict[str, Any]]:
    """The nodes of the plan that a prepared statement gets. It is run: a WorkTable Scan shows its subplans only then."""
    connection.execute("SELECT set_config('plan_cache_mode', %s, false)", (mode,))
    connection.execute(f"PREPARE it ({types}) AS {BLOCKS[block]}".encode())
    row = connection.execute(f"EXPLAIN (ANALYZE, FORMAT json) EXECUTE it ({values})".encode()).fetchone()
    assert row is not None
    return list(nodes(row[0][0]["Plan"]))


def nodes(node: dict[str, Any]) -> Iterator[dict[str, Any]]:
    """What has the alias `own` (the second one is shown as `own_1`) is a thread's own few rows: any index on it will do."""
    if node.get("Alias", "").startswith("own"):
        return
    yield node
    for child in node.get("Plans", ()):
        yield from nodes(child)


@pytest.mark.parametrize("mode", ["force_custom_plan", "force_generic_plan"])
@pytest.mark.parametrize(
    ("block", "types", "values", "indexes"),
    [
        *(
            (
                "classify",
                CLASSIFY,
                values,
                {
                    "checkpoints_pkey",
                    "checkpoint_writes_pkey",
                    "checkpoint_blobs_pkey",
                    "aiodurable_runs_by_thread",
                },
            )
            for values in (ONE, PAGE)
        ),
        ("sample", "real", "10", {"checkpoints_pkey"}),
        ("threads_all", "text, integer", "'', 100", {"checkpoints_pkey", "aiodurable_runs_by_thread"}),
        (
            "threads_noted",
            "text, integer, text[], text[]",
            "'', 100, '{__error__}', '{failed}'",
            {"aiodurable_writes_noted", "aiodurable_runs_noted", "checkpoints_pkey"},
        ),
        ("failed_inside", "text[], text[], text[], text[]", INSIDE, LANGGRAPHS),
        ("begun", "text, text", "'thread-7', '00000007-0000-6000-8000-000000000003'", LANGGRAPHS),
        (
            "history",
            "text, text, integer",
            "'thread-7', null, 20",
            LANGGRAPHS | {"aiodurable_runs_pkey"},
        ),
        (
            "heal",
            "text, bigint",
            "'thread-7', 1",
            {"checkpoints_pkey", "checkpoint_writes_pkey", "aiodurable_fences_pkey"},
        ),
        ("copy_checkpoint", "text, text, text, boolean", COPY, LANGGRAPHS),
    ],
    ids=["classify one", "classify a page", "sample", "all", "noted", "inside", "begun", "history", "heal", "copy"],
)
def test_a_query_uses_the_index_its_comment_names(
    crowd: psycopg.Connection[Any], block: str, types: str, values: str, indexes: set[str], mode: str
) -> None:
    found = plan(crowd, block, types, values, mode)
    scanned = {node["Relation Name"] for node in found if node["Node Type"] == "Seq Scan"}
    assert scanned <= {"pg_database", "pg_authid"}
    ours = [node for node in found if "Index Name" in node]
    used = {node["Index Name"] for node in ours if not node["Index Name"].startswith("pg_")}
    # LangGraph's own index on thread_id alone is as good for the next thread,
    # as is that of few checkpoints of one thread.
    either = block in ("threads_all", "history", "heal", "copy_checkpoint")
    alike = {
        f"{table}_thread_id_idx": f"{table}_pkey"
        for table in ("checkpoints", "checkpoint_writes", "checkpoint_blobs")
        if either
    }
    assert {alike.get(name, name) for name in used} == indexes


@pytest.mark.parametrize("mode", ["force_custom_plan", "force_generic_plan"])
@pytest.mark.parametrize("analyzed", [True, False])
def test_what_is_recent_is_found_by_block_ranges(crowd: psycopg.Connection[Any], mode: str, analyzed: bool) -> None:
    """Also right after a bulk load, and by a plan that does not know the bounds."""
    if not analyzed:
        crowd.execute(
            "DELETE FROM pg_statistic WHERE starelid IN ('checkpoints'::regclass, 'aiodurable_runs'::regclass)"
        )
    with crowd.transaction():
        crowd.execute(BLOCKS["without_seqscan"].encode())
        types, values = "text, integer, text, timestamptz", "'', 100, '00000bb0', '2026-01-01'"
        found = plan(crowd, "threads_recent", types, values, mode)
    used = {node["Index Name"] for node in found if "Index Name" in node}
    assert used == {"aiodurable_checkpoints_recent", "aiodurable_runs_touched"}
    assert not any(node["Node Type"] == "Seq Scan" for node in found)


@pytest.mark.parametrize("block", ["threads_all", "threads_noted"])
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
