"""The commit is planned once, and finds fences by their key."""

import asyncio
from typing import Any

import pytest

from aiodurable.checkpoints.encoding import (
    COMMIT,
    COMMIT_ENDING,
    COMMIT_REPLACING,
    COMMIT_REPLACING_TAKING,
    COMMIT_TAKING,
    COMMIT_TAKING_ENDING,
    COMMITS,
    Rows,
    Write,
    commit,
)
from aiodurable.checkpoints.fences import Fence
from aiodurable.checkpoints.write_session import WriteSession
from aiodurable.dsn import parse_dsn
from aiodurable.postgres.direct import DirectConnection
from aiodurable.postgres.text_columns import as_texts, over_texts


def batch(
    number: int, *, replace: bool = False, takes: str | None = None, ends: str | None = None
) -> tuple[str, list[Any]]:
    rows = Rows(
        blobs=[("t", "", "a", str(number), "msgpack", b"x")],
        checkpoints=[("t", "", str(number), None, "{}", "{}")],
        writes=[("t", "", str(number), "task", "", 0, "a", "msgpack", b"x")],
        replace=replace,
        consumes=takes,
        ends=ends,
    )
    return commit(
        [Write(WriteSession(Fence("t", 1)), rows, asyncio.get_running_loop().create_future(), 0.0)]
    )


@pytest.mark.parametrize(
    ("replace", "takes", "ends", "expected"),
    [
        (False, None, None, COMMIT),
        (True, None, None, COMMIT_REPLACING),
        (False, "run", None, COMMIT_TAKING),
        (True, "run", None, COMMIT_REPLACING_TAKING),
        (False, None, "run", COMMIT_ENDING),
        (False, "run", "other", COMMIT_TAKING_ENDING),
        (False, "run", "run", COMMIT_TAKING),
        (True, None, "run", COMMIT_REPLACING),
    ],
)
async def test_the_commit_is_planned_once_for_all_batches(
    dsn: str, replace: bool, takes: str | None, ends: str | None, expected: str
) -> None:
    link = DirectConnection(parse_dsn(dsn), role="test", connect_timeout_s=10.0)
    await link.fetch("INSERT INTO aiodurable_fences (thread_id, token) VALUES ('t', 1)")
    for number in range(10):
        statement, parameters = batch(number, replace=replace, takes=takes, ends=ends)
        assert statement == expected
        statement, parameters = as_texts(statement, parameters)
        assert [row[0] for row in await link.fetch(statement, *parameters)] == ["t"]
    [plans] = await link.fetch(
        "SELECT generic_plans, custom_plans FROM pg_prepared_statements"
        " WHERE statement LIKE '%SKIP LOCKED%' AND statement NOT LIKE '%generic%'"
    )
    assert tuple(plans) == (10, 0)
    link.drop()


@pytest.mark.parametrize("query", COMMITS)
async def test_the_commit_finds_a_fence_by_its_key_also_in_an_empty_table(
    dsn: str, query: str
) -> None:
    link = DirectConnection(parse_dsn(dsn), role="test", connect_timeout_s=10.0)
    types = [
        "text[]",
        "bigint[]",
        "bigint[]",
        "bytea",
        *["text[]"] * 5,
        "bigint[]",
        *["text[]"] * 4,
        "jsonb[]",
        "jsonb[]",
    ]
    types += [*["text[]"] * 5, "int[]", "text[]", "text[]", "bigint[]"] * (
        2 if "replaced AS" in query else 1
    )
    types += [*["text[]"] * 4, "int[]", "text[]", "bigint[]"] * ("lost AS" in query)
    types += ["text[]"] * (2 if "consumed AS" in query else 0)
    types += ["text[]", "text[]", "bigint[]", "text[]"] * (" ended AS" in query)
    over, columns = over_texts(query)
    sent = ["text" if number in columns else kind for number, kind in enumerate(types)]
    for name, kinds, statement in (("arrays", types, query), ("texts", sent, over)):
        await link.fetch(f"PREPARE {name} ({', '.join(kinds)}) AS {statement}")
        nulls = ", ".join(["NULL"] * len(types))
        plan = "\n".join(row[0] for row in await link.fetch(f"EXPLAIN EXECUTE {name} ({nulls})"))
        assert "aiodurable_fences_pkey" in plan
        assert "Seq Scan" not in plan
    link.drop()
