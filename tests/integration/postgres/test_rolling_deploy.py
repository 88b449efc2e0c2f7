"""The next release's migration runs while processes of this one are at work: no column that it adds
breaks them.
"""

from __future__ import annotations

import psycopg
import pytest

from aiodurable.durable import Durable
from aiodurable.errors import WorkflowExecutionError
from tests.support.plan_statements import TABLES
from tests.support.scenario_graphs import BREAKS, GRAPHS

INPUT = {"xs": []}


async def every_verb(durable: Durable, thread_id: str) -> None:
    """Starts, fails, resumes, completes and reads: each statement on our tables, at least once."""
    graph = GRAPHS["linear"](None)
    BREAKS.add("b")
    async with durable.run(thread_id, graph, run_id=f"{thread_id}-run") as run:
        with pytest.raises(ValueError, match="b is broken"):
            await run.ainvoke(INPUT)
    BREAKS.clear()
    await durable.threads.retry(thread_id, graph)
    async with durable.run(thread_id, graph, run_id=f"{thread_id}-run") as run:
        await run.ainvoke(INPUT)
    with pytest.raises(WorkflowExecutionError):
        await durable.threads.retry(thread_id, graph)
    await durable.threads.fork(thread_id, f"{thread_id}-fork")
    assert [step async for step in durable.threads.history(thread_id)]
    assert [thread async for thread in durable.threads.search(prefix=thread_id)]


async def test_a_column_added_to_our_tables_breaks_no_running_process(dsn: str) -> None:
    async with Durable(dsn) as durable:
        await every_verb(durable, "before")
        with psycopg.connect(dsn, autocommit=True) as connection:
            for table in TABLES:
                if table.startswith("aiodurable_"):
                    connection.execute(
                        f"ALTER TABLE {table} ADD COLUMN of_the_next_release text DEFAULT ''".encode()
                    )
        await every_verb(durable, "after")
