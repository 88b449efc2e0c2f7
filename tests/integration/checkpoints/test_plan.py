"""The commit is planned once, and finds fences by their key."""

import asyncio
import re
from collections.abc import Sequence
from typing import Any

import pytest

from aiodurable.checkpoints.encoding import (
    COMMIT,
    COMMIT_ENDING,
    COMMIT_ONE,
    COMMIT_ONE_ENDING,
    COMMIT_ONE_TAKING,
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
    threads: Sequence[str],
    number: int,
    *,
    replace: bool = False,
    takes: str | None = None,
    ends: str | None = None,
) -> tuple[str, list[Any]]:
    """A step of each thread; the first one takes and ends runs."""
    writes: list[Write] = []
    for thread in threads:
        rows = Rows(
            blobs=[(thread, "", "a", str(number), "msgpack", b"x")],
            checkpoints=[(thread, "", str(number), None, "{}", "{}")],
            writes=[(thread, "", str(number), "task", "", 0, "a", "msgpack", b"x")],
            replace=replace,
            consumes=takes if thread == threads[0] else None,
            ends=ends if thread == threads[0] else None,
        )
        done = asyncio.get_running_loop().create_future()
        writes.append(Write(WriteSession(Fence(thread, 1)), rows, done, 0.0))
    return commit(writes)


@pytest.mark.parametrize(
    ("replace", "takes", "ends", "of_one", "of_several"),
    [
        (False, None, None, COMMIT_ONE, COMMIT),
        (True, None, None, COMMIT_REPLACING, COMMIT_REPLACING),
        (False, "run", None, COMMIT_ONE_TAKING, COMMIT_TAKING),
        (True, "run", None, COMMIT_REPLACING_TAKING, COMMIT_REPLACING_TAKING),
        (False, None, "run", COMMIT_ONE_ENDING, COMMIT_ENDING),
        (False, "run", "other", COMMIT_TAKING_ENDING, COMMIT_TAKING_ENDING),
        (False, "run", "run", COMMIT_ONE_TAKING, COMMIT_TAKING),
        (True, None, "run", COMMIT_REPLACING, COMMIT_REPLACING),
    ],
)
@pytest.mark.parametrize("threads", [("t",), ("t", "u")], ids=["one", "several"])
async def test_the_commit_is_planned_once_for_all_batches(
    dsn: str,
    threads: Sequence[str],
    replace: bool,
    takes: str | None,
    ends: str | None,
    of_one: str,
    of_several: str,
) -> None:
    link = DirectConnection(parse_dsn(dsn), role="test", connect_timeout_s=10.0)
    await link.fetch("INSERT INTO aiodurable_fences (thread_id, token) VALUES ('t', 1), ('u', 1)")
    for number in range(10):
        statement, parameters = batch(threads, number, replace=replace, takes=takes, ends=ends)
        assert statement == (of_several if threads[1:] else of_one)
        statement, parameters = as_texts(statement, parameters)
        written = {row[0] for row in await link.fetch(statement, *parameters)}
        assert written == set(threads)
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
    over, _ = over_texts(query)
    for name, statement in (("arrays", query), ("texts", over)):
        await link.fetch(f"PREPARE {name} AS {statement}")
        count = max(map(int, re.findall(r"\$(\d+)", statement)))
        nulls = ", ".join(["NULL"] * count)
        plan = "\n".join(row[0] for row in await link.fetch(f"EXPLAIN EXECUTE {name} ({nulls})"))
        assert "aiodurable_fences_pkey" in plan
        assert "Seq Scan" not in plan
    link.drop()
