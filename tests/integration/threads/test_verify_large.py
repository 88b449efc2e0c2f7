"""`threads.verify` of one thread with very many checkpoints: it reads each row a bounded number of
times, and finds what is wrong in the middle.
"""

from __future__ import annotations

import json
from typing import Any

import asyncpg
import pytest

from aiodurable import Durable
from aiodurable.dsn import parse_dsn
from aiodurable.postgres.sql import load
from tests.support.explain import rows
from tests.support.graphs import INPUT, four_nodes

EACH = ("lines", "values", "rows", "ledger")
LENGTHEN = """
WITH head AS (
    SELECT * FROM checkpoints WHERE thread_id = 'long' ORDER BY checkpoint_id DESC LIMIT 1
),
made AS (
    INSERT INTO checkpoints (thread_id, checkpoint_ns, checkpoint_id, parent_checkpoint_id, type,
                             checkpoint, metadata)
    SELECT h.thread_id, '', 'f' || lpad(n::text, 35, '0'),
           CASE WHEN n = 1 THEN h.checkpoint_id
                ELSE 'f' || lpad((n - 1)::text, 35, '0') END,
           h.type, h.checkpoint, h.metadata
    FROM head h, generate_series(1, $1::integer) n
    RETURNING thread_id, checkpoint_id
)
INSERT INTO checkpoint_writes (thread_id, checkpoint_ns, checkpoint_id, task_id, task_path, idx,
                               channel, type, blob)
SELECT thread_id, '', checkpoint_id, 'task', 'path', 0, 'channel', 'null', '' FROM made
"""


async def lengthened(dsn: str, by: int) -> asyncpg.Connection:
    """A thread with so many more checkpoints, each with a write."""
    async with Durable(dsn, graphs={"steps": four_nodes()}) as durable:
        async with durable.run("long", "steps") as run:
            await run.ainvoke(INPUT)
    connection = await asyncpg.connect(**parse_dsn(dsn).asyncpg)
    await connection.execute(LENGTHEN.replace("$1", str(by)))
    await connection.execute("ANALYZE checkpoints, checkpoint_writes")
    return connection


async def read(connection: asyncpg.Connection) -> dict[str, float]:
    """The rows that each statement reads or compares for the thread."""
    found = dict[str, float]()
    for name in EACH:
        explained = f"EXPLAIN (ANALYZE, FORMAT json) {load('verify')[name]}"
        plan: Any = await connection.fetchval(explained, ["long"])
        found[name] = rows(json.loads(plan)[0]["Plan"])
    return found


@pytest.mark.parametrize("checkpoints", [2_000, 20_000])
async def test_rows_are_read_in_proportion_to_the_checkpoints(dsn: str, checkpoints: int) -> None:
    connection = await lengthened(dsn, checkpoints)
    try:
        each = {name: count / checkpoints for name, count in (await read(connection)).items()}
    finally:
        await connection.close()
    # Of a checkpoint and its write, each once: but the line is read from memory once more for each
    # question that is asked of it.
    assert each["lines"] < 8
    assert each["values"] < 2
    assert each["rows"] < 4
    assert each["ledger"] < 1


async def test_a_fork_in_the_middle_of_very_many_checkpoints_is_found(dsn: str) -> None:
    connection = await lengthened(dsn, 20_000)
    try:
        forked = await connection.fetchval(
            "UPDATE checkpoints c SET parent_checkpoint_id = p.parent_checkpoint_id"
            " FROM checkpoints p WHERE c.thread_id = 'long' AND p.thread_id = 'long'"
            " AND c.checkpoint_id LIKE 'f%10000' AND p.checkpoint_id = c.parent_checkpoint_id"
            " RETURNING c.parent_checkpoint_id"
        )
    finally:
        await connection.close()
    async with Durable(dsn) as durable:
        found = [one async for one in durable.threads.verify(recheck_s=0)]
    assert [(one.thread_id, one.kind) for one in found] == [("long", "forked_line")]
    assert str(forked) in found[0].what
