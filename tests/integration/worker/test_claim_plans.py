"""A claim reads what it takes, whatever number waits or is over."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import pytest

from aiodurable.postgres.sql import load
from tests.support.plan_statements import PARTS
from tests.support.postgres import Server

WORKER, QUEUE = load("worker"), load("queue", *PARTS["queue"])
MOST_PAGES = 600
"""Pages of a claim of ten runs; a scan of the 20,000 that wait reads thousands of index entries."""
FILL = """
INSERT INTO aiodurable_runs (run_id, thread_id, lock_key, graph, status, claim_state,
                             position, queue, priority, fairness_key)
SELECT 'w' || n, 'w' || n, n, 'g', 'queued', 'ready', n, 'default', n % 3, (n % 50)::text
FROM generate_series(1, 20000) n;
INSERT INTO aiodurable_runs (run_id, thread_id, lock_key, graph, status, fencing_token,
                             position, queue, priority, fairness_key)
SELECT 'd' || n, 'd' || n, n, 'g', 'complete', 1, n, 'default', 0, ''
FROM generate_series(1, 20000) n;
INSERT INTO aiodurable_runs (run_id, thread_id, lock_key, graph, status, claim_state,
                             position, queue, priority, fairness_key, concurrency_key,
                             scheduled_at)
SELECT c.state || n, c.state || n, n, 'g', 'queued', c.state, n, 'later', 0, '',
       'k' || n % 20, now() + interval '1 h'
FROM generate_series(1, 3000) n,
     unnest(ARRAY['scheduled', 'blocked', 'limited', 'ready']) AS c (state);
INSERT INTO aiodurable_runs (run_id, thread_id, lock_key, graph, status, fencing_token)
SELECT 'i' || n, 'blocked' || n, n, 'g',
       CASE WHEN n % 2 = 0 THEN 'interrupted' ELSE 'complete' END, 1
FROM generate_series(1, 3000) n;
INSERT INTO aiodurable_fences (thread_id, token)
SELECT 'ready' || n, 1 FROM generate_series(1, 3000) n;
ANALYZE aiodurable_runs, aiodurable_fences;
"""


@pytest.fixture(scope="module")
def template(server: Server, template: str) -> Iterator[str]:
    """A database with a crowd in it, to be cloned for each test."""
    with server.clone(template, FILL) as name:
        yield name


async def plan(connection: Any, mode: str, statement: str, *arguments: Any) -> dict[str, Any]:
    await connection.execute(f"SET plan_cache_mode = {mode}")
    sql = WORKER.get(statement) or QUEUE[statement]
    explained = await connection.fetchval(
        f"EXPLAIN (ANALYZE, BUFFERS, FORMAT json) {sql}", *arguments
    )
    return json.loads(explained)[0]["Plan"]


def pages(found: dict[str, Any]) -> int:
    return found["Shared Hit Blocks"] + found["Shared Read Blocks"]


@pytest.mark.parametrize("mode", ["force_custom_plan", "force_generic_plan"])
async def test_a_claim_reads_as_much_as_it_takes(crowd: Any, mode: str) -> None:
    arguments = (["default"], ["25"], ["g"], "host:1", 10, False)
    found = await plan(crowd, mode, "claim", *arguments)
    claimed = await crowd.fetch(
        "SELECT priority, fairness_key FROM aiodurable_runs WHERE claim_state = 'claimed'"
    )
    assert len(claimed) == 10
    assert {row["priority"] for row in claimed} == {2}
    assert len({row["fairness_key"] for row in claimed}) == 10
    assert pages(found) < MOST_PAGES, pages(found)


@pytest.mark.parametrize("mode", ["force_custom_plan", "force_generic_plan"])
async def test_a_look_at_an_empty_queue_reads_no_other(crowd: Any, mode: str) -> None:
    found = await plan(crowd, mode, "claim", ["empty"], [""], ["g"], "host:1", 10, False)
    assert pages(found) < 30, pages(found)


@pytest.mark.parametrize("mode", ["force_custom_plan", "force_generic_plan"])
async def test_an_idle_worker_reads_a_few_pages_a_look(crowd: Any, mode: str) -> None:
    await crowd.execute(
        "UPDATE aiodurable_runs SET claim_state = 'scheduled', scheduled_at = now() + '1 day'"
        " WHERE run_id LIKE 'w%'"
    )
    await crowd.execute("VACUUM ANALYZE aiodurable_runs")
    found = await plan(crowd, mode, "signs", ["default", "other"])
    assert pages(found) < 60, pages(found)


IDLE = {
    "due": (500, 10, []),
    "signs": (["empty"],),
    "abandoned": ("host:1", "host:1#1", [], ["host:1#1"], 60.0),
    "orphans": (["g"], 10.0),
    "limits": ("empty",),
    "at_work_of": ("empty",),
}
"""What a worker sends that has nothing to do, although much waits in other queues."""


@pytest.mark.parametrize("mode", ["force_custom_plan", "force_generic_plan"])
@pytest.mark.parametrize("statement", IDLE)
async def test_a_worker_with_nothing_to_do_reads_nothing_of_what_waits(
    crowd: Any, statement: str, mode: str
) -> None:
    found = await plan(crowd, mode, statement, *IDLE[statement])
    assert pages(found) < 30, pages(found)


SOME = [f"blocked{n}" for n in range(1, 21)]
READS: dict[str, tuple[tuple[Any, ...], int]] = {
    "blocked_threads": (("", 20), 120),
    "limited_keys": (("", "", 20), 120),
    "promote": ((SOME,), 700),
    "promote_limited": ((["later"] * 2, ["k1", "k2"]), 6000),  # which makes 200 runs ready
    "limit_full": (("later", ["k1", "k2"], 10), 800),
    "put_back": (([f"ready{n}" for n in range(1, 21)], "host:1", "ready", None, None), 200),
    "set_aside": (("ready1", "host:1", None, None, None), 20),
    "not_begun": (("blocked1", "blocked1", None), 30),
    "rescue": (([f"i{n}" for n in range(1, 21)], [1] * 20, "default"), 300),
    "begin": (
        (
            *([f"ready{n}" for n in range(1, 21)], [f"ready{n}" for n in range(1, 21)]),
            *([1] * 20, [0] * 20, "host:1", [1] * 20, [None] * 20, ["superseded"] * 20),
            *([None] * 20, False),
        ),
        900,
    ),
    "settle_left": (("d1", 1, 0, "paused", "breakpoint", None), 20),
    "spend": (("later", 1), 20),
    "create": (
        (
            *(["new"], ["blocked1"], [1], ["g"], [None], [None], [None], [None], [None], [None]),
            *(["default"], [0], [""], [None], [None], [None], [None], [None], [None], [None]),
            *([None], ["enqueue"], [None], [None], [None], [None]),
        ),
        60,
    ),
    "existing": ((["w1"], [None]), 30),
    "get": (([f"w{n}" for n in range(1, 21)],), 100),
    "cancel": (([f"w{n}" for n in range(1, 21)], "channel"), 800),
    "retry": (("i2",), 60),
    "pause": (("later", True), 30),
    "scale": (("later", 1, 1, 1.0, 1), 30),
    "unlimit": (("empty",), 30),
}
"""What a statement about twenty threads, or two keys, may read: pages."""


def test_no_statement_of_a_queue_is_left_out() -> None:
    whole = {"queues", "page"}  # what waits in all queues; as its filters say
    no_table = {"alone", "alone_now", "wake"}
    in_run_list_plans = {"newest", "oldest_scanned", "few_unfinished", "few_waiting"}
    assert QUEUE.keys() - READS.keys() == whole | no_table | in_run_list_plans


@pytest.mark.parametrize("mode", ["force_custom_plan", "force_generic_plan"])
@pytest.mark.parametrize("statement", READS)
async def test_a_statement_of_a_worker_reads_what_it_is_about(
    crowd: Any, statement: str, mode: str
) -> None:
    arguments, most = READS[statement]
    found = await plan(crowd, mode, statement, *arguments)
    assert pages(found) < most, pages(found)
