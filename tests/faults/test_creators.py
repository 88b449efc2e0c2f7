"""A process that accepts runs is killed: what it has seen accepted is there, and no part of
anything else.
"""

from __future__ import annotations

from asyncio.subprocess import PIPE
from typing import Any

import psycopg
import pytest

from tests.support.forked import python

CREATOR = """
import asyncio, sys
import asyncpg
from aiodurable import Durable, NewRun

async def main(dsn, kind):
    async with Durable(dsn) as durable:
        connection = await asyncpg.connect(dsn)
        for n in range(10**6):
            if kind == "one":
                runs = [await durable.runs.create(f"t{n}", "chain", {"xs": []}, run_id=f"r{n}-0")]
            elif kind == "many":
                runs = await durable.runs.create_many(
                    NewRun(thread_id=f"t{n}", graph="chain", input={"xs": []}, run_id=f"r{n}-{k}")
                    for k in range(50)
                )
            else:
                async with connection.transaction():
                    runs = [
                        await durable.runs.create(
                            f"t{n}", "chain", {"xs": []}, run_id=f"r{n}-{k}", conn=connection
                        )
                        for k in range(3)
                    ]
            print(n, len(runs), flush=True)

asyncio.run(main(*sys.argv[1:]))
"""


@pytest.mark.parametrize("kind", ["one", "many", "in a transaction"])
async def test_a_killed_creator_has_accepted_what_returned_and_no_half_of_a_call(
    dsn: str, kind: str
) -> None:
    creator = await python("-c", CREATOR, dsn, kind, stdout=PIPE)
    assert creator.stdout is not None
    lines = [await creator.stdout.readline() for _ in range(30)]
    creator.kill()
    lines += (await creator.stdout.read()).splitlines()
    await creator.wait()
    returned = {int(line.split()[0]) for line in lines if len(line.split()) == 2}
    size = {"one": 1, "many": 50}.get(kind, 3)
    found = await _accepted(dsn)
    assert returned <= found.keys()
    assert len(found.keys() - returned) <= 1  # the call whose answer it did not live to see
    assert set(found.values()) == {size}


async def _accepted(dsn: str) -> dict[int, int]:
    """Rows by the number of their call, once no transaction of the creator's is open."""
    query: Any = """
        SELECT split_part(substr(run_id, 2), '-', 1)::integer, count(*)
        FROM aiodurable_runs
        WHERE status = 'queued' AND input IS NOT NULL AND claim_state IN ('ready', 'blocked')
        GROUP BY 1"""
    with psycopg.connect(dsn) as connection:
        # the creator's backends may be in the middle of their last statement
        connection.execute("LOCK TABLE aiodurable_runs IN SHARE MODE")
        return dict(connection.execute(query).fetchall())
