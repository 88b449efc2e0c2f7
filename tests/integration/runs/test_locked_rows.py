"""A transaction of somebody's that has locked the row of a run holds no checkpoint up, as one with
`runs.create(on_busy="interrupt", conn=…)` does until it ends.
"""

from __future__ import annotations

import asyncio

import asyncpg

from aiodurable.durable import Durable
from tests.support.graphs import Gate, run_up_to
from tests.support.ledger_view import Ledger
from tests.support.lock_view import WAITING
from tests.support.waiting import wait_until, within


async def test_a_first_checkpoint_does_not_wait_for_the_row_whose_input_it_consumes(
    dsn: str, durable: Durable, ledger: Ledger
) -> None:
    gate = Gate("collect")
    connection, table = await asyncpg.connect(dsn), await asyncpg.connect(dsn)
    try:
        async with connection.transaction():
            async with table.transaction():
                await table.execute("LOCK checkpoints IN SHARE MODE")
                running = asyncio.create_task(run_up_to(gate, durable))
                await wait_until(lambda: table.fetchval(WAITING), what="the first checkpoint")
                await connection.execute("SELECT FROM aiodurable_runs FOR UPDATE")
            ended = await within(30, running, what="the first checkpoint")
            [row] = await ledger.rows("t")
            assert not row["consumed"]
            assert (await durable.threads.status("t")).step == 0
        gate.open.set()
        await within(30, ended, what="the end of the run")
    finally:
        await connection.close()
        await table.close()
    [row] = await ledger.rows("t")
    assert (row["status"], row["consumed"]) == ("complete", True)


async def test_a_last_checkpoint_does_not_wait_for_the_row_that_it_ends(
    dsn: str, durable: Durable, ledger: Ledger
) -> None:
    gate = Gate("tell")
    running = await run_up_to(gate, durable)

    async def has_ended() -> bool:
        return (await durable.threads.status("t")).step == 4

    connection = await asyncpg.connect(dsn)
    try:
        async with connection.transaction():
            await connection.execute("SELECT FROM aiodurable_runs FOR UPDATE")
            gate.open.set()
            await wait_until(has_ended, 10, what="the last checkpoint")
            assert await ledger.statuses("t") == ["running"]
        await within(30, running, what="the end of the run")
    finally:
        await connection.close()
    assert await ledger.statuses("t") == ["complete"]
