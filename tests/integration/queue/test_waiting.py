"""A caller that waited for a run finds its thread free, and waits on where a connection ends."""

from __future__ import annotations

import asyncio
from typing import Any

import asyncpg
import psycopg
import pytest
from psycopg.conninfo import conninfo_to_dict

from aiodurable.durable import Durable
from aiodurable.errors import RunCancelledError
from aiodurable.models import RunRecord
from aiodurable.queue.records import queued_record
from aiodurable.runs.lease import ThreadLease
from aiodurable.settings import Settings
from tests.support.graphs import INPUT, Gate, four_nodes
from tests.support.ledger_view import Ledger
from tests.support.waiting import is_held, wait_until

let_go = ThreadLease.release
END_BLOCKED = """
SELECT pg_terminate_backend(pid) FROM pg_stat_activity
WHERE datname = %s AND wait_event_type = 'Lock' AND query LIKE '%%r.run_id = ANY%%'
"""
"""Ends the backend of a look that waits for the table."""


async def test_a_wait_lasts_until_the_process_of_the_run_has_left_the_thread(
    dsn: str, ledger: Ledger, monkeypatch: pytest.MonkeyPatch
) -> None:
    gate, looked, may_leave = Gate("tell"), asyncio.Event(), asyncio.Event()

    def noted(row: Any) -> RunRecord:
        looked.set()
        return queued_record(row)

    async def late(lease: ThreadLease) -> None:
        await may_leave.wait()
        await let_go(lease)

    monkeypatch.setattr(ThreadLease, "release", late)
    monkeypatch.setattr("aiodurable.queue.waiting.queued_record", noted)
    monkeypatch.setattr("aiodurable.queue.waiting._LEAVES_S", 60.0)
    async with Durable(dsn, settings=Settings(), graphs={"four": four_nodes(gate)}) as durable:
        async with durable.work():
            run = await durable.runs.create("t", "four", INPUT)
            await gate.reached.wait()
            waiting = asyncio.create_task(durable.runs.wait(run.run_id))
            await looked.wait()  # a call that finds the run complete at once does not wait
            gate.open.set()

            async def complete() -> bool:
                return await ledger.statuses("t") == ["complete"]

            await wait_until(complete)
            done, _ = await asyncio.wait({waiting}, timeout=0.6)
            assert not done
            may_leave.set()
            assert (await waiting)["told"] == "collect sort weigh tell"
            assert not await is_held(durable, "t")


async def test_a_wait_outlives_the_connection_on_which_it_looks(
    durable: Durable, db: asyncpg.Connection, dsn: str, admin: psycopg.Connection[Any]
) -> None:
    run = await durable.runs.create("t", "four", INPUT)
    waiting = asyncio.create_task(durable.runs.wait(run.run_id))
    async with db.transaction():
        await db.execute("LOCK TABLE aiodurable_runs")
        database = conninfo_to_dict(dsn)["dbname"]
        await wait_until(lambda: admin.execute(END_BLOCKED, [database]).fetchall())
    await durable.runs.cancel(run.run_id)
    with pytest.raises(RunCancelledError):
        await waiting
