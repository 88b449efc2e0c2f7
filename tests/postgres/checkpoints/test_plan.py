"""The commit is planned once, and finds fences by their key."""

import asyncio
from typing import Any

from aiodurable.checkpoints.fences import Fence
from aiodurable.checkpoints.rows import Rows, Write, arrays
from aiodurable.dsn import parse_dsn
from aiodurable.postgres.links import Link
from aiodurable.postgres.queries import load


def batch(number: int) -> list[Any]:
    rows = Rows(
        blobs=[("t", "", "a", str(number), "msgpack", b"x")],
        checkpoint=("t", "", str(number), None, "{}", "{}"),
        writes=[("t", "", str(number), "task", "", 0, "a", "msgpack", b"x")],
    )
    return arrays([Write(Fence("t", 1), rows, asyncio.get_running_loop().create_future(), 0.0)])


async def test_the_commit_is_planned_once_for_all_batches(dsn: str) -> None:
    link = Link(parse_dsn(dsn), role="test", connect_timeout_s=10.0)
    await link.fetch("INSERT INTO aiodurable_fences VALUES ('t', 1)")
    for number in range(10):
        assert [row[0] for row in await link.fetch(load("checkpoints")["commit"], *batch(number))] == ["t"]
    [plans] = await link.fetch(
        "SELECT generic_plans, custom_plans FROM pg_prepared_statements"
        " WHERE statement LIKE '%SKIP LOCKED%' AND statement NOT LIKE '%generic%'"
    )
    assert tuple(plans) == (10, 0)
    link.drop()


async def test_the_commit_looks_a_fence_up_by_its_key_also_in_an_empty_table(dsn: str) -> None:
    link = Link(parse_dsn(dsn), role="test", connect_timeout_s=10.0)
    query = load("checkpoints")["commit"]
    types = ["text[]", "bigint[]", *["text[]"] * 5, "bytea[]", *["text[]"] * 4, "jsonb[]", "jsonb[]"]
    types += [*["text[]"] * 5, "int[]", "text[]", "text[]", "bytea[]"] * 2
    await link.fetch(f"PREPARE c ({', '.join(types)}) AS {query}")
    plan = "\n".join(row[0] for row in await link.fetch(f"EXPLAIN EXECUTE c ({', '.join(['NULL'] * len(types))})"))
    link.drop()
    assert "aiodurable_fences_pkey" in plan
    assert "Seq Scan" not in plan
